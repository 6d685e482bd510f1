"""The calibration of a model: what `klt` needs of it, in a file beside the caches that name it.

Means, scales and directions of each group of layers, made from some videos, and the exact rows of
the text that stands before every video. Knows numpy; torch only where tensors are asked for. Where
such files lie is told by `calibration_files`. The format is described in FORMAT.md.
"""

import hashlib
import itertools
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cachefmt.files import CacheFileError, naming, read_exactly
from cachefmt.header import (
    RAW_DTYPES,
    ZERO_DIGEST,
    FormatVersion,
    ModelIdentity,
    PromptIdentity,
    VideoIdentity,
)
from cachefmt.layout import TensorSpec
from cachefmt.reader import read_table
from cachefmt.sealing import SEAL_KEY, Seal, sealed, unsealing, versioned
from cachefmt.strict_json import build, dump_canonical, load_strict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cachefmt.codecs.basis import Basis

_METADATA_KEY = "sali-cache-calibration"
_TENSORS_OF_A_GROUP = 5
_EXPONENT = 0x7C00
"""Bits of a float16 that are all set where it is not finite."""


@dataclass(frozen=True, kw_only=True)
class CalibrationShape:
    """Sizes that fix every tensor of the file."""

    layers: int
    heads: int
    head_dim: int
    group_layers: int
    """Layers that share a basis; the last group may have fewer."""
    raw_dtype: str
    """Of the rows of text."""
    rows: int
    columns: int
    """Cells of a sample, for whose places there are means."""
    places: int
    """Of a sample's tokens; the last one is for all tokens which have no other."""
    components: tuple[int, ...]
    """Directions of each group."""
    direction_bytes: tuple[int, ...] = ()
    """That these take; empty until they are written."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "head_dim", "group_layers", "rows", "columns", "places"):
            if getattr(self, name) < 1:
                raise ValueError(f"shape.{name} must be at least 1, got {getattr(self, name)}")
        if self.raw_dtype not in RAW_DTYPES:
            raise ValueError(f"shape.raw_dtype must be one of {RAW_DTYPES}, got {self.raw_dtype!r}")
        if self.places <= self.rows * self.columns:
            cells = self.rows * self.columns
            raise ValueError(f"shape.places must be above {cells} cells, got {self.places}")
        groups = -(-self.layers // self.group_layers)  # counted, not listed: it may be any number
        if groups != len(self.components):
            raise ValueError(f"{len(self.components)} shape.components for {groups} groups")
        sizes = self.direction_bytes
        if len(sizes) not in (0, groups) or min(sizes, default=0) < 0:
            raise ValueError(f"shape.direction_bytes must be {groups} sizes, got {sizes}")
        for group, count in zip(self.groups(), self.components, strict=True):
            if not 0 <= count <= self.vector(group):
                raise ValueError(f"shape.components must be 0 to {self.vector(group)}, got {count}")

    def groups(self) -> list[range]:
        """Layers of each group."""
        firsts = range(0, self.layers, self.group_layers)
        return [range(first, min(first + self.group_layers, self.layers)) for first in firsts]

    def vector(self, group: range) -> int:
        """Numbers of a token in some layers."""
        return len(group) * 2 * self.heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class CalibrationHeader:
    """Everything about a calibration but its tensors."""

    tool: str
    model: ModelIdentity
    prompt: PromptIdentity
    shape: CalibrationShape
    text_ids: tuple[int, ...]
    """Token ids of the text before the first sample, whose rows are there."""
    videos: tuple[VideoIdentity, ...]
    """From which it was made."""
    tokens: int
    """Of the videos, that were counted in."""
    most_components: int
    """That were asked for; a group has fewer where fewer carry anything."""
    data_sha256: str
    """Of the bytes of all tensors."""

    def __post_init__(self) -> None:
        if not self.videos or self.tokens < 1:
            raise ValueError(f"made of {self.tokens} tokens of {len(self.videos)} videos")
        if not all(0 <= token < 1 << 31 for token in self.text_ids):
            raise ValueError("text_ids must be from 0 to 2^31 - 1")

    def specs(self) -> dict[str, TensorSpec]:
        """All tensors by name, in the order of their bytes: larger items come first."""
        shape, found = self.shape, dict[str, TensorSpec]()
        groups = list(zip(shape.groups(), shape.components, strict=True))
        for number, (group, count) in enumerate(groups):
            found[f"scale.{number:02}"] = TensorSpec(dtype="F32", shape=(len(group), 2))
            found[f"gain.{number:02}"] = TensorSpec(dtype="F32", shape=(count,))
        text = (len(self.text_ids), shape.layers, 2, shape.heads, shape.head_dim)
        found["text.rows"] = TensorSpec(dtype=shape.raw_dtype, shape=text)
        for number, (group, count) in enumerate(groups):
            vector = shape.vector(group)
            found[f"mean.{number:02}"] = TensorSpec(dtype="F16", shape=(vector,))
            found[f"place.{number:02}"] = TensorSpec(dtype="F16", shape=(shape.places, count))
        for number, size in enumerate(shape.direction_bytes):
            found[f"directions.{number:02}"] = TensorSpec(dtype="U8", shape=(size,))
        return found

    def is_of(self, model: ModelIdentity, prompt: PromptIdentity) -> bool:
        """Whether it is about this model and prompt; names are for people.

        The type in which the model is run may differ: means and directions are about the same. A
        `weights_sha256` of zeros, as plans have it, stands for any weights.
        """
        weights = (self.model.weights_sha256, ZERO_DIGEST)
        is_same = (self.model.config_sha256, self.prompt) == (model.config_sha256, prompt)
        return is_same and model.weights_sha256 in weights


class Calibration:
    """A calibration that was read and checked. Use `Calibration.open`."""

    def __init__(
        self, path: Path, header: CalibrationHeader, arrays: Mapping[str, NDArray[Any]], sha256: str
    ) -> None:
        self.path = path
        self.header = header
        self.sha256 = sha256
        """Of the file; caches name it by this."""
        self._arrays = arrays

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a calibration and check all of it.

        Raises:
            CacheFileError: it is missing, truncated, foreign, of a newer format, or damaged.
        """
        path = Path(path)
        with naming(path, "cannot be opened"), path.open("rb") as file:
            first, header = _read_header(file.fileno())
            specs = header.specs()
            size = os.fstat(file.fileno()).st_size - len(first)
            expected = sum(spec.size_bytes for spec in specs.values())
            if size != expected:
                problem = "is truncated" if size < expected else "is too long"
                raise ValueError(f"{problem}: {size} bytes of tensors, expected {expected}")
            data = read_exactly(file.fileno(), size, len(first))
            if hashlib.sha256(data).hexdigest() != header.data_sha256:
                raise ValueError("does not match its data_sha256: it was changed or damaged")
            arrays = {}
            for name, (start, stop) in _offsets(specs).items():
                found = np.frombuffer(data[start:stop], specs[name].numpy_dtype)
                arrays[name] = found.reshape(specs[name].shape)
                if not _is_sound(name, arrays[name], specs[name].dtype):
                    raise ValueError(f"{name}: not finite, or not positive where it must be")
        digest = hashlib.sha256(first)
        digest.update(data)
        return cls(path, header, arrays, digest.hexdigest())

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def text_rows(self) -> "Tensor":
        """Exact rows of the text before the first sample, their keys without rotation.

        [tokens, layers, 2, heads, head_dim], of `shape.raw_dtype`.
        """
        from cachefmt.tensors import as_tensor

        return as_tensor(self._arrays["text.rows"].copy(), self.header.shape.raw_dtype)

    def shared_text(self, token_ids: NDArray[np.integer[Any]], raw_dtype: str) -> int:
        """How many tokens, from the first on, are the same text: their rows are the same, too.

        Args:
            token_ids: of the text before a video's first sample.
            raw_dtype: of its rows; of another type there are none.
        """
        if raw_dtype != self.header.shape.raw_dtype:
            return 0
        pairs = zip(self.header.text_ids, token_ids, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    def bases(self, rows: int, columns: int, device: "torch.device | str" = "cpu") -> "list[Basis]":
        """The basis of each group of layers, for samples of rows x columns cells.

        Samples of other sizes than those that the calibration was made from share one mean.

        Raises:
            CacheFileError: directions that no writer wrote.
        """
        import torch

        from cachefmt.codecs.basis import Basis, read_directions, spread
        from cachefmt.codecs.symbols import DecodeError

        shape = self.header.shape
        is_same = (rows, columns) == (shape.rows, shape.columns)
        own = slice(0 if is_same else shape.places - 1, None)
        found = []
        for number, group in enumerate(shape.groups()):
            scale, gain, mean, place = (
                torch.from_numpy(self._arrays[f"{part}.{number:02}"].astype(np.float32))
                for part in ("scale", "gain", "mean", "place")
            )
            packed = self._arrays[f"directions.{number:02}"].tobytes()
            try:
                directions = read_directions(packed, gain, shape.vector(group))
            except DecodeError as error:
                problem = f"directions.{number:02} cannot be decoded: {error}"
                raise CacheFileError(self.path, problem) from error
            of_group = (len(group), 2, shape.heads, shape.head_dim)
            offsets = place[own] @ directions
            found.append(
                Basis(
                    shape=of_group,
                    mean=mean + offsets * spread(scale, of_group),
                    scale=scale,
                    directions=directions,
                ).to(device)
            )
        return found


def write_calibration(
    path: Path, header: CalibrationHeader, tensors: Mapping[str, NDArray[Any]]
) -> None:
    """Write a calibration to a path that is not there yet, and sync it.

    Args:
        header: without regard to its `data_sha256` and the sizes of directions.
        tensors: as of `CalibrationHeader.specs`; of BF16 its bits in uint16. Directions are bytes
            as of `round_directions`.

    Raises:
        CacheFileError: it cannot be written.
    """
    groups = range(len(header.shape.components))
    sizes = tuple(tensors[f"directions.{number:02}"].size for number in groups)
    header = replace(header, shape=replace(header.shape, direction_bytes=sizes))
    specs = header.specs()
    parts = []
    for name, spec in specs.items():
        array = tensors[name].astype(spec.numpy_dtype, copy=False)
        if array.shape != spec.shape or not _is_sound(name, array, spec.dtype):
            raise ValueError(f"{name}: got {array.shape}, expected {spec.shape}, all finite")
        parts.append(array.tobytes())
    data = b"".join(parts)
    digest = {"data_sha256": hashlib.sha256(data).hexdigest()}
    metadata = {
        _METADATA_KEY: f"{FormatVersion()}:{dump_canonical(asdict(header) | digest)}",
        SEAL_KEY: Seal(ZERO_DIGEST, None, b"").pack(),
    }
    table = {"__metadata__": metadata, **_table(specs)}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with naming(path, f"cannot write {len(text) + len(data):,} bytes"), path.open("xb") as file:
        file.write(sealed(struct.pack("<Q", len(text)) + text))
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_calibration_header(path: Path) -> CalibrationHeader:
    """The header alone; CacheFileError as of `Calibration.open`."""
    with naming(path, "cannot be opened"), path.open("rb") as file:
        return _read_header(file.fileno())[1]


def _read_header(file: int) -> tuple[bytes, CalibrationHeader]:
    """The first bytes of a file and the header in them, once its table of tensors is checked."""
    first, table = read_table(file, os.fstat(file).st_size)
    metadata = table.pop("__metadata__", None)
    if not isinstance(metadata, dict) or _METADATA_KEY not in metadata:
        raise ValueError(
            f"is a safetensors file, but no calibration: its metadata has no key "
            f"{_METADATA_KEY!r}; batch calibrate writes calibrations"
        )
    with unsealing(first):
        _, text = versioned(metadata, _METADATA_KEY)
        Seal.unpack(metadata[SEAL_KEY], 0)
        return first, _checked(text, table)


def _checked(text: str, table: dict[str, Any]) -> CalibrationHeader:
    """The header of this JSON, once these tensors are its own."""
    header = build(CalibrationHeader, load_strict(text), "calibration")
    # Counted first: a header may claim so many groups that naming their tensors takes for ever.
    count = _TENSORS_OF_A_GROUP * len(header.shape.components) + 1
    if len(table) != count:
        raise ValueError(f"has {len(table)} tensors, its header asks for {count}")
    expected = _table(header.specs())
    if list(table) != list(expected):
        raise ValueError(f"has tensors {list(table)}, expected {list(expected)}")
    for name, entry in expected.items():
        if table[name] != entry:
            raise ValueError(f"{name}: got {table[name]!r}, expected {entry!r}")
    return header


def _offsets(specs: Mapping[str, TensorSpec]) -> dict[str, tuple[int, int]]:
    """Half-open byte range of each tensor in the data."""
    ends = itertools.accumulate((spec.size_bytes for spec in specs.values()), initial=0)
    return dict(zip(specs, itertools.pairwise(ends), strict=True))


def _table(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """What safetensors says of each tensor."""
    offsets = _offsets(specs)
    return {
        name: {"dtype": spec.dtype, "shape": [*spec.shape], "data_offsets": [*offsets[name]]}
        for name, spec in specs.items()
    }


def _is_sound(name: str, array: NDArray[Any], dtype: str) -> bool:
    """Finite; a scale or gain also positive."""
    if name.startswith(("scale.", "gain.")):
        return bool((np.isfinite(array) & (array > 0)).all())
    if dtype == "F16":
        return not bool(((array.view(np.uint16) & _EXPONENT) == _EXPONENT).any())
    return True
