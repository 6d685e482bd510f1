"""Which methods and which questions enter a comparison."""

from pathlib import Path

import pytest

from batch.errors import BatchError
from batch.evaluation import choosing
from batch.evaluation.choosing import choose_entries, choose_sets
from batch.evaluation.methods import ABLATIONS, METHODS
from batch.evaluation.worlds.variants import VARIANTS
from batch.settings import Limit

QUARTER = Limit(unit="bytes", share=0.25)


def labels(*suites: str, names: tuple[str, ...] = (), limits: tuple[Limit, ...] = ()) -> list[str]:
    return [str(entry.label) for entry in choose_entries(suites, names, limits)]


def test_without_a_budget_only_methods_that_know_how_much_to_keep_run() -> None:
    expected = [method.name for method in METHODS if not method.needs_budget]
    assert [entry.method.name for entry in choose_entries(["methods"], [], [])] == expected


def test_every_method_that_takes_a_budget_runs_within_every_one() -> None:
    limits = (Limit(unit="tokens", amount=784), Limit(unit="bytes", share=0.25))
    units = (" tokens", " bytes")
    found = [label for label in labels("methods", limits=limits) if label.endswith(units)]
    assert len(found) == 2 * sum(method.takes_budget for method in METHODS)
    assert "h2o 784 tokens" in found
    assert "random 25% bytes" in found


def test_ablations_take_no_budget_and_the_default_enters_once() -> None:
    both = labels("methods", "ablations", names=("sali-cache",), limits=(QUARTER,))
    assert len(both) == len(set(both))
    assert len(both) == 2 + 2 + len(ABLATIONS) - 1
    assert both.count("sali-cache default") == 1
    alone = labels("ablations", limits=(QUARTER,))
    assert len(alone) == len(ABLATIONS)


@pytest.mark.parametrize("text", ["", "%", "-5", "0%", "nan%", "inf%", "1.5", "many"])
def test_a_budget_is_a_number_or_a_share(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number like 784 or a share like 25%"):
        Limit.parse(text, "bytes")


def test_demo_is_every_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = {name: VARIANTS[name] for name in ("plain", "easy")}
    monkeypatch.setattr(choosing, "VARIANTS", two)
    sets = choose_sets(["demo"], tmp_path, videos=1, seed=5)
    assert [data.name for data in sets] == ["demo plain", "demo easy"]
    assert all(len({question.video for question in data.questions}) == 1 for data in sets)


def test_clips_behind_films_that_are_not_drawn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="--backgrounds: no set of --data is drawn"):
        choose_sets(["own.jsonl"], tmp_path, videos=1, seed=5, backgrounds=tmp_path)
