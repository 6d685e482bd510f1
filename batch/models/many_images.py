"""What LLaVA-1.5 and 1.6 share: a video is the multi-image conversation of their chat template.

An image token for each sample, and what the template puts between them; times, where they are
wanted, stand before each. Knows no family.
"""

from typing import ClassVar

from batch.models.checkpoint import Checkpoint
from batch.models.family import Family, Layout, Slots
from batch.models.prompt import before_pictures, split_before_first, texts_around
from batch.video import Footage


class ManyImages(Family):
    """A LLaVA model to which every sample is an image of its own."""

    no_timestamps: ClassVar[str | None] = None

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.require(vision_feature_select_strategy="default")
        self.picture_id = self.config.image_token_id

    @property
    def behind_cells(self) -> list[int]:
        """Token ids of what closes the cells of each sample."""
        return []

    def layout(self, footage: Footage) -> Layout:
        text = self.conversation_text([{"type": "image"}] * len(footage))
        ids = self.token_ids(before_pictures(text, self.placeholder, self.times(footage)))
        first, *others, _ = texts_around(self.checkpoint.name, ids, self.picture_id, len(footage))
        before, of_first = split_before_first(first, self.texts_around_only("image")[0])
        slots = Slots()
        slots.text(before)
        for sample, text_before in enumerate([of_first, *others]):
            slots.text(text_before, sample)
            slots.cells(self.picture_id, sample, footage.geometry.cells)
            slots.text(self.behind_cells, sample)
        return slots.layout()

    def question_ids(self, question: str) -> list[int]:
        return [int(i) for i in self.texts_around_only("image", question)[1]]
