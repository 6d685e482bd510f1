"""The videos that can be asked: of a cache, of a folder of caches, or of an archive's work."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.archive.asking import choose_caches
from batch.archive.catalogue import catalogue_rows, shown_name
from batch.archive.store import ProductFolder, Store
from batch.errors import BatchError
from batch.settings import WriterSettings
from cachefmt import CacheFileError, open_segments
from cachefmt.calibration_files import SUFFIX as _NO_CACHE
from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX
from jobs.runs import had_runs

if TYPE_CHECKING:
    from batch.models import Family

_LOOK_EVERY_S = 10.0
_SHOWN = 10
_SHORTEST_ID = 6


@dataclass(frozen=True, kw_only=True)
class Video:
    """A video that can be asked.

    - id: digest of its content; of its second cache in a folder, the name of that.
    - name: its path, or its file's name, as people know it; of several caches with theirs behind.
    - facts: what is known of it, by the columns of the catalogue.
    """

    id: str
    name: str
    cache: Path
    facts: Mapping[str, Any] = field(repr=False, compare=False)


class Library:
    """The videos that there were when they were last looked for."""

    def __init__(self, path: Path, work: str | None = None) -> None:
        """Look for them.

        Args:
            path: a cache, a folder with caches in it, or one that batch index writes, of which
                `work` may choose the work.

        Raises:
            BatchError, CacheFileError: there are none.
        """
        self._path = path
        self._caches: ProductFolder | None = None
        if path.is_dir() and had_runs(path):
            self._store = Store(path)
            self._caches = choose_caches(self._store, work)  # once: a model is loaded for it
        self._videos: dict[str, Video] = {}
        self.damaged: list[CacheFileError] = []
        """Of a folder of files: what is wrong with those that cannot be opened."""
        self._looked_s = 0.0
        self.refresh()
        if not self._videos:
            holds_none = BatchError(f"{path}: holds no cache of a video that could be asked")
            raise next(iter(self.damaged), holds_none)

    @property
    def folder(self) -> Path:
        """Where the caches are."""
        return self._path if self._path.is_dir() else self._path.parent

    def __iter__(self) -> Iterator[Video]:
        return iter(self._videos.values())

    def __len__(self) -> int:
        return len(self._videos)

    @property
    def captions(self) -> Path:
        """The file of what the scenes of all videos show, by which they are searched."""
        if self._caches is not None:
            return self._store.captions(self._caches.id)
        return self.folder / "captions" / "all.parquet"

    def refresh(self) -> None:
        """Look again, if the last time is some seconds ago: runs may have made some since."""
        now_s = time.monotonic()
        if self._videos and now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        self.damaged = []
        if self._caches is None:
            found = _told_apart(self._of_files())
        else:
            found = self._of_work(self._caches)
        self._videos = {video.id: video for video in found}

    def get(self, id: str) -> Video | None:
        return self._videos.get(id)

    def find(self, wanted: str) -> Video:
        """The video of an ID, of its beginning, or of a pattern of its whole name.

        Raises:
            BatchError: it is none, or it could be several.
        """
        found = [
            video
            for video in self
            if fnmatch(video.name, wanted)
            or (len(wanted) >= _SHORTEST_ID and video.id.startswith(wanted))
        ]
        if len(found) == 1:
            return found[0]
        what = f"{len(found):,} videos fit" if found else "no video fits"
        choice = found or list(self)
        some = "".join(f"\n  {video.id[:12]}  {video.name}" for video in choice[:_SHOWN])
        more = f"\n  and {len(choice) - _SHOWN:,} more" if len(choice) > _SHOWN else ""
        raise BatchError(f"{self._path}: {what} {wanted!r}; there are:{some}{more}")

    def load_model(self, how: WriterSettings) -> "Family":
        """Load the model that wrote the caches.

        Raises:
            ModelError: it is not there, or another.
            CacheFileError: no cache says which.
        """
        from batch.answering.opening import open_writer  # torch only when needed

        problem: CacheFileError | None = None
        for video in self:
            try:
                segments = open_segments(video.cache)
            except CacheFileError as error:
                problem = error
                continue
            with segments[0]:
                opened = open_writer(segments[0], video.cache, how)
            for segment in segments[1:]:
                segment.close()
            return opened.load()
        raise problem or BatchError(f"{self._path}: holds no cache")

    def _of_work(self, caches: ProductFolder) -> Iterator[Video]:
        for row in catalogue_rows(self._store, caches):
            if row["status"] == "done":
                cache = self._store.root / row["cache"]
                yield Video(id=row["video"], name=row["path"], cache=cache, facts=row)

    def _of_files(self) -> Iterator[Video]:
        """Of the caches in a folder those that can be opened; of one named alone the error."""
        is_cache = self._path.is_file() or self._path.suffix == FOLDER_SUFFIX
        try:
            found = [self._path] if is_cache else sorted(self._path.iterdir())
        except OSError as error:
            raise BatchError(f"{self._path}: cannot be read: {error.strerror}") from error
        for cache in found:
            is_named = cache.suffix in (FILE_SUFFIX, FOLDER_SUFFIX)
            if not is_named or cache.name.startswith(".") or cache.name.endswith(_NO_CACHE):
                continue
            try:
                segments = open_segments(cache)
            except CacheFileError as error:
                if is_cache:
                    raise
                self.damaged.append(error)
                continue
            for segment in segments:
                segment.close()
            about = segments[0].header.video
            name = shown_name(about.name)
            facts = {
                "video": about.sha256,
                "path": name,
                "paths": [name],
                "status": "done",
                "cache": str(cache),
                "cache_bytes": sum(segment.size_bytes for segment in segments),
                "fp16_kv_bytes": sum(segment.header.fp16_kv_bytes for segment in segments),
            }
            yield Video(id=about.sha256, name=name, cache=cache, facts=facts)


def _told_apart(videos: Iterable[Video]) -> Iterator[Video]:
    """Several caches of one video by the names of their files; the first has the video's ID."""
    found, taken = list(videos), set[str]()
    caches = Counter(video.id for video in found)
    for video in found:
        if caches[video.id] > 1:
            file = shown_name(video.cache.name)
            id = file if video.id in taken else video.id
            taken.add(id)
            name = f"{video.name} ({file})"
            facts = {**video.facts, "path": name, "paths": [*video.facts["paths"], name]}
            video = replace(video, id=id, name=name, facts=facts)
        yield video
