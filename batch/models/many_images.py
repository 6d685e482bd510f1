"""What LLaVA-1.5 and 1.6 share: a video is the multi-image conversation of their chat template."""

from typing import ClassVar, Literal

from batch.models.family import Layout
from batch.models.pictures import SquareFamily
from batch.video import Footage


class ManyImages(SquareFamily):
    """A LLaVA model to which every sample is an image; its time, if wanted, stands before it."""

    kind: ClassVar[Literal["image", "video"]] = "image"
    picture_token: ClassVar[str] = "image_token_id"
    no_timestamps: ClassVar[str | None] = None
    required: ClassVar[dict[str, object]] = {"vision_feature_select_strategy": "default"}

    def layout(self, footage: Footage) -> Layout:
        behind = self.conversation_text([{"type": "image"}] * len(footage))
        text = ""
        for time in self.times(footage):
            before, picture, behind = behind.partition(self.placeholder)
            text += before + time + picture
        first, *others = self.texts_around(self.token_ids(text + behind), len(footage))
        newline = [self.picture_id] * self.has_newline
        return self.lay_out_frames(
            [first, *([*newline, *other] for other in others)],
            self.texts_around_only()[0],
            footage,
            closing=len(newline),
        )
