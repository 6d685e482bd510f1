"""Rows of `--suite codec` are what their figures say, and intervals are over worlds."""

import pytest

from batch.evaluation.codec_rows import CodecRow, Loads, Setup, by_world, codec_table, film_rows
from batch.evaluation.runs import Run
from tests.evaluation.runs import asked, run

RIGHT, WRONG = asked(), asked(answer="blue")
SETUP = Setup(quality="standard", calibrated=True, rows="none")
OTHER = Setup(quality="lossless", calibrated=False, rows="default")


def film(world: str, *answers: object, setup: Setup = SETUP) -> Run:
    return run(*answers, label=setup.label, video=f"{world}.mp4")  # type: ignore[arg-type]


def row(*runs: Run) -> CodecRow:
    loads = Loads(row_bytes=[2_000_000, 1_000_000], seconds=[0.5, 1.0], neutral_kl=[0.01, 0.03])
    [found] = film_rows("demo", runs, {SETUP: loads})
    return found


def test_a_row_sums_films_and_what_was_seen_of_their_files() -> None:
    found = row(film("plain-21-0", RIGHT, WRONG), film("easy-21-1", RIGHT))
    assert (found.judge, found.codec, found.quality, found.n) == ("demo", "klt", "standard", 3)
    assert found.retained == found.agreement == pytest.approx(2 / 3)
    assert (found.compression_file, found.compression_kv) == (4, 5)
    assert (found.decode_mb_s, found.neutral_kl) == (2.0, 0.02)


def test_films_of_one_world_are_one_draw() -> None:
    same = [film(f"{kind}-21-3", RIGHT, RIGHT) for kind in ("plain", "easy")]
    other = film("plain-22-3", WRONG, WRONG)
    assert [len(one.answers) for one in by_world([*same, other])] == [4, 2]
    assert by_world(same)[0].size_bytes == 2 * same[0].size_bytes
    # Whatever world is drawn twice, its share is that of three films or of one.
    assert row(*same, other).intervals["retained"] == [0.0, 1.0]
    assert row(*same).intervals["retained"] == [1.0, 1.0]


def test_each_setup_has_a_row_of_its_own_films() -> None:
    runs = [film("plain-21-0", RIGHT), film("plain-21-0", WRONG, setup=OTHER)]
    loads = {SETUP: Loads(row_bytes=[1], seconds=[1.0]), OTHER: Loads(row_bytes=[1], seconds=[1.0])}
    found = film_rows("demo", runs, loads)
    assert [(one.codec, one.rows, one.retained) for one in found] == [
        ("klt", "none", 1.0),
        ("plain", "default", 0.0),
    ]
    assert found[0].neutral_kl is None
    assert [line.split()[2:4] for line in codec_table(found).to_text()[1:]] == [
        ["klt", "standard"],
        ["plain", "lossless"],
    ]
