"""What a decode step takes on rows in tiers, against a plain cache of as many rows."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from batch.answering import PrefixAnswerer
from batch.evaluation.bench.workload import Measured, Workload
from batch.evaluation.measuring import ratio, timed, timed_again, within
from batch.evaluation.uncompressed import own_attention
from batch.kv import CACHE_KEYWORD, Prefix
from batch.models import Family
from cachefmt import CacheFile
from cachefmt.header import Shape
from cachefmt.tiers import STORED_TIERS, Tier, token_counts

STEPS = 8
"""Decode steps in a row each way before it is the other's turn."""
DTYPE = torch.bfloat16
"""Of decode steps."""


def measure_decoding(workload: Workload, repeats: int) -> Measured:
    """Steps of the whole model in bfloat16, the same rows in tiers and in a DynamicCache.

    `decode_step` is the slower of all INT8 and all INT4. `decode_step_uncompressed` has the mix
    of tiers of a film on our side, and on the other the slots that this many rows stand for.
    """
    nn.Module.to(workload.family.model, DTYPE)
    rows = workload.size.rows
    with CacheFile.open(workload.films[0].cache) as cache:
        film, slots = cache.header.shape, cache.header.layout.slots
    device, share = workload.device, rows / film.token_count
    mix = {tier: int(film.tokens[tier.name] * share) for tier in STORED_TIERS}
    ways = {"int8": {Tier.INT8: rows}, "int4": {Tier.INT4: rows}, "film": mix}
    ratios, figures = {}, {}
    for name, counts in ways.items():
        prefix = full = random_prefix(film, counts, device)
        if name == "film":
            full = random_prefix(film, {Tier.FP16: int(slots * share)}, device)
        plain = full.to_dynamic_cache(DTYPE)
        ratios[name], figures[name] = _compare(workload, prefix, plain, repeats)
    return (
        {
            "decode_step": max(ratios["int8"], ratios["int4"]),
            "decode_step_uncompressed": ratios["film"],
        },
        {"rows": rows, "slots": int(slots * share), "steps": STEPS, **figures},
    )


def random_prefix(like: Shape, tokens: dict[Tier, int], device: str) -> Prefix:
    """A prefix of random rows."""
    shape = replace(like, tokens=token_counts(tokens), raw_dtype="BF16")
    prefix = Prefix.allocate(shape, device)
    generator = torch.Generator(device).manual_seed(0)
    for layer in range(shape.layers):
        for tier, count in tokens.items():
            size = (2, count, shape.heads, shape.head_dim)
            key, value = torch.randn(size, generator=generator, device=device).to(DTYPE)
            prefix.append(layer, tier, key, value)
    return prefix


def _compare(
    workload: Workload, prefix: Prefix, plain: DynamicCache, repeats: int
) -> tuple[float, dict[str, list[float]]]:
    """Median seconds of a step each way, in turn, and the median of their ratios.

    Ours is what one more token of an answer takes, as the product gives it, but for the head,
    which is left out both ways.
    """
    family = workload.family
    start = plain.get_seq_length()
    place = (start,) * prefix.shape.position_axes
    answerer = PrefixAnswerer(prefix, family, next_position=place, name="drawn rows")
    taken: dict[str, list[float]] = {"tiered_seconds": [], "plain_seconds": []}
    with endless_answers(family, has_head=False):
        for number in within(repeats):
            few, many = (
                timed_again(partial(answerer.generate, [[1]], tokens)) for tokens in (2, 2 + STEPS)
            )
            taken["tiered_seconds"].append((many - few) / STEPS)
            first = start + number * STEPS
            taken["plain_seconds"].append(_plain_step(family, plain, first))
    return ratio(taken["tiered_seconds"], taken["plain_seconds"]), taken


@torch.inference_mode()
def _plain_step(family: Family, plain: DynamicCache, first: int) -> float:
    """Median of steps in a row, as transformers runs them."""
    model = family.language_model
    generator = torch.Generator().manual_seed(1)
    embedded = torch.randn(1, 1, model.config.hidden_size, generator=generator)
    embedded = embedded.to(model.device, DTYPE)

    def step(place: Tensor) -> None:
        model(inputs_embeds=embedded, position_ids=place, **{CACHE_KEYWORD: plain}, use_cache=True)

    places = torch.arange(first, first + STEPS, device=model.device).view(-1, 1, 1)
    with own_attention(family):
        return statistics.median(timed(partial(step, place))[0] for place in places)


@contextmanager
def endless_answers(family: Family, *, has_head: bool = True) -> Iterator[None]:
    """Let no token end an answer; without the head, every token is one of the first few."""
    generation = family.model.generation_config
    stop, generation.eos_token_id = generation.eos_token_id, []
    if not has_head:
        family.logits = lambda hidden: hidden[..., :4]  # type: ignore[method-assign]  # till the end of this block
    try:
        yield
    finally:
        generation.eos_token_id = stop
        family.__dict__.pop("logits", None)
