"""What a block of a prefill asks of a GPU for each layer, counted on the CPU's run of the code.

Two things are not as on a GPU, and are made so: decoding a tier's rows is one launch there, and
NaN is looked for on the processor.
"""

import importlib
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

from batch.evaluation.launches import Launches, count_launches
from batch.kv import CACHE_KEYWORD, Block, Prefix, TieredCache, fill, rows
from batch.making import computing
from batch.making.computing import keep
from cachefmt.tiers import STORED_TIERS
from tests.kv.decoders import SIZES, shape, tiered

TOKENS, FEW, MANY = 12, 3, 7


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_decode", lambda stored, part, out: out.zero_())
    for tier in STORED_TIERS:
        codec = importlib.import_module(f"cachefmt.codecs.{tier.name.lower()}")
        monkeypatch.setattr(codec, "check", lambda *parts: None)


def model_of(layers: int) -> MistralForCausalLM:
    sizes = SIZES | {"num_hidden_layers": layers}
    return MistralForCausalLM(MistralConfig(sliding_window=None, **sizes)).eval()


def launches_of_a_block(layers: int, *, has_copies: bool) -> Launches:
    """Of the second block of a prefix in all tiers, some rows of which count twice."""
    model = tiered(model_of(layers))
    per_tier = TOKENS // len(STORED_TIERS)
    prefix = Prefix.allocate(replace(shape(*[2 * per_tier] * 3), layers=layers), "cpu")
    block = Block()
    if has_copies:
        counts = torch.ones(2 * per_tier, dtype=torch.int64)
        counts[0] = 2
        for tier in STORED_TIERS:
            prefix.set_multiplicity(tier, counts)
        block = Block(stops=(TOKENS // 2, TOKENS), bias=torch.rand(TOKENS))
    tiers = torch.arange(TOKENS).remainder(3).byte().numpy()

    def run(first: int) -> None:
        cache = TieredCache(prefix)
        positions = torch.arange(first, first + TOKENS)[None]
        with torch.inference_mode():
            fill(model.model, torch.rand(1, TOKENS, 32), positions, cache, block)
            keep(cache, tiers)

    run(0)
    return count_launches(lambda: run(TOKENS))


def launches_of_the_model(layers: int) -> Launches:
    model, cache = model_of(layers), DynamicCache()

    def run() -> None:
        with torch.inference_mode():
            model.model(inputs_embeds=torch.rand(1, TOKENS, 32), **{CACHE_KEYWORD: cache})

    run()
    return count_launches(run)


def of_a_layer(few: Launches, many: Launches, kind: str) -> float:
    return (getattr(many, kind) - getattr(few, kind)) / (MANY - FEW)


@pytest.mark.parametrize(("has_copies", "most"), [(False, 16), (True, 26)])
def test_a_layer_asks_for_little_beside_the_models_own(has_copies: bool, most: int) -> None:
    ours = [launches_of_a_block(layers, has_copies=has_copies) for layers in (FEW, MANY)]
    own = [launches_of_the_model(layers) for layers in (FEW, MANY)]
    beside = of_a_layer(*ours, "launches") - of_a_layer(*own, "launches")
    assert 0 < beside <= most


def test_quantising_a_layer_by_itself_takes_few_calls_a_tier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large layers are not quantised together; then each asks for that once more."""
    together = [launches_of_a_block(layers, has_copies=False) for layers in (FEW, MANY)]
    monkeypatch.setattr(computing, "CHUNK_NUMBERS", 1)
    alone = [launches_of_a_block(layers, has_copies=False) for layers in (FEW, MANY)]
    more = of_a_layer(*alone, "launches") - of_a_layer(*together, "launches")
    assert 0 < more <= 30 * len(STORED_TIERS)


def test_no_layer_and_no_tier_is_waited_for() -> None:
    few, many = (launches_of_a_block(layers, has_copies=True) for layers in (FEW, MANY))
    assert few.synchronisations == many.synchronisations == 0
