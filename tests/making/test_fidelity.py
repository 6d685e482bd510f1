"""The error of a file in answers: what transformers' own forward finds, with nothing between."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from batch.errors import BatchError
from batch.evaluation.uncompressed import own_attention
from batch.kv import CACHE_KEYWORD, Prefix
from batch.making import blocks as blocks_of_files
from batch.making import file_blocks
from batch.making.blocks import prefill
from batch.making.cache_plan import CachePlan, plan_cache
from batch.making.computing import allocate, compute, keep
from batch.making.fidelity import QUESTIONS, NeutralAnswers
from batch.making.header import same_work
from batch.making.sensitivity import measure_sensitivity, weights
from batch.models import Family
from batch.settings import CacheSettings
from cachefmt import CacheFile, Fidelity, Shape, Tier, token_counts
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.tiny.files import loaded

ROWS = 40


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return loaded(tiny.llava_next(tmp_path_factory.mktemp("llava")))


def prefix_of(family: Family, noise: float = 0.0, tier: Tier = Tier.FP16) -> Prefix:
    """The same random rows every time, but for their noise."""
    decoder = family.decoder
    shape = Shape(
        layers=decoder.layers,
        heads=decoder.heads,
        head_dim=decoder.head_dim,
        group_size=decoder.head_dim,
        raw_dtype="F32",
        position_axes=1,
        samples=0,
        stored_samples=0,
        rows=0,
        columns=0,
        tokens=token_counts({tier: ROWS}),
        index_layers=(),
    )
    prefix = Prefix.allocate(shape, "cpu")
    drawn = torch.Generator().manual_seed(3)
    for layer in range(shape.layers):
        rows, error = torch.randn(2, 2, ROWS, shape.heads, shape.head_dim, generator=drawn)
        key, value = 2 * rows + noise * error
        prefix.append(layer, tier, key, value)
    return prefix


def measure(family: Family, rows: Prefix) -> Fidelity:
    return NeutralAnswers(prefix_of(family), family, next_position=(ROWS,)).compare(rows)


def test_the_same_rows_answer_the_same(family: Family) -> None:
    found = measure(family, prefix_of(family))
    assert (found.kl, found.agreement, found.questions) == (0.0, 1.0, len(QUESTIONS))


def test_rows_behind_which_nothing_is_likely_have_no_error(family: Family) -> None:
    with pytest.raises(BatchError, match="is no finite number, so the file has no error"):
        measure(family, prefix_of(family, noise=5e37))


def test_more_noise_is_more_error(family: Family) -> None:
    found = [measure(family, prefix_of(family, noise)) for noise in (0.01, 0.1, 1.0)]
    errors = [one.kl for one in found]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert found[0].agreement > found[2].agreement
    eight, four = (
        measure(family, prefix_of(family, tier=tier)).kl for tier in (Tier.INT8, Tier.INT4)
    )
    assert 0 < eight < four


def test_the_error_is_that_of_transformers_own_scores(family: Family) -> None:
    exact, other = prefix_of(family), prefix_of(family, 0.5)
    found = measure(family, other)
    expected, agrees, tokens = 0.0, 0, 0
    with own_attention(family), torch.inference_mode():
        for question, begun in QUESTIONS:
            asked = family.question_ids(question)
            answer = family.checkpoint.tokenizer(begun, add_special_tokens=False).input_ids
            wanted, got = (
                scores(family, rows, [*asked, *answer])[len(asked) - 1 :] for rows in (exact, other)
            )
            expected += float((wanted.exp() * (wanted - got)).sum())
            agrees += int((wanted.argmax(-1) == got.argmax(-1)).sum())
            tokens += 1 + len(answer)
    assert found.kl == pytest.approx(expected / tokens, rel=1e-3)
    assert (found.agreement, found.tokens) == (agrees / tokens, tokens)
    assert tokens > len(QUESTIONS)


def scores(family: Family, rows: Prefix, ids: list[int]) -> Tensor:
    """Log-probabilities [tokens, vocabulary] of what follows each token behind the rows."""
    cache = rows.to_dynamic_cache(torch.float32)
    positions = ROWS + torch.arange(len(ids))[None]
    output = family.language_model(
        inputs_embeds=family.text_embeddings(torch.tensor(ids))[None],
        position_ids=positions,
        **{CACHE_KEYWORD: cache},
    )
    return family.logits(output.last_hidden_state[0]).log_softmax(-1)


@pytest.mark.parametrize("tier", [Tier.FP16, Tier.INT4])
def test_answers_are_sensitive_to_the_layers_that_they_rest_on(family: Family, tier: Tier) -> None:
    rows = prefix_of(family, tier=tier)
    deviation = torch.full((rows.shape.layers, 2), 2.0)
    before = [part.clone() for part in next(rows.rows(tier, slice(None)))]
    output = family.language_model.layers[1].self_attn.o_proj.weight
    used = output.clone()
    with torch.no_grad():
        output.zero_()
    try:
        answers = NeutralAnswers(rows, family, next_position=(ROWS,))
        found = measure_sensitivity(answers, rows, deviation)
    finally:
        with torch.no_grad():
            output.copy_(used)
    assert (found[0] > 0).all()
    assert (found[1:] == 0).all()
    assert all(map(torch.equal, before, next(rows.rows(tier, slice(None)))))


def test_what_costs_four_times_the_error_is_kept_twice_as_finely() -> None:
    found = weights(torch.tensor([[1.0, 4.0], [1.0, 0.0]], dtype=torch.float64))
    assert found[0, 1] / found[0, 0] == pytest.approx(2)
    assert found[0, 0] == found[1, 0] > found[1, 1] > 0
    assert torch.equal(weights(torch.zeros(3, 2)), torch.ones(3, 2))


def planned(family: Family, **settings: Any) -> CachePlan:
    """Samples of which the later ones are unlike the first ones, a sample a block of the file."""
    pictures = random_pictures(4, geometry_of(family))
    pictures[:2] //= 16
    plan = plan_cache(
        make_manifest(pictures, geometry_of(family)),
        family,
        CacheSettings(**settings),
        dtype="float32",
    )
    return plan.with_codec(replace(plan.header.codec, block_samples=1))


def written(plan: CachePlan, family: Family, path: Path) -> CacheFile:
    prefill(plan, family, path)
    return CacheFile.open(path)


def test_a_file_says_how_far_what_it_gives_back_is_from_what_was_computed(
    family: Family, tmp_path: Path
) -> None:
    plan = planned(family, quality="small")
    exact = allocate(plan, family)
    with closing(compute(plan, family, exact)) as blocks:
        for computed in blocks:
            keep(computed.cache, plan.plan.tier[computed.block])
    answers = NeutralAnswers(exact, family, next_position=plan.plan.next_position)
    with written(plan, family, tmp_path / "x.safetensors") as cache:
        found = answers.compare(Prefix.load(cache, "cpu", family.rotation))
        assert cache.header.codec.name == "klt"
        assert cache.header.fidelity == found
        assert found.kl > 0
    with written(planned(family, quality="lossless"), family, tmp_path / "y.safetensors") as cache:
        assert cache.header.fidelity is None


def test_a_bound_is_kept_by_the_coarsest_step_that_keeps_it(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (0.1, 1.0, 3.0)
    monkeypatch.setattr(blocks_of_files, "SEARCHED_STEPS", steps)
    plan = planned(family, max_kl=1.0)
    found = {}
    for step in steps:
        codec = replace(plan.header.codec, step=step)
        of_step = planned(family, quality="standard").with_codec(codec)
        with written(of_step, family, tmp_path / f"{step}.safetensors") as cache:
            assert cache.header.fidelity is not None
            found[step] = cache.header.fidelity.kl, [cache.block(number, 0) for number in range(4)]
    errors = [error for error, _ in found.values()]
    assert 0 < errors[0] < errors[1] < errors[2]
    for bound, step in ((2 * errors[2], 3.0), (errors[1], 1.0), (errors[0], 0.1)):
        plan = planned(family, max_kl=bound)
        with written(plan, family, tmp_path / "x.safetensors") as cache:
            codec, fidelity = cache.header.codec, cache.header.fidelity
            assert (codec.quality, codec.step) == ("custom", step)
            assert fidelity is not None
            assert fidelity.kl == found[step][0] <= bound
            assert [cache.block(number, 0) for number in range(4)] == found[step][1]
            assert same_work(cache.header, plan.header)
    with written(
        planned(family, max_kl=errors[0] / 2), family, tmp_path / "x.safetensors"
    ) as cache:
        assert (cache.header.codec.name, cache.header.fidelity) == ("plain", None)
        kept = Prefix.load(cache, "cpu")
        assert same_work(cache.header, planned(family, max_kl=errors[0] / 2).header)
        assert not same_work(cache.header, plan.header)
    with written(planned(family, quality="lossless"), family, tmp_path / "y.safetensors") as cache:
        exact = Prefix.load(cache, "cpu")
    answers = NeutralAnswers(exact, family, next_position=plan.plan.next_position)
    assert answers.compare(kept).kl == 0


def test_own_bases_are_fitted_to_later_samples_too(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = []
    for most in (file_blocks.FITTED_NUMBERS, 1):
        monkeypatch.setattr(file_blocks, "FITTED_NUMBERS", most)
        plan = planned(family, quality="standard")
        with written(plan, family, tmp_path / f"{most}.safetensors") as cache:
            assert cache.header.fidelity is not None
            errors.append(cache.header.fidelity.kl)
    assert 2 * errors[0] < errors[1]
