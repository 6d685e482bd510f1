"""`batch ask`: a line a question, each behind the conversation before it."""

import webbrowser
from pathlib import Path
from typing import Any

import pytest
import torch

from batch.answering import VideoAnswerer, open_cache
from tests.cli.running import batch, succeed

QUESTIONS = ["what is the red star doing ?", "a b c d ?"]


def test_a_question_sees_those_before_it_until_a_new_conversation(cache: Path) -> None:
    lines = succeed("ask", cache, stdin="\n".join([*QUESTIONS, "/new", "", QUESTIONS[1]]))
    alone = [*succeed("answer", cache, *(word for q in QUESTIONS for word in ("-q", q)))]
    with open_cache(cache) as video:
        first = video.ask(QUESTIONS[0]).text
        second = video.ask((QUESTIONS[0], first, QUESTIONS[1])).text
    assert lines == [alone[0], lines[1], alone[1]]
    assert lines[1].split("\t")[0] == second
    assert lines[1] != alone[1]


def test_what_cannot_be_asked_is_told_and_the_next_line_is_heard(cache: Path) -> None:
    result = batch("ask", cache, stdin="a <image> ?\n/nothing\n/video none\na ?\n")
    assert result.exit_code == 3
    assert len(result.stdout.splitlines()) == 1
    assert "error: a question holds '<image>'" in result.stderr
    assert "/new           forget the conversation" in result.stderr
    assert "no video fits 'none'; there are:\n  " in result.stderr
    assert batch("ask", cache, stdin="a <image> ?\n").exit_code == 1
    assert batch("ask", cache, stdin=b"\xff\n").exit_code == 2


def test_memory_that_is_not_there_costs_one_question(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = VideoAnswerer.stream

    def short(self: VideoAnswerer, turns: Any) -> Any:
        if turns == [(QUESTIONS[0],)]:
            raise torch.OutOfMemoryError("no room")
        return stream(self, turns)

    monkeypatch.setattr(VideoAnswerer, "stream", short)
    result = batch("ask", cache, stdin="\n".join(QUESTIONS))
    assert (result.exit_code, result.stderr.count("error: no room")) == (3, 1)
    assert len(result.stdout.splitlines()) == 1


def test_of_several_videos_one_is_chosen(
    model: Path, clip: Path, cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "caches"
    other = tmp_path / "other\t1\n.mp4"
    other.write_bytes(clip.read_bytes() + b"\0" * 64)
    succeed("prefill", clip, other, "--out", folder, "--model", model)
    result = batch("ask", folder, stdin="a ?\n")
    assert (result.exit_code, "2 videos can be asked: choose one" in result.stderr) == (2, True)
    stdin = f"{QUESTIONS[0]}\n/video\n/video clip*\n{QUESTIONS[0]}\n"
    result = batch("ask", folder, "--video", "other*", stdin=stdin)
    assert result.exit_code == 0, result.stderr
    assert "asking other\\t1\\n.mp4\n" in result.stderr  # a name stays in its line
    assert result.stderr.count("asking ") == 2
    assert len(set(result.stdout.splitlines())) == 1  # the same film, and a conversation anew


def test_evidence_is_a_page_in_the_browser(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def show(address: str) -> bool:
        opened.append(Path(address.removeprefix("file://")).read_text())
        return True

    monkeypatch.setattr(webbrowser, "open", show)
    result = batch("ask", cache, stdin=f"/evidence\n{QUESTIONS[0]}\n/evidence\n")
    assert (result.exit_code, "error: nothing is answered yet" in result.stderr) == (3, True)
    (page,) = opened
    assert QUESTIONS[0] in page
    assert result.stdout.split("\t")[0] in page
