"""The judge of prose, with a random model of seed and size 0 in place of the real one."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from batch.errors import BatchError
from batch.evaluation.judges import prose, prose_texts
from batch.evaluation.judges.packages import RECORD, SMOLLM2
from batch.evaluation.judges.prose import LanguageModel, ProseJudge
from batch.evaluation.judges.prose_texts import DEPTHS, haystacks
from batch.evaluation.judges.schemes import Scheme
from batch.evaluation.judges.schemes.controls import Nothing
from batch.evaluation.judges.schemes.scheme import ByMethod
from batch.evaluation.judges.schemes.tiers import Tiers
from batch.evaluation.methods import METHODS, RowMethod
from batch.evaluation.methods.h2o import H2O
from batch.evaluation.methods.low_bits import LowBits
from batch.evaluation.methods.row_method import Held, Queries, Rows
from batch.evaluation.methods.streaming_llm import StreamingLLM
from batch.evaluation.runs import Label
from batch.evaluation.summary import tabulate
from batch.settings import Limit
from cachefmt.tiers import Tier
from tests.cli.running import batch, objects, succeed
from tests.evaluation.methods.names import name
from tests.tiny.byte_level import tokenizer

Judge = Callable[..., list[dict[str, Any]]]

LAYERS, HEADS, HEAD_DIM = 2, 2, 16
TOKENS = 330


@dataclass(frozen=True, kw_only=True)
class Exact(Scheme):
    """Gives back what it got."""

    def store(self, rows: Rows) -> Held:
        return Held(rows.key, rows.value, rows.fp16_bytes)


@dataclass(frozen=True, kw_only=True)
class ExactUnrotated(Exact):
    """The same, of keys without rotation."""

    @property
    def rotated(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Fitted(Exact):
    """Remembers what it was fitted to."""

    is_fitted = True
    fitted_to: list[Rows] = field(default_factory=list)

    def fit(self, calibration: Rows) -> "Fitted":
        return replace(self, fitted_to=[calibration])

    def store(self, rows: Rows) -> Held:
        [calibration] = self.fitted_to
        assert calibration.key.shape[2:] == rows.key.shape[2:]
        assert calibration.key.shape[1] > rows.key.shape[1]
        return super().store(rows)


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's folder in which `make judges` put a tiny model."""
    root = tmp_path_factory.mktemp("repository")
    folder = root / "build" / "judges" / SMOLLM2.name
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=2 * HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=1024,
        initializer_range=0.4,  # else the prefix hardly changes a score
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer(["<end>"]).save_pretrained(folder)
    (folder / RECORD).write_text(SMOLLM2.record)
    return root


@pytest.fixture(scope="module")
def model(judges: Path) -> LanguageModel:
    return LanguageModel(judges / "build" / "judges" / SMOLLM2.name)


@pytest.fixture(scope="module", autouse=True)
def short_texts() -> Iterator[None]:
    """The tiny tokenizer makes five times the tokens of the real one."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((prose_texts, "judged_text"), (prose, "calibration_text")):
            text = getattr(module, name)()
            patch.setattr(module, name, lambda text=text: text[:40_000])
        yield


@pytest.fixture
def judge(model: LanguageModel, tmp_path: Path) -> Judge:
    """The rows of schemes over two contexts and ten haystacks."""

    def rows(*schemes: Scheme) -> list[dict[str, Any]]:
        prose_judge = ProseJudge(model, tokens=TOKENS, count=2)
        sets = prose_judge.sets(tmp_path)
        runs = prose_judge.run_all(sets, schemes, report=lambda more: None)
        return [row.to_dict() for row in tabulate(list(runs), "prose")[1:]]

    return rows


def label(method: str) -> Label:
    return Label(method=method)


def test_scores_behind_read_rows_are_those_of_one_forward(model: LanguageModel) -> None:
    ids = model.encode("A context, and what follows it: numbers, words.")
    rows = model.read(ids[:20], [Queries()])
    scores = model.scores(rows.key, rows.value, torch.tensor([ids[20:]]), 20)[0]
    with torch.inference_mode():
        whole = model.model(torch.tensor([ids])).logits[0, 20:].log_softmax(-1)
    assert torch.allclose(scores, whole, atol=1e-4)
    # All queries' weights of a layer sum to one each, over the query heads of all groups.
    assert rows.attention[Queries()].weight.sum(dim=(1, 2)).tolist() == pytest.approx(
        [20 * 2 * HEADS] * LAYERS
    )


@pytest.mark.parametrize(
    "scheme",
    [
        Exact(label=label("exact")),
        ExactUnrotated(label=label("exact, unrotated")),
        ByMethod.of(H2O()),
        Tiers(label=label("FP16"), shares={Tier.FP16: 1.0}),
    ],
    ids=lambda scheme: scheme.label.method,
)
def test_an_exact_prefix_changes_nothing_and_none_changes_all(judge: Judge, scheme: Scheme) -> None:
    exact, nothing = judge(scheme, Nothing(label=label("nothing")))
    assert abs(exact["kl"]) < 1e-4
    assert exact["agreement_em"] > 0.99
    assert exact["nll_rise"] == pytest.approx(0, abs=1e-3)
    assert exact["compression_fp16"] == pytest.approx(1, abs=0.01)  # numbers of rows are charged
    assert nothing["kl"] > 1000 * abs(exact["kl"])
    assert nothing["agreement_em"] < 0.9


def test_bytes_are_those_of_the_codes_and_scales_and_of_the_exact_tokens(
    judge: Judge,
) -> None:
    both: tuple[Literal["key", "value"], ...] = ("key", "value")
    rows = judge(
        Tiers(label=label("INT4"), shares={Tier.INT4: 1.0}),
        Tiers(label=label("mixed"), shares={Tier.INT8: 0.5, Tier.INT4: 0.5}),
        ByMethod.of(LowBits(profile="3 bits", bits=3)),
        ByMethod.of(LowBits(profile="2 bits", bits=2, per_channel=both)),
        Nothing(label=label("nothing")),
    )
    int4, mixed, per_token, per_channel, nothing = (row["bytes"] for row in rows)
    exact = 4 * 2 * 2 * LAYERS * HEADS * HEAD_DIM
    stored = (TOKENS - 4) * 2 * LAYERS * HEADS
    assert nothing == exact
    assert int4 == exact + stored * (HEAD_DIM // 2 + 4)
    assert mixed == exact + stored * (HEAD_DIM // 2 + 4 + HEAD_DIM + 2) / 2
    assert per_token == exact + stored * (3 * HEAD_DIM / 8 + 4)
    groups = 2 * LAYERS * HEADS * HEAD_DIM * 3  # of 128 in 326 tokens
    assert per_channel == exact + stored * 2 * HEAD_DIM / 8 + 4 * groups


@pytest.mark.parametrize("method", [StreamingLLM(), H2O()], ids=name)
def test_a_budget_of_bytes_holds_rows_and_their_numbers(judge: Judge, method: RowMethod) -> None:
    [row] = judge(ByMethod.of(method, Limit(unit="bytes", share=0.25)))
    exact, one = 4 * 2 * 2 * LAYERS * HEADS * HEAD_DIM, 2 * 2 * LAYERS * HEADS * HEAD_DIM
    budget = (TOKENS - 4) * one / 4
    assert budget - 2 * one < row["bytes"] - exact <= budget
    assert row["budget"] == "25% bytes"


@pytest.mark.parametrize("per_channel", [(), ("key",), ("key", "value")])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("tokens", [5, 128, 130])
def test_rounding_is_within_half_a_step(
    bits: int, per_channel: tuple[Literal["key", "value"], ...], tokens: int
) -> None:
    key, value = torch.randn(2, 3, tokens, 2, HEAD_DIM).mul(3).unbind()
    method = LowBits(bits=bits, per_channel=per_channel)
    decoded = method.store(Rows(key=key, value=value), tokens)
    for kind, before, after in (("key", key, decoded.key), ("value", value, decoded.value)):
        extent = before.amax() - before.amin()
        assert (before - after).abs().max() <= 0.51 * extent / (2**bits - 1), kind


def test_fewer_bits_are_worse(judge: Judge) -> None:
    rows = judge(*(ByMethod.of(LowBits(profile=f"{bits}", bits=bits)) for bits in (8, 4, 2)))
    assert rows[0]["kl"] < rows[1]["kl"] < rows[2]["kl"]


@pytest.mark.parametrize(
    "method",
    [one for one in METHODS if isinstance(one, RowMethod) and not one.needs_samples],
    ids=name,
)
def test_every_method_that_needs_no_film_stores_text(
    model: LanguageModel, method: RowMethod
) -> None:
    rows = model.read(model.encode("Words, and 12 numbers. " * 3), method.observed)
    held = method.store(rows, rows.tokens // 2)
    assert held.key.shape == held.value.shape == rows.key.shape
    assert 0 < held.size_bytes < rows.fp16_bytes
    scores = model.scores(held.key, held.value, torch.tensor([[5, 6]]), rows.tokens, held.times)
    assert bool(scores.isfinite().all())


def test_a_scheme_is_fitted_to_rows_of_another_text(
    judge: Judge,
) -> None:
    [row] = judge(Fitted(label=label("fitted")))
    assert abs(row["kl"]) < 1e-4


def test_numbers_are_hidden_at_their_depths(model: LanguageModel) -> None:
    ids = model.encode("Words around the numbers. " * 1000)
    for haystack in haystacks(ids, 1000, model.encode):
        assert len(haystack.prefix) == 1000
        for depth, needle in zip(DEPTHS, haystack.following, strict=True):
            [place] = places(needle, haystack.prefix)
            assert place / 1000 == pytest.approx(depth, abs=0.06)


def places(part: list[int], whole: list[int]) -> list[int]:
    """Where one list stands in another."""
    starts = range(len(whole) - len(part) + 1)
    return [start for start in starts if whole[start : start + len(part)] == part]


def test_a_context_that_does_not_fit_is_named(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="contexts of 900 tokens: the model takes 1024"):
        ProseJudge(model, tokens=900, count=2).sets(tmp_path)
    with pytest.raises(BatchError, match="the text has only"):
        ProseJudge(model, tokens=TOKENS, count=10_000).sets(tmp_path)


SUITE = ("evaluate", "--judge", "prose", "--contexts", 2, "--context-tokens", 330)
CHOSEN = ("--method", "uniform", "--method", "nothing", "--method", "streaming-llm")


def test_the_command_prints_a_row_a_scheme_and_runs_none_twice(
    judges: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(judges)
    kept = ("--out", tmp_path)
    rows = objects(succeed(*SUITE, *CHOSEN, *kept, "--json"))
    assert [(row["method"], row["profile"], row["budget"]) for row in rows] == [
        ("uncompressed", None, None),
        ("uniform", "int8", None),
        ("uniform", "int4", None),
        ("uniform", "int4, groups of 32", None),
        ("nothing", None, None),
        ("streaming-llm", None, "25% bytes"),
    ]
    for row in rows:
        assert (row["judge"], row["n"], row["videos"]) == ("prose", 50, 12)
        assert set(row["accuracy_by_kind"]) == {"next tokens", "needles"}
        assert row["bleu"] is row["seconds_per_sample"] is None
    assert [(row["kind"], row["in_file"]) for row in rows[3:]] == [
        ("bits", True),
        ("eviction", True),
        ("eviction", True),
    ]
    json.dumps(rows, allow_nan=False)
    monkeypatch.delattr(LanguageModel, "read")
    text = "\n".join(succeed(*SUITE, *CHOSEN, *kept))
    assert f"{rows[1]['bytes']:,.0f}" in text
    assert (tmp_path / "results" / "judges.png").stat().st_size > 0


def test_a_method_that_cannot_store_text_is_named(
    judges: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(judges)
    result = batch(*SUITE, "--method", "token-drop")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--method: no way to store text among token-drop" in result.stderr
