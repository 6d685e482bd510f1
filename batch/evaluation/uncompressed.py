"""The model without any compression: transformers' own forward over every slot.

The yardstick. Shares with the product the family's layout and vision features, and nothing of
the plan, the tiers or the attention over them.
"""

import copy
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from batch.evaluation.attention_mass import OBSERVED, AttentionMass, install
from batch.models import Family


@torch.inference_mode()
def embed(family: Family, pictures: NDArray[np.uint8]) -> Tensor:
    """Embeddings [slots, hidden] of the prefix of all samples [samples, height, width, 3]."""
    layout = family.layout(len(pictures))
    tokens = torch.from_numpy(layout.token_ids).long()
    embedded = family.text_embeddings(tokens.to(family.model.device))
    is_cell = torch.from_numpy(layout.cell >= 0)
    embedded[is_cell] = family.features(pictures).flatten(0, 1).to(embedded.dtype)
    return embedded


class Uncompressed:
    """Answers from a full KV cache that transformers filled.

    `encode_seconds` and `forward_seconds` are what the vision tower and the decoder took.
    """

    def __init__(
        self, family: Family, pictures: NDArray[np.uint8], *, mass: AttentionMass | None = None
    ) -> None:
        """Run the prefix of all samples, uint8 RGB [samples, height, width, 3].

        Args:
            mass: told of the attention in every layer.
        """
        self._family = family
        self._samples = len(pictures)
        observe = {} if mass is None else {"mass": mass}
        install()
        family.language_model.set_attn_implementation(OBSERVED if observe else "sdpa")
        started = time.perf_counter()
        with torch.inference_mode():
            embedded = embed(family, pictures)
            encoded = time.perf_counter()
            self._prefix = DynamicCache(config=family.config.get_text_config(decoder=True))
            family.language_model(
                inputs_embeds=embedded[None],
                past_key_values=self._prefix,
                use_cache=True,
                **observe,
            )
        self.encode_seconds = encoded - started
        self.forward_seconds = time.perf_counter() - encoded
        family.language_model.set_attn_implementation("sdpa")

    def rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """Key and value of the prefix, [kv_heads, slots, head_dim]; not copied."""
        held = self._prefix.layers[layer]
        if not isinstance(held, DynamicLayer) or held.keys is None or held.values is None:
            raise TypeError(f"layer {layer}: got {type(held).__name__}, expected plain K and V")
        return held.keys[0], held.values[0]

    @torch.inference_mode()
    def next_token_scores(self, question: str) -> Tensor:
        """Scores of the first token of the answer, float32 [vocabulary]."""
        ids = self._family.question_ids(question, self._samples)
        return self._step(ids, copy.deepcopy(self._prefix)).float()

    def ask(self, questions: Iterable[str], *, max_new_tokens: int = 64) -> list[str]:
        """Answer greedily, one question after another."""
        return [self._answer(question, max_new_tokens) for question in questions]

    @torch.inference_mode()
    def _answer(self, question: str, max_new_tokens: int) -> str:
        cache = copy.deepcopy(self._prefix)
        step: Sequence[int] = self._family.question_ids(question, self._samples)
        tokens: list[int] = []
        while len(tokens) < max_new_tokens:
            tokens.append(int(self._step(step, cache).argmax()))
            if tokens[-1] in self._family.stop_ids:
                break
            step = tokens[-1:]
        text: str = self._family.checkpoint.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()

    def _step(self, ids: Sequence[int], cache: DynamicCache) -> Tensor:
        tokens = torch.tensor(ids, device=self._family.model.device)
        embedded = self._family.text_embeddings(tokens)[None]
        hidden = self._family.language_model(
            inputs_embeds=embedded, past_key_values=cache, use_cache=True
        ).last_hidden_state
        return self._family.logits(hidden[0, -1])
