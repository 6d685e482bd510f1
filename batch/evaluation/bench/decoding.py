"""One step of decoding behind many rows: our attention over tiers against a plain cache."""

import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from batch.evaluation.bench.measuring import Found, ratio, seconds
from batch.evaluation.bench.subject import Subject
from batch.kv import Prefix, TieredCache, forward
from cachefmt import CacheFile
from cachefmt.header import Shape
from cachefmt.tiers import STORED_TIERS, Tier, token_counts

STEPS = 8
"""Steps in a row each way before it is the other's turn; their median counts."""
DTYPE = torch.bfloat16


def measure_decoding(subject: Subject, repeats: int) -> Found:
    """Steps of the whole model in bfloat16, the same rows in tiers and in a DynamicCache.

    `decode_step` is the slower of all INT8 and all INT4. `decode_step_uncompressed` has the mix
    of tiers of a film on our side, and on the other the slots that this many rows stand for.
    """
    nn.Module.to(subject.family.model, DTYPE)
    rows = subject.size.rows
    with CacheFile.open(subject.films[0].cache) as cache:
        film, slots = cache.header.shape, cache.header.layout.slots
    device = subject.size.device
    ratios, figures = {}, {}
    for tier in (Tier.INT8, Tier.INT4):
        prefix = _fill(film, {tier: rows}, device)
        plain = prefix.to_dynamic_cache(DTYPE)
        name = tier.name.lower()
        ratios[name], figures[name] = _compare(subject, prefix, plain, repeats)
    share = rows / film.token_count
    mix = {tier: int(film.tokens[tier.name] * share) for tier in STORED_TIERS}
    prefix = _fill(film, mix, device)
    full = _fill(film, {Tier.FP16: int(slots * share)}, device)
    mixed, figures["film"] = _compare(subject, prefix, full.to_dynamic_cache(DTYPE), repeats)
    found = {"decode_step": max(ratios.values()), "decode_step_uncompressed": mixed}
    return found, {"rows": rows, "slots": int(slots * share), "steps": STEPS, **figures}


def _fill(like: Shape, tokens: dict[Tier, int], device: str) -> Prefix:
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
    subject: Subject, prefix: Prefix, plain: DynamicCache, repeats: int
) -> tuple[float, dict[str, list[float]]]:
    """Median seconds of a step each way, in turn, and the median of their ratios."""
    model = subject.family.language_model
    tiered = TieredCache(prefix)
    hidden = model.config.hidden_size
    embedded = torch.randn(1, 1, hidden, generator=torch.Generator().manual_seed(1))
    embedded = embedded.to(model.device, DTYPE)
    start = plain.get_seq_length()

    def step_tiered(place: Tensor) -> None:
        forward(model, embedded, place, tiered)

    def step_plain(place: Tensor) -> None:
        model(inputs_embeds=embedded, position_ids=place, past_key_values=plain, use_cache=True)

    taken: dict[str, list[float]] = {"tiered_seconds": [], "plain_seconds": []}
    for number in range(repeats + 1):  # the first is a warm-up
        for name, step in (("tiered_seconds", step_tiered), ("plain_seconds", step_plain)):
            if name == "tiered_seconds":
                subject.family.attend_over_tiers()
            else:
                model.set_attn_implementation("sdpa")
            took = _median_step(step, _places(start + number * STEPS, model.device))
            taken[name] += [took] if number else []
    return ratio(taken["tiered_seconds"], taken["plain_seconds"]), taken


@torch.inference_mode()
def _median_step(step: Callable[[Tensor], None], places: list[Tensor]) -> float:
    return statistics.median(seconds(lambda place=place: step(place)) for place in places)  # type: ignore[misc]  # a default binds the loop's value


def _places(start: int, device: torch.device) -> list[Tensor]:
    return [torch.tensor([[start + number]], device=device) for number in range(STEPS)]
