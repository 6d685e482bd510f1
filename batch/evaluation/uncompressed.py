"""The model without any compression: transformers' own forward over every slot.

The yardstick. Shares with the product the family's layout and vision features, and nothing of
the plan, the tiers or the attention over them. On the way it can sum up the attention that each
row gets, and it answers from rows as methods leave them, however those differ by layer and head:
what is gone is masked, not cut out, so its memory says nothing of a method's. Knows transformers'
attention interface (5.23).
"""

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from batch.answering.evidence import NEUTRAL
from batch.evaluation.methods.row_method import Attention, Queries
from batch.kv import CACHE_KEYWORD
from batch.models import Family
from batch.video import Footage, Sampling, geometry_for, probe, read_samples

OBSERVED = "observed"
"""Our attention function in transformers' interface; called with `masses`, perhaps `biases`."""


@dataclass
class AttentionMass:
    """Sums up the attention that rows get from some queries of a pass.

    `of_layers` is float32 [kv_heads, rows] a layer, over the queries and over the query heads that
    share a key head, as `queries.of` says. At most `scores_held` scores are in memory, 64 MiB.
    """

    queries: Queries
    scores_held: int = 1 << 24
    of_layers: list[Tensor] = field(default_factory=list, init=False)
    squares: list[Tensor] = field(default_factory=list, init=False)
    echoes: list[Tensor] = field(default_factory=list, init=False)

    def add(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Observe the next layer: query [1, heads, n, head_dim], key [1, kv_heads, rows, head_dim].

        The queries are of the last n rows.
        """
        kv_heads, rows, head_dim = key.shape[1:]
        new = query.shape[2]
        grouped = query[0].view(kv_heads, -1, new, head_dim)
        first = 0 if self.queries.last is None else max(0, new - self.queries.last)
        step = max(1, self.scores_held // (query.shape[1] * rows))
        total = torch.zeros(kv_heads, rows, device=key.device)
        seen_by = torch.zeros(rows, device=key.device)
        echo = torch.zeros(kv_heads, grouped.shape[1], device=key.device)
        place = torch.arange(rows, device=key.device)
        for start in range(first, new, step):
            own = place[start : start + step][: new - start]
            visible = place <= own[:, None] + rows - new
            scores = (grouped[:, :, own] @ key[0, :, None].transpose(-1, -2)).float() * scaling
            weights = scores.masked_fill_(~visible, -torch.inf).softmax(dim=-1)
            seen_by += visible.sum(0)
            if self.queries.of == "max":
                total = total.maximum(weights.amax(dim=(1, 2)))
            elif self.queries.of == "weak":
                total += ((weights < 1 / visible.sum(-1, keepdim=True)) & visible).sum(dim=(1, 2))
            else:
                total += weights.sum(dim=(1, 2))
            if self.queries.source == "again":
                for behind in (0, 1):
                    copied = (own + behind).clamp(max=new - 1)[:, None]
                    copied = copied.expand(*weights.shape[:-1], 1)
                    echo += weights.gather(-1, copied).sum(dim=(2, 3)) / new
        if self.queries.of == "weak":
            total /= seen_by * grouped.shape[1]
        self.of_layers.append(total)
        self.squares.append(grouped[:, :, first:].float().square().mean(dim=(1, 2)))
        self.echoes.append(echo.amax(1))

    def attention(self, rows: int) -> Attention:
        """What was observed of the first rows, on the CPU."""
        return Attention(
            torch.stack([weight[:, :rows].cpu() for weight in self.of_layers]),
            torch.stack([square.cpu() for square in self.squares]),
            torch.stack([echo.cpu() for echo in self.echoes]),
        )


@contextmanager
def own_attention(family: Family, implementation: str = "sdpa") -> Iterator[None]:
    """Let the decoder attend as transformers does; afterwards it attends over tiers again."""
    family.language_model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        family.attend_over_tiers()


@torch.inference_mode()
def embed(
    family: Family,
    pictures: NDArray[np.uint8],
    footage: Footage,
    *,
    features: Tensor | None = None,
) -> Tensor:
    """Embeddings [slots, hidden] of pictures, uint8 RGB [samples, frames * height, width, 3].

    features: of the cells [samples, cells, hidden], where they are there already.
    """
    layout = family.layout(footage)
    tokens = torch.from_numpy(layout.token_ids).long()
    embedded = family.text_embeddings(tokens.to(family.device))
    if features is None:
        features = family.features(pictures, footage.geometry)
    embedded[torch.from_numpy(layout.cell >= 0)] = features.flatten(0, 1).to(embedded)
    return embedded


class RowAnswerer:
    """Answers behind rows in a cache of transformers, which may count more or less than once."""

    def __init__(
        self, family: Family, next_position: tuple[int, ...], times: Tensor | None = None
    ) -> None:
        """Begin without rows.

        times: how often each row counts that will be there, [layers, kv_heads, rows], 0: not.
        """
        self._family = family
        self._prefix = DynamicCache(config=family.config.get_text_config(decoder=True))
        self._start = torch.tensor(next_position)[:, None]
        self._biases = None if times is None else [layer.log() for layer in times]

    def fill(self, key: Tensor, value: Tensor) -> None:
        """Take rows [layers, rows, kv_heads, head_dim], keys rotated."""
        dtype = self._family.model.dtype
        for layer, device in enumerate(self._family.layer_devices):
            states = [one[layer].transpose(0, 1)[None].to(device, dtype) for one in (key, value)]
            self._prefix.update(states[0], states[1], layer)

    def read(
        self, embedded: Tensor, positions: Tensor, masses: Sequence[AttentionMass] = ()
    ) -> None:
        """Let the decoder make the rows of embeddings [new, hidden] at positions [axes, new]."""
        with torch.inference_mode():
            self._run(embedded, positions, self._prefix, masses)

    def observe(self, embedded: Tensor, positions: Tensor, masses: Sequence[AttentionMass]) -> None:
        """Show masses the queries of what is put behind the rows and taken away again."""
        with torch.inference_mode():
            self._run(embedded, positions, copy.deepcopy(self._prefix), masses)

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
        masses: Sequence[AttentionMass] = (),
    ) -> Tensor:
        """Last states [new, hidden] of embeddings [new, hidden] at positions [axes, new]."""
        positions = positions.long().to(embedded.device)
        is_plain = self._biases is None and not masses
        told = {} if is_plain else {"masses": masses, "biases": self._biases}
        with own_attention(self._family, "sdpa" if is_plain else OBSERVED):
            output = self._family.language_model(
                inputs_embeds=embedded[None],
                position_ids=positions if len(positions) == 1 else positions[:, None],
                use_cache=True,
                **{CACHE_KEYWORD: cache},
                **told,
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden


class Uncompressed(RowAnswerer):
    """Answers from a full KV cache that transformers filled; other caches can answer in turn.

    `encode_seconds` and `forward_seconds` are what the vision tower and the decoder took.
    """

    def __init__(
        self,
        family: Family,
        pictures: NDArray[np.uint8],
        footage: Footage,
        *,
        masses: Sequence[AttentionMass] = (),
    ) -> None:
        """Run the prefix of all samples, given as to `embed`; masses observe their queries."""
        layout = family.layout(footage)
        super().__init__(family, layout.next_position)
        started = time.perf_counter()
        embedded = embed(family, pictures, footage)
        encoded = time.perf_counter()
        positions = torch.from_numpy(layout.positions.T)
        by_source = {
            source: [mass for mass in masses if mass.queries.source == source]
            for source in ("prefix", "neutral", "again")
        }
        self.read(embedded, positions, by_source["prefix"])
        if by_source["neutral"]:
            asked = family.text_embeddings(
                torch.tensor(family.question_ids(NEUTRAL), device=family.device)
            )
            behind = self._start + torch.arange(len(asked))
            self.observe(asked, behind, by_source["neutral"])
        if by_source["again"]:
            behind = positions - positions.amin(1, keepdim=True) + self._start
            self.observe(embedded, behind, by_source["again"])
        self.encode_seconds = encoded - started
        self.forward_seconds = time.perf_counter() - encoded


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
    masses: Iterable[AttentionMass] = (),
    biases: Sequence[Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' SDPA does, causally, and let `masses` observe.

    biases: of each layer what is added to the scores of its first rows, [kv_heads, rows].
    The layers of one prompt must come in order and in one piece.
    """
    for mass in masses:
        mass.add(query, key, scaling)
    # transformers 5.23 makes no mask for functions that it does not know.
    if biases is not None:
        attention_mask = _mask(query, key, biases[cast(int, module.layer_idx)])
    elif query.shape[2] != key.shape[2]:
        attention_mask = _mask(query, key, torch.zeros(1, 0))
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
    output: Tensor = attend(module, query, key, value, attention_mask, scaling=scaling, **kwargs)[0]
    return output, None


def _mask(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """A causal mask [1, heads or 1, queries, rows] with the bias of the first rows in it."""
    heads = query.shape[1] if bias.shape[1] else 1
    place = torch.arange(key.shape[2], device=query.device)
    hidden = place > place[-query.shape[2] :, None]
    mask = torch.zeros(heads, *hidden.shape, dtype=query.dtype, device=query.device)
    mask[..., : bias.shape[1]] += bias.to(mask).repeat_interleave(heads // len(bias), 0)[:, None]
    return mask.masked_fill(hidden, -torch.inf)[None]


AttentionInterface.register(OBSERVED, _observed_attention)
