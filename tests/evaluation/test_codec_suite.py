"""`--suite codec`: real files of drawn films, and text through the same codec."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from batch.evaluation import data
from batch.evaluation.chosen_judges import SEEDS, FilmJudge, films_of
from batch.evaluation.codec_rows import CALIBRATION_SHARE, CodecRow, Setup
from batch.evaluation.codec_suite import (
    calibrate,
    film_setups,
    judge_films,
    prose_rows,
    prose_schemes,
)
from batch.evaluation.data import demo_set
from batch.evaluation.judges.prose import ProseJudge
from batch.evaluation.judges.schemes import Scheme
from batch.evaluation.judges.schemes.transform import Transform
from batch.evaluation.methods.row_method import Rows
from batch.evaluation.runs import Run
from batch.evaluation.summary import NEXT_TOKENS
from batch.models import open_model
from batch.settings import ModelSettings
from tests.evaluation.runs import asked, demo_judge, run

OWN = Setup(quality="standard", calibrated=False, rows="none")
CALIBRATED = Setup(quality="standard", calibrated=True, rows="none")
EXACT = Setup(quality="lossless", calibrated=False, rows="none")


def test_every_quality_has_a_row_with_either_basis_of_every_slot_and_of_what_is_stored() -> None:
    setups = film_setups()
    assert len(setups) == len(set(setups)) == len({setup.label for setup in setups}) == 14
    assert {OWN, CALIBRATED, EXACT} < set(setups)


def test_films_of_two_seeds_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "write_clip", lambda world, path, drawn: path.touch())
    [judge] = demo_judge().find()
    assert isinstance(judge, FilmJudge)
    films = films_of(judge.sets(tmp_path, 1, SEEDS))
    assert len(films) == len(set(films)) == 2 * 9
    assert {film.stem.rsplit("-", 2)[1] for film in films} == {"21", "22"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[Setup, CodecRow]:
    """What the bundled model says of one short film; the calibration is of another one."""
    folder = tmp_path_factory.mktemp("films")
    model = open_model(ModelSettings(device="cpu", dtype="float32"))
    calibration = folder / "demo.calibration.safetensors"
    other = films_of([demo_set("easy", folder, videos=1, seed=6)])
    calibrate(model, other, calibration)
    sets = [demo_set("easy", folder, videos=1, seed=5)]
    setups = [EXACT, OWN, CALIBRATED]
    done: list[int] = []
    found = judge_films("demo", model, sets, setups, calibration, report=done.append)
    assert done == [1]
    return dict(zip(setups, found, strict=True))


def test_rows_as_they_are_lose_nothing(rows: dict[Setup, CodecRow]) -> None:
    exact = rows[EXACT]
    assert (exact.codec, exact.retained, exact.agreement) == ("plain", 1.0, 1.0)
    assert exact.kl < 1e-6
    assert 0.9 < exact.compression_file < exact.compression_kv == pytest.approx(1)
    assert exact.neutral_kl is None


def test_an_encoded_file_is_smaller_and_says_its_error(rows: dict[Setup, CodecRow]) -> None:
    own, calibrated = rows[OWN], rows[CALIBRATED]
    assert own.codec == calibrated.codec == "klt"
    assert 10 < own.compression_file < own.compression_kv < calibrated.compression_kv
    assert own.neutral_kl is not None
    assert own.neutral_kl > 0
    assert own.kl > 1e-6
    for row in (own, calibrated):
        assert row.decode_mb_s is not None
        assert row.decode_mb_s > 0


class FewRows(ProseJudge):
    """A judge that lets each scheme store a few rows and finds much the same of each."""

    def __init__(self) -> None:
        drawn = torch.Generator().manual_seed(1)
        key, value = torch.randn(2, 3, 60, 1, 8, generator=drawn)
        self.given = Rows(key=key, value=value)

    def fitted(self, scheme: Scheme) -> Scheme:
        return scheme.fit(self.given) if scheme.is_fitted else scheme

    def run_all(self, sets: object, schemes: Sequence[Scheme], **how: object) -> Iterator[Run]:
        for scheme in schemes:
            size_bytes = self.fitted(scheme).store(self.given).size_bytes
            found = [asked(), asked(answer="red" if "lossless" in str(scheme.label) else "blue")]
            for name in (NEXT_TOKENS, "needles"):
                made = run(*found, label=scheme.label, data=name, size_bytes=size_bytes)
                yield replace(made, fp16_bytes=self.given.fp16_bytes, kv_bytes=size_bytes)


def test_prose_counts_a_share_of_the_calibration() -> None:
    judge, schemes = FewRows(), prose_schemes()
    found = prose_rows(judge, schemes, [], lambda more: None)
    assert [(row.codec, row.rows) for row in found[:2]] == [("plain", "FP16"), ("plain", "INT4")]
    assert [(row.n, row.retained) for row in found[:3]] == [(2, 1.0), (2, 1.0), (2, 0.5)]
    for setup, row in zip(schemes, found, strict=True):
        if not setup.calibrated:
            assert row.compression_file == row.compression_kv
            continue
        scheme = judge.fitted(schemes[setup])
        assert isinstance(scheme, Transform)
        size_bytes = 4 * 3 * 60 * 8 / row.compression_kv
        whole = size_bytes + scheme.calibration_bytes / CALIBRATION_SHARE
        assert row.compression_file == pytest.approx(4 * 3 * 60 * 8 / whole)
