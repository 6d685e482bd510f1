"""The model without any compression: transformers' own forward over every slot.

The yardstick. Shares with the product the family's layout and vision features, and nothing of
the plan, the tiers or the attention over them.
"""

import copy
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from batch.evaluation.attention_mass import OBSERVED, AttentionMass, install
from batch.models import Family
from batch.video import Footage, Sampling, geometry_for, probe, read_samples


@torch.inference_mode()
def embed(family: Family, pictures: NDArray[np.uint8], footage: Footage) -> Tensor:
    """Embeddings [slots, hidden] of the prefix of all samples.

    Args:
        pictures: uint8 RGB [samples, frames * height, width, 3].
        footage: of the same samples.
    """
    layout = family.layout(footage)
    tokens = torch.from_numpy(layout.token_ids).long()
    embedded = family.text_embeddings(tokens.to(family.device))
    is_cell = torch.from_numpy(layout.cell >= 0)
    features = family.features(pictures, footage.geometry)
    embedded[is_cell] = features.flatten(0, 1).to(embedded.dtype)
    return embedded


class Uncompressed:
    """Answers from a full KV cache that transformers filled.

    `encode_seconds` and `forward_seconds` are what the vision tower and the decoder took.
    """

    def __init__(
        self,
        family: Family,
        pictures: NDArray[np.uint8],
        footage: Footage,
        *,
        mass: AttentionMass | None = None,
    ) -> None:
        """Run the prefix of all samples.

        Args:
            pictures: uint8 RGB [samples, frames * height, width, 3].
            footage: of the same samples.
            mass: told of the attention in every layer.
        """
        self._family = family
        install()
        family.language_model.set_attn_implementation("sdpa" if mass is None else OBSERVED)
        started = time.perf_counter()
        layout = family.layout(footage)
        embedded = embed(family, pictures, footage)
        encoded = time.perf_counter()
        self._prefix = DynamicCache(config=family.config.get_text_config(decoder=True))
        observed = {} if mass is None else {"mass": mass}
        with torch.inference_mode():
            positions = torch.from_numpy(layout.positions.T)
            self._run(embedded, positions, self._prefix, **observed)
        self._start = torch.tensor(layout.next_position)[:, None]
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
        ids = self._family.question_ids(question)
        return self._step(ids, copy.deepcopy(self._prefix)).float()

    def ask_all(self, questions: Iterable[str], *, max_new_tokens: int = 64) -> list[str]:
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

    def _run(
        self,
        embedded: Tensor,
        positions: Tensor,
        cache: DynamicCache,
        **observed: AttentionMass,
    ) -> Tensor:
        """Last states [new, hidden] of embeddings [new, hidden] at positions [axes, new]."""
        positions = positions.long().to(embedded.device)
        output = self._family.language_model(
            inputs_embeds=embedded[None],
            position_ids=positions if len(positions) == 1 else positions[:, None],
            past_key_values=cache,
            use_cache=True,
            **observed,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden


def uncompressed_film(
    family: Family, film: Path, *, max_samples: int | None = None
) -> Uncompressed:
    """Decode a film of a sample a second and run all of it.

    Args:
        max_samples: evenly over the film, if it has more.
    """
    geometry = geometry_for(family.geometry, probe(film), Sampling())
    samples = read_samples(film, geometry=geometry, max_samples=max_samples)
    pictures = np.stack([sample.rgb for sample in samples])
    return Uncompressed(family, pictures, Footage.steady(geometry, len(pictures)))
