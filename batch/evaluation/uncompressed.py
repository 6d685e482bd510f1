"""The model without any compression: transformers' own forward over every slot.

The yardstick. Shares with the product the family's layout and vision features, and nothing of
the plan, the tiers or the attention over them.
"""

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from batch.models import Family
from batch.video import Footage


class Uncompressed:
    """Answers from a full KV cache that transformers filled."""

    def __init__(self, family: Family, pictures: NDArray[np.uint8], footage: Footage) -> None:
        """Run the prefix of all samples, uint8 RGB [samples, frames * height, width, 3]."""
        self._family = family
        family.language_model.set_attn_implementation("sdpa")
        layout = family.layout(footage)
        with torch.inference_mode():
            tokens = torch.from_numpy(layout.token_ids).long()
            embedded = family.text_embeddings(tokens.to(family.device))
            is_cell = torch.from_numpy(layout.cell >= 0)
            features = family.features(pictures, footage.geometry)
            embedded[is_cell] = features.flatten(0, 1).to(embedded.dtype)
            self._prefix = DynamicCache(config=family.config.get_text_config(decoder=True))
            self._run(embedded, torch.from_numpy(layout.positions.T), self._prefix)
        self._start = torch.tensor(layout.next_position)[:, None]

    @torch.inference_mode()
    def next_token_scores(self, question: str) -> Tensor:
        """Scores of the first token of the answer, float32 [vocabulary]."""
        ids = self._family.question_ids(question)
        return self._step(ids, copy.deepcopy(self._prefix)).float()

    def ask(self, questions: Iterable[str], *, max_new_tokens: int = 64) -> list[str]:
        """Answer greedily, one question after another."""
        return [self._answer(question, max_new_tokens) for question in questions]

    @torch.inference_mode()
    def _answer(self, question: str, max_new_tokens: int) -> str:
        cache = copy.deepcopy(self._prefix)
        step: Sequence[int] = self._family.question_ids(question)
        tokens: list[int] = []
        while len(tokens) < max_new_tokens:
            tokens.append(int(self._step(step, cache).argmax()))
            if tokens[-1] in self._family.stop_ids:
                break
            step = tokens[-1:]
        text: str = self._family.checkpoint.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()

    def _step(self, ids: Sequence[int], cache: DynamicCache) -> Tensor:
        tokens = torch.tensor(ids, device=self._family.device)
        asked = cache.get_seq_length() - self._prefix.get_seq_length()
        positions = self._start + asked + torch.arange(len(ids))
        hidden = self._run(self._family.text_embeddings(tokens), positions, cache)
        return self._family.logits(hidden[-1])

    def _run(self, embedded: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Last states [new, hidden] of embeddings [new, hidden] at positions [axes, new]."""
        positions = positions.long().to(embedded.device)
        output = self._family.language_model(
            inputs_embeds=embedded[None],
            position_ids=positions if len(positions) == 1 else positions[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden
