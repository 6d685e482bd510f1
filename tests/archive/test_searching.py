"""The captions of an archive: kept in one file, up to date, and searched."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq
import pytest

from batch.answering import captions
from batch.answering.captions import Caption
from batch.archive.searching import CaptionIndex, update
from batch.errors import BatchError
from batch.models import Family
from batch.video import TimeRange
from cachefmt import CacheFileError
from tests import clips
from tests.archive.conftest import IndexedArchive
from tests.cli.running import batch, objects, succeed


@dataclass
class Archive:
    """Text files for caches, a line a scene, and a model that reads them out."""

    folder: Path
    described: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    reads: Callable[[Path], None] = lambda path: None

    @property
    def file(self) -> Path:
        return self.folder / "captions" / "x.parquet"

    def put(self, **videos: str) -> None:
        for name, text in videos.items():
            (self.folder / name).write_text(text)

    def describe(self, cache: Path, family: Family) -> list[Caption]:
        self.described.append(cache.name)
        self.reads(cache)
        lines = cache.read_text().splitlines()
        if "damaged" in lines:
            raise CacheFileError(cache, "is damaged")
        return [
            Caption(time=TimeRange(start_s=at, stop_s=at + 1), text=line)
            for at, line in enumerate(lines)
        ]

    def update(self, *wanted: str) -> CaptionIndex:
        caches = {path.name: path for path in self.folder.iterdir() if path.is_file()}
        return update(
            self.file,
            caches,
            wanted or caches,
            lambda: cast(Family, object()),
            watch=counted,
            failed=self.failed.append,
            waiting=lambda text: None,
        )


@contextmanager
def counted(total: int) -> Iterator[Callable[[int], object]]:
    yield lambda more: None


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    found = Archive(tmp_path / "caches")
    found.folder.mkdir()
    monkeypatch.setattr(captions, "describe", found.describe)
    found.put(
        a="a red circle and a blue cross on grass\na green star on sand",
        b="a blue circle and a red cross on grass",
        c="a green ring and a pink square on water",
    )
    return found


def videos(index: CaptionIndex, question: str) -> list[str]:
    return [scene.video for scene in index.search(question)]


def test_what_is_side_by_side_in_a_question_is_found_side_by_side(archive: Archive) -> None:
    index = archive.update()
    assert videos(index, "where is the RED circle, where the blue cross?") == ["a", "b"]
    assert videos(index, "blue circle") == ["b", "a"]
    (scene,) = index.search("the star")
    assert (scene.time.start_s, scene.caption) == (1, "a green star on sand")
    assert videos(index.only(["b", "c"]), "red circle") == ["b"]
    assert videos(index, "bead") == videos(index, "?") == []
    assert videos(index, "a pink square") == ["c", "b", "a"]
    assert [scene.video for scene in index.best("a pink square", 5)] == ["c"]


def test_words_of_scripts_without_spaces_are_found(archive: Archive) -> None:
    archive.put(d="草の上の赤い円", e="砂の上の青い星")
    assert videos(archive.update(), "青い星はどこ") == ["e", "d"]


def test_words_are_found_however_their_letters_are_encoded_and_with_their_marks(
    archive: Archive,
) -> None:
    archive.put(d="un caf\u00e9 bleu", e="लाल बिल्ली", f="लाल बल")
    index = archive.update()
    assert videos(index, "Cafe\u0301") == ["d"]
    assert videos(index, "बिल्ली") == ["e"]


def test_only_what_is_wanted_and_new_or_changed_is_described_and_what_is_gone_is_dropped(
    archive: Archive,
) -> None:
    assert videos(archive.update("b"), "circle") == archive.described == ["b"]
    archive.update()
    assert archive.described[0] == "b"
    assert sorted(archive.described) == ["a", "b", "c"]
    archive.put(b="a black cat", d="a white cat")
    (archive.folder / "c").unlink()
    index = archive.update()
    assert sorted(archive.described[3:]) == ["b", "d"]
    assert sorted(videos(index, "cat")) == ["b", "d"]
    assert videos(index, "ring") == []
    before = archive.file.read_bytes()
    (archive.folder / "d").unlink()
    index = archive.update()  # writes nothing, for it may not be allowed to
    assert (videos(index, "circle"), videos(index, "cat")) == (["a"], ["b"])
    assert (len(archive.described), archive.file.read_bytes()) == (5, before)


def test_a_damaged_cache_costs_only_itself_and_is_tried_again(archive: Archive) -> None:
    archive.put(b="damaged")
    index = archive.update()
    assert archive.failed == [f"{archive.folder / 'b'}: is damaged"]
    assert videos(index, "green") == ["a", "c"]
    archive.put(b="a green cat")
    assert sorted(videos(archive.update(), "green")) == ["a", "b", "c"]


def test_what_was_described_before_an_interruption_is_kept(archive: Archive) -> None:
    def interrupt(cache: Path) -> None:
        if len(archive.described) == 3:
            raise KeyboardInterrupt

    archive.reads = interrupt
    with pytest.raises(KeyboardInterrupt):
        archive.update()
    third = archive.described[-1]
    archive.update()
    assert archive.described[3:] == [third]


def test_two_at_once_describe_nothing_twice(archive: Archive) -> None:
    other = threading.Thread(target=archive.update)

    def start_other(cache: Path) -> None:
        if len(archive.described) == 1:
            other.start()
            other.join(0.2)
            assert other.is_alive()  # it waits

    archive.reads = start_other
    archive.update()
    other.join()
    assert sorted(archive.described) == ["a", "b", "c"]


def test_a_damaged_file_of_captions_is_named_and_another_version_is_made_anew(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.update()
    whole = archive.file.read_bytes()
    archive.file.write_bytes(whole[:-20])
    with pytest.raises(BatchError, match=r"x\.parquet: cannot be read: .* makes it anew"):
        archive.update()
    archive.file.write_bytes(whole)
    other = pq.read_table(archive.file).replace_schema_metadata({"sali-cache.captions": "0"})
    pq.write_table(other, archive.file)
    archive.update()
    assert len(archive.described) == 6


BLUE_CIRCLE = "a blue circle on dark grass"


@pytest.fixture
def told(indexed: IndexedArchive, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Of which caches it was told what they show: a film by its place among all caches."""
    order = sorted(indexed.out.rglob("works/**/*.safetensors"))
    shown = ["a red circle and a blue cross", BLUE_CIRCLE, "a green star"]
    found: list[Path] = []

    def tell(cache: Path, family: Family) -> list[Caption]:
        found.append(cache)
        (text,) = [what for file, what in zip(order, shown, strict=True) if file.name == cache.name]
        return [Caption(time=TimeRange(start_s=1, stop_s=2), text=text)]

    monkeypatch.setattr(captions, "describe", tell)
    return found


def test_a_search_lists_videos_and_times_and_needs_the_model_once(
    copied_out: Path, told: list[Path]
) -> None:
    command = ("search", copied_out, "-q", "who has a blue circle ?")
    found = objects(succeed(*command, "--json"))
    assert len(told) == 3
    assert [one["caption"] for one in found[:2]] == [
        BLUE_CIRCLE,
        "a red circle and a blue cross",
    ]
    assert found[0]["score"] > found[1]["score"] > 0
    lines = succeed(*command, "--top", 1, "--model", copied_out / "none")
    assert lines == [f"{found[0]['path']}\t00:00:01-00:00:02\t{BLUE_CIRCLE}"]
    assert succeed(*command, "--match", found[1]["path"])[0].startswith(found[1]["path"])
    result = batch("search", copied_out, "-q", "red", "--match", "*.none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "of 3 videos none fits --match '*.none'; a pattern is" in result.stderr
    result = batch("search", copied_out, "-q", "beads")
    assert "no scene of 3 videos was described with a word of 'beads'" in result.stderr
    assert len(told) == 3


def test_the_best_videos_answer_and_a_damaged_one_costs_itself(
    copied_out: Path, told: list[Path]
) -> None:
    asked = ("-q", "which circle ?", "--max-new-tokens", 3)
    (line,) = succeed("ask", copied_out, *asked, "--top", 1)
    answer, where = line.split("\t")
    assert where.startswith("in 1 of 3 videos: ")
    best, _, _ = where.removeprefix("in 1 of 3 videos: ").partition(" at ")
    (one, two) = objects(succeed("ask", copied_out, *asked, "--json"))
    assert one["likelihood"] >= two["likelihood"]
    (same,) = [found for found in (one, two) if found["path"] == best]
    assert same["answer"] == answer
    (cache,) = copied_out.rglob(f"{same['video']}.safetensors")
    clips.truncate(cache, keep=0.9)
    result = batch("ask", copied_out, *asked)
    assert result.exit_code == 3
    assert f"error: {cache}: is truncated" in result.stderr


def test_a_question_to_all_needs_a_folder(indexed: IndexedArchive) -> None:
    cache = min(indexed.out.rglob("works/**/*.safetensors"))
    assert batch("search", cache, "-q", "a ?").exit_code == 2
    assert batch("ask", cache, "-q", "a ?").exit_code == 2
    assert batch("ask", indexed.out, "--video", "a", "-q", "a ?").exit_code == 2
    assert "--top goes with -q" in batch("ask", indexed.out, "--top", 2).stderr


@pytest.mark.parametrize("question", ["", "?!", "yellow \udcff"])
def test_a_question_without_words_is_refused_before_anything_is_described(
    indexed: IndexedArchive, told: list[Path], question: str
) -> None:
    for command in ("search", "ask"):
        assert batch(command, indexed.out, "-q", question).exit_code == 2
    assert not told
