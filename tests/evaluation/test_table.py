"""A row a method; a comparison that proves nothing is void."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import pytest

from batch.errors import BatchError
from batch.evaluation.answers import read_external
from batch.evaluation.comparison import Comparison, Judged, join_rows, publish
from batch.evaluation.figures import failures
from batch.evaluation.runs import UNCOMPRESSED, Run
from batch.evaluation.storing import PreparedVideo
from batch.evaluation.summary import NEXT_TOKENS, tabulate, void_reason
from batch.evaluation.tables import accuracy_table, memory_table, quality_table
from batch.video import Geometry
from tests.evaluation.runs import OURS, asked, run, uncompressed
from tests.manifests import make_manifest, random_pictures

KEYS = {
    *("judge", "method", "profile", "kind", "in_file", "n", "accuracy", "agreement_em", "bleu"),
    *("rouge_l", "empty_share", "bytes", "compression_fp16", "seconds_per_sample", "peak_bytes"),
    "intervals",
}
JUDGE = "demo"
TRUTHS = ("red", "green", "blue")


def seen(**how: str) -> list:
    """Right answers to three questions with different truths."""
    return [asked(truth, how.get("answer", truth), reference=truth) for truth in TRUTHS]


def test_a_row_has_the_promised_keys() -> None:
    rows = tabulate([uncompressed(*seen()), run(*seen())], JUDGE)
    assert [row.label for row in rows] == [UNCOMPRESSED, OURS]
    found = rows[1].to_dict()
    assert set(found) >= KEYS
    assert found["intervals"].keys() >= {"accuracy", "compression_fp16", "seconds_per_sample"}
    assert found["void"] is None
    assert (found["judge"], found["kind"], found["in_file"]) == (JUDGE, "before", True)


def test_answers_without_a_word_are_no_agreement() -> None:
    silent = [asked(truth, "", reference="") for truth in TRUTHS]
    (row, _) = tabulate([uncompressed(*silent), run(*silent)], JUDGE)
    assert row.figures["agreement_em"].value == 1.0
    assert row.void == "every answer is empty"
    cells = quality_table([row]).rows[0]
    assert "void" in cells
    assert not any("1.000" in cell for cell in cells)


def test_methods_that_are_no_better_than_one_constant_answer_are_void() -> None:
    constant = [asked(truth, "red", reference="red") for truth in TRUTHS]
    assert "same answer to all (0.333)" in (void_reason([uncompressed(*constant)]) or "")
    assert void_reason([uncompressed(*seen())]) is None


def test_guessing_among_options_is_chance() -> None:
    options = ("red", "green")
    half = [
        asked("red", "red", options=options, kind="a"),
        asked("green", "red", options=options, kind="b"),
    ]
    assert void_reason([uncompressed(*half)]) is not None


def test_accuracy_is_told_by_kind_and_by_set() -> None:
    one = run(asked(kind="a"), asked(answer="blue", kind="b"), data="easy")
    rows = tabulate([one, run(asked(kind="a"), data="hard")], JUDGE)
    kinds = accuracy_table("kinds", lambda run, one: one.question.kind, rows)
    sets = accuracy_table("sets", lambda run, one: run.data, rows)
    named = [JUDGE, str(OURS)]
    assert (kinds.head[2:], kinds.rows) == (["a", "b"], [[*named, "1.000", "0.000"]])
    assert (sets.head[2:], sets.rows) == (["easy", "hard"], [[*named, "0.500", "1.000"]])


def test_shares_of_cells_count_pointers_apart() -> None:
    cells = memory_table(tabulate([run(*seen())], JUDGE)).rows[0]
    assert cells[2:7] == ["20.0%"] * 5
    assert cells[7:] == ["250", "4.00", "8.00", "5.00"]


def test_right_answers_of_text_are_what_was_hidden_and_all_else_is_of_its_next_tokens() -> None:
    """One of four next tokens is another, and one of two numbers is lost."""
    followed = [asked(kind=NEXT_TOKENS, answer=said) for said in ("red", "red", "red", "blue")]
    texts = run(*followed, data=NEXT_TOKENS, size_bytes=100)
    hidden = run(asked(kl=9.0), asked(answer="blue", kl=9.0), data="needles", size_bytes=900)
    [row] = tabulate([texts, hidden], "prose")
    found = row.to_dict()
    assert (found["n"], found["retained"], found["agreement_em"]) == (2, 0.5, 0.75)
    assert (found["kl"], found["bytes"], found["bleu"]) == (0.5, 100, None)


def test_rows_from_elsewhere_join_the_judge_of_whose_films_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rivals.jsonl"
    path.write_text("\n".join(_line(truth, truth) for truth in TRUTHS))
    own = judged("demo", uncompressed(*seen()))
    other = judged("seeing", uncompressed(*seen(), video="short.mp4"))
    assert [len(one.runs) for one in join_rows([own, other], path)] == [2, 1]
    for judges in ([other], [own, own]):
        with pytest.raises(BatchError, match=r"rivals.jsonl: answers about films of [02] judges"):
            join_rows(judges, path)


def judged(judge: str, *runs: Run) -> Judged:
    return Judged(judge=judge, model="", dtype="", device="", sets=[], runs=runs)


def test_failures_are_what_only_the_method_lost_the_worst_of_each_video_first() -> None:
    lost = [asked(answer="blue", kl=kl) for kl in (1.0, 3.0)]
    elsewhere = asked(answer="blue", kl=2.0)
    both_wrong = asked(answer="blue", reference="blue", kl=9.0)
    runs = [run(*lost, both_wrong, asked(), video="a"), run(elsewhere, video="b")]
    found = [one for _, one in failures(runs, 5)]
    assert found == [lost[1], elsewhere, lost[0]]
    assert len(failures(runs, 2)) == 2


def test_a_failure_is_written_down_with_a_sheet_of_its_samples(tmp_path: Path) -> None:
    geometry = Geometry(height_px=28, width_px=28, rows=2, columns=2)
    manifest = make_manifest(random_pictures(3, geometry), geometry)
    video = cast(PreparedVideo, SimpleNamespace(manifest=lambda *_: manifest))
    runs = [uncompressed(asked()), run(asked(answer="blue"))]
    found = replace(judged("demo", *runs), prepare=lambda _: video)
    publish(Comparison(judged=[found]), tmp_path, "batch evaluate")
    sheet = cv2.imread(str(tmp_path / "results" / "failure-1.jpg"))
    assert sheet is not None
    assert sheet.shape[0] > 2 * 224  # three tiles of 224 px in two columns
    assert "results/failure-1.jpg" in (text := (tmp_path / "RESULTS.md").read_text())
    assert "uncompressed 'red', sali-cache default 'blue'" in text


def test_rows_from_elsewhere_are_measured_on_the_same_questions(tmp_path: Path) -> None:
    path = tmp_path / "rivals.jsonl"
    lines = [
        _line(truth, answer) for truth, answer in zip(TRUTHS, ["red", "x", "blue"], strict=True)
    ]
    path.write_text("\n".join([*lines, _line("red", "red", video="other.mp4")]))
    (found,) = read_external(path, [uncompressed(*seen())])
    (row,) = tabulate([found], JUDGE)
    assert str(row.label) == "snapkv 4 times"
    assert row.figures["accuracy"].value == pytest.approx(2 / 3)
    assert row.figures["compression_fp16"].value == pytest.approx(4.0)
    assert row.figures["kl"].value is None


def test_rows_that_lack_an_answer_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rivals.jsonl"
    path.write_text(_line("red", "red"))
    with pytest.raises(BatchError, match=r"rivals.jsonl: snapkv 4 times lacks 2 of 3 answers"):
        list(read_external(path, [uncompressed(*seen())]))


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"method": "x"}', b"\xff"])
def test_a_broken_line_is_refused_with_its_number(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "rivals.jsonl"
    path.write_bytes(b"%s\n%s\n" % (_line("red", "red").encode(), text))
    with pytest.raises(BatchError, match=r"rivals.jsonl, line 2"):
        list(read_external(path, [uncompressed(*seen())]))


def _line(truth: str, answer: str, video: str = "film.mp4") -> str:
    return (
        f'{{"method": "snapkv", "profile": "4 times", "video": "{video}", '
        f'"question": "what is {truth} ?", "answer": "{answer}", "bytes": 250, "seconds": 1.5}}'
    )
