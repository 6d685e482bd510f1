"""The PNGs of a video's samples, on disk until one is asked for. Knows no samples' meaning."""

import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batch.errors import ManifestError

ROWS_TOGETHER = 32
"""Samples whose pictures a manifest is written and read with at a time: a row group."""

Pictures = Sequence[bytes | None]
"""PNG of each kept sample, None for pointers: a list, or what lies on disk."""


class StoredPictures(Pictures):
    """Pictures on disk; a slice of them is one too.

    - fetch: gives the PNG of a stored sample; rows: which of them these are, None: all.
    - digests: SHA-256 of each PNG, None where there is none.
    """

    def __init__(
        self,
        fetch: Callable[[int], bytes],
        digests: Sequence[bytes | None],
        rows: Sequence[int] | None = None,
    ) -> None:
        self._fetch = fetch
        self.digests = digests
        self._rows = range(len(digests)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.digests)

    @overload
    def __getitem__(self, index: int) -> bytes | None: ...
    @overload
    def __getitem__(self, index: slice) -> "StoredPictures": ...
    def __getitem__(self, index: int | slice) -> "bytes | StoredPictures | None":
        if isinstance(index, slice):
            return StoredPictures(self._fetch, self.digests[index], self._rows[index])
        return None if self.digests[index] is None else self._fetch(self._rows[index])

    def taken(self, rows: Sequence[int]) -> "StoredPictures":
        """Those of some samples, in any order."""
        digests = [self.digests[row] for row in rows]
        return StoredPictures(self._fetch, digests, [self._rows[row] for row in rows])

    def only(self, stays: Sequence[bool]) -> "StoredPictures":
        """As if the others had none."""
        digests = [its if stay else None for its, stay in zip(self.digests, stays, strict=True)]
        return StoredPictures(self._fetch, digests, self._rows)


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """A picture [height, width, 3] as a PNG."""
    ok, png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not ok:
        raise RuntimeError(f"OpenCV could not encode a PNG of shape {rgb.shape}")
    return png.tobytes()


def taken(pictures: Pictures, rows: Sequence[int]) -> Pictures:
    """Those of some samples, which stay where they are."""
    if isinstance(pictures, StoredPictures):
        return pictures.taken(rows)
    return [pictures[row] for row in rows]


def only(pictures: Pictures, stays: Sequence[bool]) -> Pictures:
    """The same without some of them."""
    if isinstance(pictures, StoredPictures):
        return pictures.only(stays)
    return [png if stay else None for png, stay in zip(pictures, stays, strict=True)]


def digests_of(pictures: Pictures) -> Sequence[bytes | None]:
    """SHA-256 of each PNG, None where there is none."""
    if isinstance(pictures, StoredPictures):
        return pictures.digests
    return [_digest(png) for png in pictures]


def _digest(png: bytes | None) -> bytes | None:
    return None if png is None else hashlib.sha256(png).digest()


class PictureSpool:
    """Takes pictures one after the other into a file without a name, gone with this object.

    It lies in a folder on the disk that has the room; None is the system's for temporary files.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # lives as long as this
        weakref.finalize(self, self._file.close)
        self._ends = [0]
        self._digests: list[bytes | None] = []

    def add(self, png: bytes | None) -> None:
        self._file.write(png or b"")
        self._ends.append(self._ends[-1] + len(png or b""))
        self._digests.append(_digest(png))

    def pictures(self) -> StoredPictures:
        """All that were taken; they keep the file."""
        self._file.flush()
        return StoredPictures(self._fetch, self._digests)

    def _fetch(self, sample: int) -> bytes:
        start, end = self._ends[sample : sample + 2]
        return os.pread(self._file.fileno(), end - start, start)


class PictureFile:
    """The pictures of a manifest's file, a row group in memory at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, which stays the same even if another one gets its name."""
        file = path.open("rb")
        weakref.finalize(self, file.close)
        self._path = path
        self._parquet = pq.ParquetFile(file)
        groups = self._parquet.metadata
        rows = [groups.row_group(group).num_rows for group in range(groups.num_row_groups)]
        self._group_of = [(group, row) for group, count in enumerate(rows) for row in range(count)]
        self._held: tuple[int, pa.ChunkedArray[pa.BinaryScalar]] | None = None

    def pictures(self) -> StoredPictures:
        """All of them, read once for their digests; an ArrowException if the file is damaged."""
        groups = map(self._read, range(self._parquet.metadata.num_row_groups))
        digests = [_digest(png) for group in groups for png in group.to_pylist()]
        return StoredPictures(self._fetch, digests)

    def _fetch(self, sample: int) -> bytes:
        group, row = self._group_of[sample]
        if self._held is None or self._held[0] != group:
            self._held = None
            try:
                self._held = (group, self._read(group))
            except (OSError, pa.ArrowException) as error:
                what = f"sample {sample} cannot be read: {error}"
                raise ManifestError(f"{self._path}: {what}") from error
        png = self._held[1][row].as_py()
        if png is None:
            raise ManifestError(f"{self._path}: sample {sample} lost its picture")
        return png

    def _read(self, group: int) -> "pa.ChunkedArray[pa.BinaryScalar]":
        return self._parquet.read_row_group(group, ["picture"], use_threads=False)["picture"]
