"""`--suite codec`: real files of drawn films, and text through the same codec."""

from pathlib import Path

import pytest
import torch

from batch.evaluation import codec_prose, data
from batch.evaluation.codec_films import calibrate, demo_sets, film_setups, films_of, judge_films
from batch.evaluation.codec_prose import prose_rows, prose_schemes
from batch.evaluation.codec_rows import CALIBRATION_SHARE, CodecRow, Setup
from batch.evaluation.data import demo_set
from batch.evaluation.judges.prose import ProseRow
from batch.evaluation.judges.schemes import Scheme
from batch.evaluation.judges.schemes.transform import Transform
from batch.evaluation.methods.row_method import Rows
from batch.models import open_model
from batch.settings import ModelSettings

OWN = Setup(quality="standard", calibrated=False, rows="none")
CALIBRATED = Setup(quality="standard", calibrated=True, rows="none")
EXACT = Setup(quality="lossless", calibrated=False, rows="none")


def test_every_quality_has_a_row_with_either_basis_of_every_slot_and_of_what_is_stored() -> None:
    setups = film_setups()
    assert len(setups) == len(set(setups)) == len({setup.label for setup in setups}) == 14
    assert {OWN, CALIBRATED, EXACT} < set(setups)


def test_films_of_two_seeds_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "write_clip", lambda world, path, drawn: path.touch())
    films = films_of(demo_sets(tmp_path, 1))
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


class FewRows:
    """A judge that lets each scheme store a few rows and finds the same of each."""

    def __init__(self, model: object, schemes: list[Scheme]) -> None:
        drawn = torch.Generator().manual_seed(1)
        key, value = torch.randn(2, 3, 60, 1, 8, generator=drawn)
        self._given = Rows(key=key, value=value)
        self.schemes = [one.fit(self._given) if one.is_fitted else one for one in schemes]

    def rows(self, tokens: int, count: int, report: object) -> list[ProseRow]:
        return [self._row(scheme) for scheme in self.schemes]

    def _row(self, scheme: Scheme) -> ProseRow:
        size_bytes = scheme.store(self._given).size_bytes
        return ProseRow(
            scheme=scheme.name,
            tokens=60,
            bytes=size_bytes,
            compression_fp16=self._given.fp16_bytes / size_bytes,
            kl=0.1,
            kl_se=0.0,
            agreement=0.9,
            agreement_se=0.0,
            perplexity_ratio=1.0,
            perplexity_ratio_se=0.0,
            needles=4 if scheme.name == "FP16" else 3,
            needles_asked=5,
            contexts=2,
        )


def test_prose_counts_a_share_of_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_prose, "ProseJudge", FewRows)
    schemes = prose_schemes()
    found = prose_rows(None, schemes, 60, 2, lambda more: None)  # type: ignore[arg-type]
    assert [(row.codec, row.rows) for row in found[:2]] == [("plain", "FP16"), ("plain", "INT4")]
    assert [row.retained for row in found[:3]] == [1.0, 0.75, 0.75]
    for setup, row in zip(schemes, found, strict=True):
        if not setup.calibrated:
            assert row.compression_file == row.compression_kv
            continue
        scheme = FewRows(None, [schemes[setup]]).schemes[0]
        assert isinstance(scheme, Transform)
        size_bytes = 4 * 3 * 60 * 8 / row.compression_kv
        whole = size_bytes + scheme.calibration_bytes / CALIBRATION_SHARE
        assert row.compression_file == pytest.approx(4 * 3 * 60 * 8 / whole)
