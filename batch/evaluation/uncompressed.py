"""The model without any compression: transformers' own forward over every slot.

The yardstick. Shares with the product the family's layout and vision features, and nothing of
the plan, the tiers or the attention over them. On the way it can sum the attention that each row
gets, for methods that evict by it. Knows transformers' attention interface (5.23).
"""

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from batch.kv import CACHE_KEYWORD
from batch.models import Family
from batch.video import Footage, Sampling, geometry_for, probe, read_samples

OBSERVED = "observed"
"""Name of our attention function in transformers' interface; the model is called with `masses`."""


@dataclass
class AttentionMass:
    """Sums the attention that rows get from the last `queries` of a prompt, None: from all.

    `of_layers` is float32 [kv_heads, rows] a layer, summed over the queries and over the query
    heads that share a key head. At most `scores_held` scores are in memory, 64 MiB.
    """

    queries: int | None
    scores_held: int = 1 << 24
    of_layers: list[Tensor] = field(default_factory=list, init=False)

    def add(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Observe the next layer: query [1, heads, n, head_dim], key [1, kv_heads, n, head_dim]."""
        kv_heads, rows, head_dim = key.shape[1:]
        grouped = query[0].view(kv_heads, -1, rows, head_dim)
        first = 0 if self.queries is None else max(0, rows - self.queries)
        step = max(1, self.scores_held // (query.shape[1] * rows))
        total = torch.zeros(kv_heads, rows, device=key.device)
        place = torch.arange(rows, device=key.device)
        for start in range(first, rows, step):
            block = grouped[:, :, start : start + step]
            scores = (block @ key[0, :, None].transpose(-1, -2)).float() * scaling
            hidden = place > place[start : start + step, None]
            weights = scores.masked_fill_(hidden, -torch.inf).softmax(dim=-1)
            total += weights.sum(dim=(1, 2))
        self.of_layers.append(total)


@contextmanager
def own_attention(family: Family, implementation: str = "sdpa") -> Iterator[None]:
    """Let the decoder attend as transformers does; afterwards it attends over tiers again."""
    family.language_model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        family.attend_over_tiers()


@torch.inference_mode()
def embed(family: Family, pictures: NDArray[np.uint8], footage: Footage) -> Tensor:
    """Embeddings [slots, hidden] of pictures, uint8 RGB [samples, frames * height, width, 3]."""
    layout = family.layout(footage)
    tokens = torch.from_numpy(layout.token_ids).long()
    embedded = family.text_embeddings(tokens.to(family.device))
    features = family.features(pictures, footage.geometry)
    embedded[torch.from_numpy(layout.cell >= 0)] = features.flatten(0, 1).to(embedded.dtype)
    return embedded


class Uncompressed:
    """Answers from a full KV cache that transformers filled; other caches can answer in turn.

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
        """Run the prefix of all samples, given as to `embed`; `mass` observes every layer."""
        self._family = family
        started = time.perf_counter()
        layout = family.layout(footage)
        embedded = embed(family, pictures, footage)
        encoded = time.perf_counter()
        self._prefix = DynamicCache(config=family.config.get_text_config(decoder=True))
        positions = torch.from_numpy(layout.positions.T)
        observed = {} if mass is None else {"masses": [mass]}
        with own_attention(family, "sdpa" if mass is None else OBSERVED), torch.inference_mode():
            self._run(embedded, positions, self._prefix, **observed)
        self._start = torch.tensor(layout.next_position)[:, None]
        self.encode_seconds = encoded - started
        self.forward_seconds = time.perf_counter() - encoded

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
        with own_attention(self._family):
            return self._step(ids, copy.deepcopy(self._prefix)).float()

    def ask_all(self, questions: Iterable[str], *, max_new_tokens: int = 64) -> list[str]:
        """Answer greedily, one question after another."""
        with own_attention(self._family):
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
        **observed: list[AttentionMass],
    ) -> Tensor:
        """Last states [new, hidden] of embeddings [new, hidden] at positions [axes, new]."""
        positions = positions.long().to(embedded.device)
        output = self._family.language_model(
            inputs_embeds=embedded[None],
            position_ids=positions if len(positions) == 1 else positions[:, None],
            use_cache=True,
            **{CACHE_KEYWORD: cache},
            **observed,
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden


def uncompressed_film(family: Family, film: Path, max_samples: int | None = None) -> Uncompressed:
    """Decode a film, a sample a second or `max_samples` evenly over it, and run all of it."""
    sampling = Sampling(max_samples=max_samples)
    geometry = geometry_for(family.geometry, probe(film), sampling)
    samples = read_samples(film, geometry=geometry, max_samples=max_samples)
    pictures = np.stack([sample.rgb for sample in samples])
    return Uncompressed(family, pictures, Footage.steady(geometry, len(pictures)))


def _observed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    masses: Iterable[AttentionMass],
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' SDPA does, causally, and let `masses` observe.

    The layers of one prompt must come in order and in one piece.
    """
    for mass in masses:
        mass.add(query, key, scaling)
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    output: Tensor = attend(module, query, key, value, attention_mask, scaling=scaling, **kwargs)[0]
    return output, None


AttentionInterface.register(OBSERVED, _observed_attention)
