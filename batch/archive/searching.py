"""Which videos of an archive a question is about: by captions of their scenes, all in one file.

The file is scanned whole. Rows of a video count as long as its cache is as it was, and a cache is
described by the model alone that wrote it. Knows Arrow and words; knows no model.
"""

import io
import re
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batch.archive.asking import unusable
from batch.errors import BatchError
from batch.video import TimeRange
from jobs.atomic import make_folder, write_whole
from jobs.locks import held

if TYPE_CHECKING:
    from batch.models import Family

_COLUMNS: dict[str, pa.DataType] = {
    "video": pa.string(),
    "size_bytes": pa.int64(),
    "mtime_ns": pa.int64(),
    "start_s": pa.float64(),
    "stop_s": pa.float64(),
    "caption": pa.string(),
    "words": pa.string(),
}
SCHEMA = pa.schema(_COLUMNS, {"sali-cache.captions": "2"})
"""A row a scene; README.md beside this file says what it holds. The number is the version: of what
words are, and of how captions are asked for."""

_WRITE_EVERY_S = 60.0
State = tuple[int, int]
"""Bytes and time (ns) of a cache: what changes when it does, without opening it."""

_NEARLY = 0.7
"""Share of the best score from which on a video is asked.

Source: 125 questions about two things of a scene of one of 500 drawn films, demo model, five films
listed: 0.65 of those asked show both, and 0.89 of those that could are asked; from 0.5 on 0.53 and
0.90, from 0.8 on 0.83 and 0.82.
"""
_SATURATION, _LENGTH_SHARE = 1.2, 0.75
"""Source: k1 and b of BM25 as they are usual: Robertson and Zaragoza 2009, section 3.2."""
_ALONE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""In scripts without spaces each letter is a word: Thai, Lao, Burmese, Khmer, Kana, Han."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene, and how much a question is about it."""

    video: str
    time: TimeRange
    caption: str
    score: float
    """Above 0; of one search scores can be compared."""


class CaptionIndex:
    """The captions that an archive has, as they were when they were read."""

    def __init__(self, table: pa.Table) -> None:
        """table: by `SCHEMA`."""
        self._table = table

    @cached_property
    def _states(self) -> dict[str, State]:
        """Of each video's cache when it was described."""
        columns = (self._table[name].to_pylist() for name in ("video", "size_bytes", "mtime_ns"))
        return {video: (size, time) for video, size, time in zip(*columns, strict=True)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file; empty if there is none, or it is one of another version.

        Raises:
            BatchError: it is damaged.
        """
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            return cls(SCHEMA.empty_table())
        except (OSError, pa.ArrowException) as error:
            raise BatchError(
                f"{path}: cannot be read: {error}; without it batch search makes it anew"
            ) from error
        is_known = table.schema.equals(SCHEMA, check_metadata=True)
        return cls(table if is_known else SCHEMA.empty_table())

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        sink = io.BytesIO()
        pq.write_table(self._table, sink, compression="zstd")
        write_whole(path, sink.getvalue())

    def stale(self, caches: Mapping[str, Path]) -> dict[str, Path]:
        """The caches, by their videos, of which there are no captions as they are now."""
        states = self._states
        return {video: path for video, path in caches.items() if states.get(video) != _state(path)}

    def only(self, videos: Collection[str]) -> "CaptionIndex":
        """The captions of some videos."""
        wanted = pa.array(list(videos), pa.string())
        return CaptionIndex(self._table.filter(pc.is_in(self._table["video"], wanted)))

    def with_rows(self, rows: list[dict[str, Any]]) -> "CaptionIndex":
        added = pa.Table.from_pylist(rows, SCHEMA)
        return CaptionIndex(pa.concat_tables([self._table, added]))

    def search(self, question: str) -> Iterator[Scene]:
        """The best scene of each video that shares a word with the question, best first."""
        scores = _scores(self._table["words"], question)
        seen = set()
        for row in np.argsort(-scores, kind="stable"):
            if scores[row] <= 0:
                return
            (found,) = self._table.slice(row, 1).to_pylist()
            if found["video"] not in seen:
                seen.add(found["video"])
                time = TimeRange(start_s=found["start_s"], stop_s=found["stop_s"])
                shown = {name: found[name] for name in ("video", "caption")}
                yield Scene(**shown, time=time, score=float(scores[row]))

    def best(self, question: str, most: int) -> list[Scene]:
        """The first ones of `search`, at most so many: those with `_NEARLY` of the best score."""
        scenes = list(islice(self.search(question), most))
        return [scene for scene in scenes if scene.score >= _NEARLY * scenes[0].score]


def update(
    path: Path,
    caches: Mapping[str, Path],
    wanted: Collection[str],
    load: Callable[[], "Family"],
    *,
    watch: Callable[[int], AbstractContextManager[Callable[[int], object]]],
    failed: Callable[[str], object],
    waiting: Callable[[str], object],
) -> CaptionIndex:
    """Read the captions of some videos, and first describe caches that are new or changed.

    What is described is written once a minute, and at any end, without those that are gone.

    Args:
        path: the file of the captions of an archive.
        caches: all there are, by their videos' digests; of these some are wanted.
        load: gives the model that wrote them; called only if one is to be described.
        watch: given how many are to be described; gives what is told of each that was.
        failed: told of each that cannot be; the next call tries again.
        waiting: told if another process describes them, which is waited for.

    Raises:
        BatchError: the file is damaged, or the model cannot be loaded.
        JobError: it cannot be written.
    """
    chosen = {video: caches[video] for video in wanted}
    index = CaptionIndex.read(path)
    if index.stale(chosen):
        make_folder(path.parent)
        with held(path.parent, [path.name], waiting):
            index = CaptionIndex.read(path)  # another process may have described some meanwhile
            if stale := index.stale(chosen):
                others = index.only(caches.keys() - stale.keys())
                index = _described(others, stale, load(), path, watch, failed)
    return index.only(chosen)


def _described(
    index: CaptionIndex,
    caches: Mapping[str, Path],
    family: "Family",
    path: Path,
    watch: Callable[[int], AbstractContextManager[Callable[[int], object]]],
    failed: Callable[[str], object],
) -> CaptionIndex:
    """The index with the captions of some more caches; arguments as of `update`."""
    rows: list[dict[str, Any]] = []
    written_s = time.monotonic()
    try:
        with watch(len(caches)) as done:
            for video, cache in caches.items():
                try:
                    rows += _rows(video, cache, family)
                except unusable() as error:
                    failed(str(error))
                done(1)
                if time.monotonic() - written_s > _WRITE_EVERY_S:
                    index, rows, written_s = index.with_rows(rows), [], time.monotonic()
                    index.write(path)
    finally:
        index = index.with_rows(rows)
        index.write(path)
    return index


def _rows(video: str, cache: Path, family: "Family") -> list[dict[str, Any]]:
    from batch.answering.captions import describe

    state = _state(cache)  # before it is read: what is written meanwhile is described again
    return [scene_row(video, state, one.time, one.text) for one in describe(cache, family)]


def scene_row(video: str, state: State, time: TimeRange, caption: str) -> dict[str, Any]:
    """A row of `SCHEMA`."""
    size_bytes, mtime_ns = state
    return {
        "video": video,
        "size_bytes": size_bytes,
        "mtime_ns": mtime_ns,
        **asdict(time),
        "caption": caption,
        "words": _spelled(words_of(caption)),
    }


def _state(cache: Path) -> State:
    """That of a file or folder; of one that is gone none such."""
    try:
        found = cache.stat()
    except FileNotFoundError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def words_of(text: str) -> list[str]:
    """What is compared: the words of a text, whatever their case and however they are encoded."""
    letters = unicodedata.normalize("NFKC", text.casefold())
    is_mark = {one for one in letters if unicodedata.category(one).startswith("M")}
    in_words = (one if one.isalnum() or one in is_mark else " " for one in letters)
    return _ALONE.sub(r" \g<0> ", "".join(in_words)).split()


def _spelled(words: Sequence[str]) -> str:
    """Words between spaces of their own: so each is found by a plain search for it, and so are
    several that follow each other.
    """
    return f" {'  '.join(words)} "


def _scores(captions: "pa.ChunkedArray[Any]", question: str) -> NDArray[np.float64]:
    """How much a question is about each caption, as `_spelled`: BM25 of words and of neighbours.

    Two neighbours count as a word: without, a red circle and a blue cross are not told from a blue
    circle and a red cross. Words that are in no caption count for nothing.

    Source: `python -m tests.archive.search_recall --films 500`, demo model: of questions that name
    two things of one scene, shape and colour, 0.970 find a film that shows them first and 0.982
    among five, without neighbours 0.494 and 0.892. Of 150 of these films, keys in the place of
    captions find 0.00 to 0.03 first (by chance 0.00) and 0.16 to 0.33 among 20 (0.18): scores of
    the question's queries with the mean key of each sample, or with its best cell, of all heads or
    of those best at it.
    """
    words = words_of(question)
    terms = {_spelled(one) for one in (*zip(words), *pairwise(words))}
    scores = np.zeros(len(captions))
    lengths = pc.count_substring(captions, "  ").to_numpy() + 1.0
    relative = (
        1 - _LENGTH_SHARE + _LENGTH_SHARE * lengths / max(1.0, lengths.sum() / max(1, len(lengths)))
    )
    for term in sorted(terms):
        counts = pc.count_substring(captions, term).to_numpy().astype(np.float64)
        holding = np.count_nonzero(counts)
        rarity = np.log1p((len(captions) - holding + 0.5) / (holding + 0.5))
        scores += rarity * counts * (_SATURATION + 1) / (counts + _SATURATION * relative)
    return scores
