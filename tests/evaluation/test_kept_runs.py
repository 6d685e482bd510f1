"""Runs that were kept are found again for the same work alone, and are what they were."""

from dataclasses import replace
from pathlib import Path

import pytest

from batch.errors import BatchError
from batch.evaluation.kept_runs import KeptRuns
from batch.evaluation.methods.h2o import H2O
from batch.evaluation.methods.snapkv import SnapKV
from batch.evaluation.runs import UNCOMPRESSED, Entry
from batch.settings import Limit
from tests.evaluation.runs import asked, run

ENTRY = Entry(method=H2O(), limit=Limit(unit="bytes", share=0.25))


@pytest.fixture
def kept(tmp_path: Path) -> KeptRuns:
    folder = tmp_path / "results" / "runs"
    folder.mkdir(parents=True)
    (tmp_path / "film.mp4").write_bytes(b"a film")
    (tmp_path / "other.mp4").write_bytes(b"another")
    return KeptRuns(folder=folder, circumstances={"weights": "abc"})


def test_a_run_comes_back_as_it_was_with_its_film_where_it_lies_now(
    kept: KeptRuns, tmp_path: Path
) -> None:
    film = tmp_path / "film.mp4"
    made = run(asked(options=("red", "blue")), asked(kl=None))
    path = kept.path(film, [one.question for one in made.answers], ENTRY)
    assert kept.read(path, film) is None
    kept.write(path, made)
    found = kept.read(path, film)
    assert found is not None
    assert found.answers[0].question.video == film
    moved = [replace(one, question=replace(one.question, video=film)) for one in made.answers]
    assert list(found.answers) == moved
    for name in ("cell_states", "sample_bytes"):
        assert getattr(found, name).tolist() == getattr(made, name).tolist()
    assert (found.label, found.parts, found.in_file) == (made.label, made.parts, made.in_file)


def test_other_work_has_another_file(kept: KeptRuns, tmp_path: Path) -> None:
    film, questions = tmp_path / "film.mp4", [asked().question]
    paths = [
        kept.path(film, questions, ENTRY),
        kept.path(tmp_path / "other.mp4", questions, ENTRY),
        kept.path(film, [asked("blue").question], ENTRY),
        kept.path(film, questions, UNCOMPRESSED),
        kept.path(film, questions, replace(ENTRY, limit=None)),
        kept.path(film, questions, replace(ENTRY, method=H2O(normalised=True))),
        kept.path(film, questions, replace(ENTRY, method=SnapKV())),
        replace(kept, circumstances={"weights": "abd"}).path(film, questions, ENTRY),
    ]
    assert len(set(paths)) == len(paths)
    assert kept.path(film, questions, ENTRY) == paths[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"label": {}}', '{"answers": []}'])
def test_what_is_no_run_is_refused_by_name(kept: KeptRuns, tmp_path: Path, content: str) -> None:
    path = kept.folder / "damaged.json"
    path.write_text(content)
    with pytest.raises(BatchError, match=r"damaged.json: not a run as this version keeps them"):
        kept.read(path, tmp_path / "film.mp4")
