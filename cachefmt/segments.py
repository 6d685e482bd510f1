"""The cache of a video: one file, or a folder with a file for each segment.

Knows which files belong together, by their headers; knows no rows.
"""

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cachefmt.calibration_files import calibration_of
from cachefmt.files import CacheFileError, naming
from cachefmt.header import Header
from cachefmt.reader import CacheFile

FOLDER_SUFFIX = ".segments"
"""End of the name of a folder of segments."""
FILE_SUFFIX = ".safetensors"
"""End of the name of a cache file, alone or in such a folder."""

_NAME = re.compile(r"(\d{5}|[1-9]\d{5,})\.safetensors")
_SHAPE = (
    *("layers", "heads", "head_dim", "group_size", "raw_dtype", "position_axes"),
    *("rows", "columns", "index_layers"),
)


def segment_path(folder: Path, number: int) -> Path:
    """Where a segment lies in the folder of its video."""
    return folder / f"{number:05}{FILE_SUFFIX}"


def segments_in(folder: Path) -> list[Path]:
    """The files of a folder of segments in order of their names; hidden ones are no part of it.

    Raises:
        CacheFileError: the folder cannot be read, or holds something else.
    """
    with naming(folder, "cannot be opened"):
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    for name in sorted(names):
        if not _NAME.fullmatch(name):
            raise CacheFileError(folder / name, "is no segment, but stands where only segments may")
    return [folder / name for name in sorted(names, key=lambda name: (len(name), name))]


def open_segments(path: str | os.PathLike[str]) -> tuple[CacheFile, ...]:
    """Open the cache of a video, a file or a folder, and check that its parts belong together.

    The caller closes the segments, in order of time; a file gives one, which may be a segment of
    a longer video. What each holds is not read: that is `verify_segments`.

    Raises:
        CacheFileError: as of `CacheFile.open`; or a segment is missing, of another video, model,
            settings or cut, or something else is in the folder.
    """
    path = Path(path)
    if not path.is_dir():
        return (CacheFile.open(path),)
    with ExitStack() as opened:
        segments: list[CacheFile] = []
        for file in segments_in(path):
            segments.append(opened.enter_context(CacheFile.open(file)))
            _check_place(segments)
        _check_complete(path, segments)
        opened.pop_all()
    return tuple(segments)


def verify_segments(segments: Sequence[CacheFile]) -> None:
    """Read everything: each segment as `CacheFile.verify` does, and that time goes on in the next.

    The calibration that they name must be there, and is read.

    Raises:
        CacheFileError: names the first file that is damaged or breaks a rule.
    """
    until_s = -np.inf
    for segment in segments:
        segment.verify()
        if segment.header.codec.calibration is not None:
            calibration_of(segment.path, segment.header)
        time_s = segment.tables.time_s
        if len(time_s) and time_s[0] < until_s:
            raise CacheFileError(
                segment.path, f"begins at {time_s[0]} s, the segment before ends at {until_s} s"
            )
        until_s = time_s[-1] if len(time_s) else until_s


def _check_place(segments: Sequence[CacheFile]) -> None:
    """See that the last segment goes on where the one before it ends."""
    first, last = segments[0], segments[-1]
    segment = last.header.segment
    if segment_path(last.path.parent, segment.number) != last.path:
        raise CacheFileError(last.path, f"is segment {segment.number}, its name is another's")
    mine, theirs = _in_common(last.header), _in_common(first.header)
    for what, value in mine.items():
        if value != theirs[what]:
            raise CacheFileError(
                last.path,
                f"does not belong to {first.path.name}: another {what}: "
                f"got {value}, expected {theirs[what]}",
            )
    if segment.number == len(segments) - 1:
        before = sum(other.header.shape.samples for other in segments[:-1])
        if segment.first_sample != before:
            raise CacheFileError(
                last.path,
                f"begins with sample {segment.first_sample}, the segments before have {before}",
            )


def _check_complete(folder: Path, segments: Sequence[CacheFile]) -> None:
    if not segments:
        raise CacheFileError(folder, "holds no segments; batch prefill writes them")
    there = {segment.header.segment.number for segment in segments}
    count = segments[0].header.segment.count
    missing = next((number for number in range(count) if number not in there), None)
    if missing is not None:
        raise CacheFileError(
            segment_path(folder, missing),
            f"is missing: {len(there)} of {count} segments are there; the same batch prefill goes "
            "on, or batch index where it wrote them",
        )


def _in_common(header: Header) -> dict[str, Any]:
    """What all segments of a video must have in common, by what an error calls it."""
    model, shape = header.model, header.shape
    return {
        "video": header.video.sha256,
        "number of segments": header.segment.count,
        "manifest": header.manifest.sha256,
        "model": (model.config_sha256, model.weights_sha256, model.dtype),
        "prompt": asdict(header.prompt),
        "policy": asdict(header.policy),
        # What keeps an error is found for each segment by itself.
        "quality": None if "max_kl" in header.policy.parameters else header.codec.quality,
        "shape": tuple(getattr(shape, name) for name in _SHAPE),
        "numbering of positions": header.layout.positions,
    }
