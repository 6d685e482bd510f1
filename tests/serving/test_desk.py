"""The model's thread: batches, one that fails among others, caches by use."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch

from batch.answering import Answer, AnswerSettings, VideoAnswerer
from batch.errors import BatchError
from batch.models import Family
from batch.serving.desk import Desk, FullError, Request
from batch.serving.library import Library, Video
from batch.serving.pages import of_all, of_video
from batch.serving.shelf import Shelf
from tests.cli.running import batch
from tests.clips import truncate

QUESTIONS = [f"what is the red star {word} ?" for word in ("a", "b", "c", "d")]


def asked(video: Video, question: str, limit: int = 8) -> tuple[Request, "Queue[Any]"]:
    heard: Queue[Any] = Queue()
    return Request(video=video, turns=(question,), limit=limit, tell=heard.put), heard


def end_of(heard: "Queue[Any]") -> Answer | Exception:
    while isinstance(told := heard.get(timeout=60), str):
        pass
    ended: Answer | Exception = told
    return ended


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions each call of the model is given."""
    found: list[int] = []
    stream = VideoAnswerer.stream

    def count(self: VideoAnswerer, questions: Sequence[Any], limits: Any = None) -> Iterator[Any]:
        found.append(len(questions))
        return stream(self, questions, limits)

    monkeypatch.setattr(VideoAnswerer, "stream", count)
    return found


def test_what_comes_together_about_a_video_is_a_batch_and_answers_as_alone(
    shelf: Shelf, library: Library, batches: list[int]
) -> None:
    one, other = library
    desk = Desk(shelf, batch_size=3, most_waiting=8)
    waiting = [asked(video, question) for question in QUESTIONS for video in (one, other)]
    for request, _ in waiting:
        desk.submit(request)
    with pytest.raises(FullError, match="8 questions are waiting"):
        desk.submit(asked(one, "a ?")[0])
    with desk:
        found = [end_of(heard) for _, heard in waiting]
    assert batches == [3, 3, 1, 1]
    for (request, _), answer in zip(waiting, found, strict=True):
        alone = shelf.get(request.video).ask_all(request.turns)
        assert answer == next(alone)


def test_a_question_that_cannot_be_asked_does_not_spoil_its_batch(
    shelf: Shelf, library: Library
) -> None:
    (video, _) = library
    waiting = [asked(video, question) for question in ("a ?", " ", "a <image>", "b ?")]
    too_long = asked(video, "c ?", limit=10_000)
    with Desk(shelf, batch_size=8, most_waiting=8) as desk:
        for request, _ in [*waiting, too_long]:
            desk.submit(request)
        found = [end_of(heard) for _, heard in waiting]
        assert "context has" in str(end_of(too_long[1]))
    assert [type(one).__name__ for one in found] == ["Answer", "BatchError", "BatchError", "Answer"]


@pytest.mark.logs_errors
@pytest.mark.parametrize("error", [ZeroDivisionError(), torch.OutOfMemoryError()])
def test_what_nobody_foresaw_is_told_and_logged_and_the_next_batch_is_answered(
    shelf: Shelf,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise error

    (video, _) = library
    with Desk(shelf, batch_size=8, most_waiting=8) as desk:
        with monkeypatch.context() as patch:
            patch.setattr(VideoAnswerer, "stream", fail)
            request, heard = asked(video, "a ?")
            desk.submit(request)
            assert end_of(heard) is error
        assert "a.mp4: cannot be answered" in caplog.text
        request, heard = asked(video, "a ?")
        desk.submit(request)
        assert isinstance(end_of(heard), Answer)


def test_a_client_that_left_is_not_answered(
    shelf: Shelf, library: Library, batches: list[int]
) -> None:
    (video, _) = library
    (left, unheard), (stays, heard) = asked(video, "a ?"), asked(video, "b ?")
    left.is_gone.set()
    with Desk(shelf, batch_size=8, most_waiting=8) as desk:
        desk.submit(left)
        desk.submit(stays)
        assert isinstance(end_of(heard), Answer)
    assert (batches, unheard.empty()) == ([1], True)


def test_caches_are_let_go_by_use_within_the_memory(family: Family, library: Library) -> None:
    one, other = library
    with_room = Shelf(family, AnswerSettings(), 1 << 30)
    with_room.get(one)
    size = with_room.held_bytes
    with_room.get(other)
    both = with_room.held_bytes
    tight = Shelf(family, AnswerSettings(), both - 1)
    first = tight.get(one)
    assert tight.get(one) is first
    tight.get(other)
    assert tight.held_bytes == both - size
    assert tight.get(one) is not first
    with pytest.raises(BatchError, match=f"takes {size:,} bytes of memory, and --memory allows"):
        Shelf(family, AnswerSettings(), size - 1).get(one)


def test_videos_are_found_by_the_beginning_of_their_id_or_a_pattern(
    library: Library, caches: Path
) -> None:
    one, other = library
    assert library.find(one.id[:8]) == library.find("a.*") == library.find(one.id) == one
    assert (one.name, other.name) == ("a.mp4", "b.mp4")
    for wanted, said in (("*.mp4", "2 videos fit"), ("../a.mp4", "no video fits"), ("", "no vi")):
        with pytest.raises(BatchError, match=said):
            library.find(wanted)
    assert [video.name for video in Library(one.cache)] == ["a.mp4"]
    (caches.parent / "empty").mkdir(exist_ok=True)
    with pytest.raises(BatchError, match="holds no cache"):
        Library(caches.parent / "empty")


def test_what_is_damaged_in_a_folder_is_named_and_the_others_are_asked(
    caches: Path, tmp_path: Path
) -> None:
    for name in ("1.safetensors", "2.safetensors", "._2.safetensors", "x.calibration.safetensors"):
        shutil.copy(caches / "a.safetensors", tmp_path / name)
    truncate(tmp_path / "2.safetensors", keep=0.5)
    library = Library(tmp_path)
    assert [video.cache.name for video in library] == ["1.safetensors"]
    (error,) = library.damaged
    assert str(error).startswith(f"{tmp_path / '2.safetensors'}: is truncated")
    result = batch("search", tmp_path, "-q", "a star")
    assert (result.exit_code, result.stderr.count("is truncated")) == (3, 1)


def test_each_cache_of_one_video_can_be_asked(family: Family, caches: Path, tmp_path: Path) -> None:
    for name in ("a.safetensors", "a small.safetensors"):
        shutil.copy(caches / "a.safetensors", tmp_path / name)
    shutil.copy(caches / "a.parquet", tmp_path / "a.parquet")
    one, other = library = Library(tmp_path)
    (video,) = Library(tmp_path / "a.safetensors")
    assert (one.id, other.id) == (video.id, "a.safetensors")
    assert (one.name, other.name) == ("a.mp4 (a small.safetensors)", "a.mp4 (a.safetensors)")
    assert (library.find("*small*"), library.find("a.safetensors")) == (one, other)
    shelf = Shelf(family, AnswerSettings(), 1 << 30)
    assert shelf.get(one) is not shelf.get(other)
    shelf.close()
    page = of_all(list(library))
    assert f'href="/videos/{video.id}"' in page
    assert 'href="/videos/a.safetensors"' in page
    assert str(tmp_path) not in of_video(other)
