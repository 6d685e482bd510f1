"""What a path is, by a look at its first bytes or its names, and the command for it.

Light: what is given where another thing is meant is told before anything heavy is imported.
"""

import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from enum import Enum
from itertools import islice
from pathlib import Path

import click

from batch.cli.progress import USAGE, Summary
from batch.settings import checkpoint_folder
from jobs.runs import had_runs

_LOOK_BYTES = 512
_MOST_NAMES = 1_000
_MAX_JSON_BYTES = 100_000_000
"""Source: what safetensors allows."""


class Kind(Enum):
    """What a path can be; `value` names it in a message."""

    MISSING = "no such file"
    VIDEO = "a video"
    PARQUET = "a Parquet file, as manifests are"
    CACHE = "a cache"
    SEGMENTS = "the cache of a long video"
    CACHE_FOLDER = "a folder with caches in it"
    INDEX = "a folder of caches that batch index writes"
    CHECKPOINT = "a model's checkpoint"
    FOLDER = "a folder"
    EMPTY_FOLDER = "an empty folder"
    EMPTY = "an empty file"
    TEXT = "a text file"
    OTHER = "something else"


_COMMANDS = {
    Kind.VIDEO: "batch prefill {} --model MODEL --out CACHES    makes a cache of it",
    Kind.PARQUET: "batch prefill {} --model MODEL --out CACHES    makes a cache of a manifest",
    Kind.CACHE: "batch answer {} -q QUESTION    asks it",
    Kind.SEGMENTS: "batch answer {} -q QUESTION    asks it",
    Kind.CACHE_FOLDER: "batch answer {} -q QUESTION    asks one of them",
    Kind.INDEX: "batch answer {0} -q QUESTION    asks all its videos; batch status {0} shows it",
    Kind.CHECKPOINT: "--model {} names it",
    Kind.FOLDER: "batch index {} --model MODEL --out CACHES    makes caches of all videos below it",
}
"""Of what is not meant: what it is for."""


def kind_of(path: Path) -> Kind:
    """What a path is; of a file that cannot be read OTHER, which whoever opens it explains."""
    try:
        if path.is_dir():
            return _kind_of_folder(path)
        with path.open("rb") as file:
            first = file.read(_LOOK_BYTES)
    except FileNotFoundError:
        return Kind.MISSING
    except OSError:
        return Kind.OTHER
    return _kind_of_bytes(first)


def expect(path: Path, wanted: Collection[Kind], what: str) -> Kind:
    """The kind of a path, which must be one of those wanted, or OTHER: who opens it knows more.

    Raises:
        click.UsageError: it is something else; says what, and the command for it.
    """
    kind = kind_of(path)
    if problem := _problem(path, kind, wanted, what):
        raise click.UsageError(problem)
    return kind


def sift(
    paths: Sequence[Path], wanted: Collection[Kind], what: str, summary: Summary
) -> dict[Path, Kind]:
    """Those of the paths that are as wanted, with their kinds; the others fail.

    Ends the command as wrong usage if none is left.
    """
    kinds = {path: kind_of(path) for path in paths}
    for path, kind in kinds.items():
        if problem := _problem(path, kind, wanted, what):
            summary.fail(problem)
    if len(summary.failures) == len(kinds):
        raise SystemExit(USAGE)
    return {path: kind for path, kind in kinds.items() if not _problem(path, kind, wanted, what)}


def is_cache(path: Path) -> bool:
    """Whether a path in a folder of caches is one, by its name; a calibration is none."""
    if path.name.endswith(".calibration.safetensors"):
        return False
    return path.suffix in (".safetensors", ".segments") and not path.name.startswith(".")


def _problem(path: Path, kind: Kind, wanted: Collection[Kind], what: str) -> str | None:
    # A name promises a thing: what is called so and is not is damaged, which its reader explains.
    is_promised = any(path.suffix == _SUFFIXES.get(one) for one in wanted)
    has_content = kind in (Kind.TEXT, Kind.EMPTY)
    if kind in wanted or kind is Kind.OTHER or (is_promised and has_content):
        return None
    if kind is Kind.MISSING:
        return f"{path}: {kind.value}"
    command = _COMMANDS.get(kind)
    meant = min(filter(is_cache, path.iterdir())) if kind is Kind.CACHE_FOLDER else path
    advice = "" if command is None else f"\n  {command.format(shlex.quote(str(meant)))}"
    return f"{path}: is {kind.value}, expected {what}{advice}"


_SUFFIXES = {Kind.CACHE: ".safetensors", Kind.PARQUET: ".parquet"}


def _kind_of_folder(path: Path) -> Kind:
    names = set(_names(path))
    if had_runs(path) or any(path.glob("works/*/settings.json")):
        return Kind.INDEX
    if path.suffix == ".segments":
        return Kind.SEGMENTS
    if checkpoint_folder(str(path)) is not None and "config.json" in names:
        return Kind.CHECKPOINT
    if any(is_cache(path / name) for name in names):
        return Kind.CACHE_FOLDER
    return Kind.FOLDER if names else Kind.EMPTY_FOLDER


def _names(path: Path) -> Iterator[str]:
    with os.scandir(path) as entries:
        yield from islice((entry.name for entry in entries), _MOST_NAMES)


def _kind_of_bytes(first: bytes) -> Kind:
    if not first:
        return Kind.EMPTY
    if first[:4] == b"PAR1":
        return Kind.PARQUET
    length = int.from_bytes(first[:8], "little")
    if first[8:9] == b"{" and length <= _MAX_JSON_BYTES:
        return Kind.CACHE
    if _is_video(first):
        return Kind.VIDEO
    return Kind.OTHER if _is_binary(first) else Kind.TEXT


def _is_video(first: bytes) -> bool:
    """Whether a container of moving pictures begins so.

    Source: the magic numbers of MP4 and QuickTime, Matroska, AVI, Ogg, FLV, ASF, MPEG.
    """
    is_riff = first[:4] == b"RIFF" and first[8:12] == b"AVI "
    is_stream = first[0] == 0x47 and first[188:189] in (b"", b"\x47")
    is_mpeg = first[:3] == b"\0\0\1" and first[3:4] in (b"\xba", b"\xb3")
    heads = (b"\x1aE\xdf\xa3", b"OggS", b"FLV\1", b"0&\xb2u\x8ef\xcf\x11")
    is_mp4 = first[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free")
    return (
        is_mp4 or is_riff or is_mpeg or first.startswith(heads) or (len(first) > 188 and is_stream)
    )


def _is_binary(first: bytes) -> bool:
    try:
        first[: -3 if len(first) == _LOOK_BYTES else None].decode()
    except UnicodeDecodeError:
        return True
    return b"\0" in first
