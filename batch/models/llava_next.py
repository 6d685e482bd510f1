"""LLaVA-1.6 (`llava_next`): a sample is the base image alone.

The processor always adds high-resolution tiles to the base image; for a video they would cost
up to five times the tokens. A sample is the base image (576 cells at 336 px) and then the
newline embedding, the layout of the single-tile branch of transformers' `pack_image_features`.
"""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from batch.errors import ModelError
from batch.models.checkpoint import Checkpoint
from batch.models.family import Family, Layout
from batch.video.geometry import Geometry


class LlavaNext(Family):
    """LLaVA-1.6 with any decoder that the Auto classes load."""

    model_type: ClassVar[str] = "llava_next"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        if self.config.vision_feature_select_strategy != "default":
            raise ModelError(
                f"{checkpoint.name}: vision_feature_select_strategy is "
                f"{self.config.vision_feature_select_strategy!r}, supported is 'default'"
            )
        self._image_id: int = self.config.image_token_id

    @cached_property
    def geometry(self) -> Geometry:
        vision = self.config.vision_config
        images = self.checkpoint.processor.image_processor
        side = images.size.get("shortest_edge") or images.size.get("height")
        if side != vision.image_size:
            raise ModelError(
                f"{self.checkpoint.name}: the processor makes pictures of {side} px, "
                f"the vision tower expects {vision.image_size}"
            )
        cells = vision.image_size // vision.patch_size
        return Geometry(
            height_px=side,
            width_px=side,
            rows=cells,
            columns=cells,
            fit="stretch",
            resample=Image.Resampling(images.resample).name.lower(),  # type: ignore[arg-type]  # checked there
        )

    def layout(self, samples: int) -> Layout:
        ids = self._conversation_ids("", samples)
        pictures = np.flatnonzero(ids == self._image_id)
        ids = ids[: pictures[-1] + 1]
        cells = self.geometry.cells
        is_picture = ids == self._image_id
        repeats = np.where(is_picture, cells + 1, 1)
        token_ids = np.repeat(ids, repeats)
        # Text before a picture belongs to it, text before the first picture to no sample.
        sample = np.repeat(np.cumsum(is_picture) - is_picture, repeats)
        sample[: pictures[0]] = -1
        cell = np.full(len(token_ids), -1)
        cell[token_ids == self._image_id] = np.tile(np.append(np.arange(cells), -1), samples)
        return Layout(
            token_ids=token_ids.astype(np.int32),
            sample=sample.astype(np.int32),
            cell=cell.astype(np.int32),
            positions=np.arange(len(token_ids), dtype=np.int32)[:, None],
            next_position=(len(token_ids),),
        )

    def question_ids(self, question: str, samples: int) -> list[int]:
        ids = self._conversation_ids(question, samples)
        last = np.flatnonzero(ids == self._image_id)[-1]
        return [int(token) for token in ids[last + 1 :]]

    def features(self, pictures: NDArray[np.uint8]) -> Tensor:
        inner = self.model.model
        tower = inner.vision_tower
        states = tower(self._pixels(pictures), output_hidden_states=True).hidden_states
        layers = self.config.vision_feature_layer
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        features: Tensor = inner.multi_modal_projector(torch.cat(chosen, dim=-1)[:, 1:])
        return features

    def text_embeddings(self, token_ids: Tensor) -> Tensor:
        inner = self.model.model
        embedded: Tensor = inner.get_input_embeddings()(token_ids)
        newline = inner.image_newline.to(embedded.dtype)
        return torch.where((token_ids == self._image_id)[:, None], newline, embedded)

    @property
    def language_model(self) -> PreTrainedModel:
        decoder: PreTrainedModel = self.model.model.language_model
        return decoder

    def _pixels(self, pictures: NDArray[np.uint8]) -> Tensor:
        images = self.checkpoint.processor.image_processor
        device, dtype = self.model.device, self.model.dtype
        pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2)
        mean = torch.tensor(images.image_mean, device=device)[:, None, None]
        deviation = torch.tensor(images.image_std, device=device)[:, None, None]
        normal: Tensor = (pixels * images.rescale_factor - mean) / deviation
        return normal.to(dtype)

    def _conversation_ids(self, question: str, samples: int) -> NDArray[np.int64]:
        """Tokenise the whole conversation, one image token a sample."""
        content = [{"type": "image"}] * samples + [{"type": "text", "text": question}]
        conversation: list[dict[str, Any]] = [{"role": "user", "content": content}]
        text = self.checkpoint.processor.apply_chat_template(
            conversation, add_generation_prompt=True
        )
        tokenizer = self.checkpoint.tokenizer
        opened = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        ids = np.asarray(tokenizer(text, add_special_tokens=not opened).input_ids)
        found = int((ids == self._image_id).sum())
        if found != samples:
            raise ModelError(
                f"{self.checkpoint.name}: the chat template gives {found} image tokens for "
                f"{samples} pictures"
            )
        return ids
