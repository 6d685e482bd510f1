"""The manifest of one video: everything phase 2 needs to know. Knows Arrow; knows no decoder."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batch.analysis.header import ManifestHeader
from batch.analysis.pictures import (
    ROWS_TOGETHER,
    PictureFile,
    Pictures,
    digests_of,
    only,
    taken,
)
from batch.analysis.raising import raise_thresholds
from batch.analysis.signals import Signals
from batch.analysis.temporal import TemporalSettings
from batch.analysis.tiers import PROFILES, TierThresholds, assign
from batch.errors import ManifestError
from batch.video import Footage, Geometry, VideoInfo
from cachefmt.tiers import Tier
from jobs.atomic import move_into_place

_HEADER_KEY = b"sali-cache"
_COST_KEY = b"sali-cache.cost"
_SHA256_KEY = b"sali-cache.sha256"
_NO_PICTURE = hashlib.sha256(b"").digest()
_FOOTER_BYTES = 1 << 14
"""At most, of schema and header; measured: 7 kB."""
_ROWS_TOGETHER_BYTES = 1 << 12
"""At most, of what Parquet says of each row group; measured: 2 kB."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A row for each sample of a video.

    - header.video: of its path only the name is known.
    - frame: int64 [samples], first decoded frame; pts_s: float64 [samples], its time, counted from
      the video's first frame; last_pts_s: float64 [samples], that of the sample's last frame.
    - tier: uint8 [samples, cells], codes of `Tier`; all PRUNE in pointers.
    - pictures: PNG of each kept sample in the model's geometry, None for pointers; on the disk
      until it is asked for, if the manifest came from there.
    - analyze_seconds: what making it took; not part of `sha256`.
    - start_s: time of the whole video's first sample where this is a part of it; None: it is not.
    - threshold_scale, analysed_sha256: see `raised`; not part of `sha256` and in no file.
    """

    header: ManifestHeader
    frame: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    last_pts_s: NDArray[np.float64]
    signals: Signals
    tier: NDArray[np.uint8]
    pictures: Pictures
    analyze_seconds: float
    start_s: float | None = None
    threshold_scale: float = 1.0
    analysed_sha256: str | None = None

    def __post_init__(self) -> None:
        samples, cells = self.signals.saliency.shape
        times = (self.pts_s, self.last_pts_s)
        lengths = {len(self.frame), *map(len, times), len(self.pictures), samples}
        if len(lengths) != 1 or self.tier.shape != (samples, cells):
            raise ValueError(f"manifest: got lengths {lengths}, tier {self.tier.shape}")
        if cells != self.geometry.cells:
            raise ValueError(f"manifest: got {cells} cells, expected {self.geometry.cells}")
        if [png is not None for png in digests_of(self.pictures)] != self.kept.tolist():
            raise ValueError("manifest: a kept sample has no picture, or a pointer has one")
        if not np.isfinite(times).all() or (np.diff(self.frame) < 0).any():
            raise ValueError("manifest: samples are not in order of time")
        if not np.isin(self.tier, list(Tier)).all() or (self.tier[~self.kept] != Tier.PRUNE).any():
            raise ValueError("manifest: unknown tier, or a pointer with stored cells")

    @property
    def video(self) -> VideoInfo:
        return self.header.video

    @property
    def geometry(self) -> Geometry:
        return self.header.geometry

    @property
    def footage(self) -> Footage:
        return Footage(
            geometry=self.geometry,
            start_s=float(self.pts_s[0]) if self.start_s is None else self.start_s,
            index=np.arange(len(self.pts_s)),
            pts_s=self.pts_s,
            last_pts_s=self.last_pts_s,
            interval_s=self.header.interval_s,
            duration_s=self.header.decoded_s,
        )

    @property
    def source(self) -> NDArray[np.int32]:
        return self.signals.source

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.signals.kept

    @property
    def multiplicity(self) -> NDArray[np.int32]:
        return self.signals.multiplicity

    def picture(self, sample: int) -> NDArray[np.uint8]:
        """RGB uint8 [frames * height_px, width_px, 3] of a kept sample.

        Raises:
            ManifestError: the sample is a pointer, or its picture is damaged.
        """
        png, name = self.pictures[sample], self.video.name
        if png is None:
            source = self.source[sample]
            raise ManifestError(f"{name}: sample {sample} is a pointer, take {source} instead")
        bgr = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None or bgr.shape != self.geometry.picture_shape:
            raise ManifestError(f"{name}: the picture of sample {sample} is damaged; analyze again")
        rgb: NDArray[np.uint8] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        return rgb

    def with_tiers(self, tiers: str | TierThresholds) -> Self:
        """The same samples with tiers from a profile's name or from thresholds.

        Raises:
            ManifestError: an unknown profile, or one without pointers where there are some.
        """
        if isinstance(tiers, str) and tiers not in PROFILES:
            raise ManifestError(f"got profile {tiers!r}, supported are {', '.join(PROFILES)}")
        thresholds = PROFILES[tiers] if isinstance(tiers, str) else tiers
        if not thresholds.pointers and not self.kept.all():
            video = self.video.name
            raise ManifestError(
                f"{video}: {np.sum(~self.kept)} samples are pointers and have no picture, but "
                f"these tiers allow none; batch analyze --profile none --force --out FOLDER {video}"
            )
        header = replace(self.header, thresholds=thresholds)
        return replace(self, header=header, tier=assign(self.signals, thresholds))

    def raised(self, times: float) -> Self:
        """The same samples with thresholds of what changed so many times those of the header.

        Its `sha256` stays that of this one, from which it can always be made again.
        """
        if times == 1:
            return self
        thresholds, analysed = self.header.thresholds, self.header.temporal
        signals = raise_thresholds(
            self.signals, analysed, pointers=thresholds.pointers, times=times
        )
        return replace(
            self,
            signals=signals,
            tier=assign(signals, thresholds),
            pictures=only(self.pictures, signals.kept.tolist()),
            threshold_scale=times,
            analysed_sha256=self.sha256,
        )

    def part(self, samples: slice) -> Self:
        """The manifest of some samples in a row; a pointer that is the first becomes its source."""
        rows = np.arange(len(self.frame))[samples]
        rows[0] = self.source[rows[0]]
        return replace(
            self,
            frame=self.frame[samples],
            pts_s=self.pts_s[samples],
            last_pts_s=self.last_pts_s[samples],
            signals=self.signals.part(samples),
            tier=self.tier[rows],
            pictures=taken(self.pictures, rows.tolist()),
            analyze_seconds=self.analyze_seconds * len(self.frame[samples]) / len(self.frame),
            start_s=self.footage.start_s,
        )

    @cached_property
    def sha256(self) -> str:
        """Digest of all content but `analyze_seconds`: equal for equal work on equal input."""
        if self.analysed_sha256 is not None:
            return self.analysed_sha256
        digest = hashlib.sha256(self.header.to_json().encode())
        for array in self._arrays:
            digest.update(array.tobytes())
        for its_digest in digests_of(self.pictures):
            digest.update(its_digest or _NO_PICTURE)
        return digest.hexdigest()

    def most_bytes(self) -> int:
        """Size of the file if nothing could be compressed."""
        groups = -(-len(self.frame) // ROWS_TOGETHER)
        arrays = sum(array.nbytes for array in self._arrays)
        pictures = sum(len(png) for png in self.pictures if png is not None)
        return arrays + pictures + _FOOTER_BYTES + groups * _ROWS_TOGETHER_BYTES

    @property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        signals = self.signals
        return (
            *(self.frame, self.pts_s, self.last_pts_s, self.tier),
            *(signals.source, signals.redundancy),
            *(signals.flow_px, signals.difference, signals.saliency),
        )

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        schema = _schema_of(self.geometry.cells).with_metadata(
            {
                _HEADER_KEY: self.header.to_json().encode(),
                _COST_KEY: f'{{"analyze_seconds":{self.analyze_seconds:.3f}}}'.encode(),
                _SHA256_KEY: self.sha256.encode(),
            }
        )
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                    for first in range(0, len(self.frame), ROWS_TOGETHER):
                        writer.write_table(self._table(schema, slice(first, first + ROWS_TOGETHER)))
                file.flush()
                os.fsync(file.fileno())
            move_into_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _table(self, schema: pa.Schema, rows: slice) -> pa.Table:
        index, signals = np.arange(len(self.frame), dtype=np.int32)[rows], self.signals
        difference = signals.difference[rows]
        first = index == 0
        no_flow = first | ~self.header.temporal.needs_flow(difference)
        columns = {
            "sample": index,
            "frame": self.frame[rows],
            "pts_s": self.pts_s[rows],
            "last_pts_s": self.last_pts_s[rows],
            "redundancy": signals.redundancy[rows],
            "source": self.source[rows],
            "flow_px": _list_column(signals.flow_px[rows], no_flow),
            "difference": _list_column(difference, first),
            "saliency": _list_column(signals.saliency[rows]),
            "tier": _list_column(self.tier[rows]),
            "picture": pa.array(list(self.pictures[rows]), pa.binary()),
        }
        return pa.table(columns, schema=schema)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a manifest and check it; of its pictures a few are in memory at a time.

        Raises:
            ManifestError: missing, damaged, of another tool or version, or contradicting itself.
        """
        try:
            # Of a path, Arrow 26 reads a whole folder, and folders named a=b as columns.
            with path.open("rb") as file:
                table = pq.ParquetFile(file)
                schema = table.schema_arrow
                header = _header(schema)
                if not schema.equals(_schema_of(header.geometry.cells)):
                    raise ValueError("its columns are not a manifest's")
                columns = _read_columns(table, header.geometry.cells, header.temporal)
            manifest = cls(
                header=header,
                **columns,
                pictures=PictureFile(path).pictures(),
                analyze_seconds=float(json.loads(schema.metadata[_COST_KEY])["analyze_seconds"]),
            )
            if schema.metadata.get(_SHA256_KEY) != manifest.sha256.encode():
                raise ValueError("its content does not match its digest, it was changed or damaged")
        except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
            raise _broken(path, error) from error
        return manifest


def read_header(path: Path) -> ManifestHeader:
    """Read only what a manifest says of its video and settings.

    Raises:
        ManifestError: missing, damaged, or of another tool or version.
    """
    try:
        with path.open("rb") as file:
            return _header(pq.read_schema(file))
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> ManifestError:
    if isinstance(error, FileNotFoundError):
        return ManifestError(f"{path}: no such file; batch analyze writes it")
    return ManifestError(
        f"{path}: not a whole manifest: {error}; batch analyze --force replaces it"
    )


def _header(schema: pa.Schema) -> ManifestHeader:
    metadata = schema.metadata or {}
    if _HEADER_KEY not in metadata:
        raise ValueError('no "sali-cache" metadata, another tool wrote it')
    return ManifestHeader.from_json(metadata[_HEADER_KEY].decode())


def _schema_of(cells: int) -> pa.Schema:
    """Names and types of the columns of a manifest with so many cells a sample."""
    floats, codes = pa.list_(pa.float32(), cells), pa.list_(pa.uint8(), cells)
    fields: list[pa.Field[Any]] = [
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("frame", pa.int64(), nullable=False),
        pa.field("pts_s", pa.float64(), nullable=False),
        pa.field("last_pts_s", pa.float64(), nullable=False),
        pa.field("redundancy", pa.float32(), nullable=False),
        pa.field("source", pa.int32(), nullable=False),
        pa.field("flow_px", floats),
        pa.field("difference", floats),
        pa.field("saliency", floats, nullable=False),
        pa.field("tier", codes, nullable=False),
        pa.field("picture", pa.binary()),
    ]
    return pa.schema(fields)


def _list_column(
    values: NDArray[Any], null: NDArray[np.bool_] | None = None
) -> "pa.FixedSizeListArray[Any, Any]":
    """A column of lists from [samples, cells]; `null` says which rows have none."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = None if null is None else pa.array(null)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def _read_columns(file: pq.ParquetFile, cells: int, temporal: TemporalSettings) -> dict[str, Any]:
    """What a manifest's file holds, by the names of `Manifest`; its pictures left out.

    Of the file, a row group is in memory at a time.

    Raises:
        ValueError: a column contradicts another, or lacks what it must have.
        pyarrow.ArrowException: the file is damaged.
    """
    names = [name for name in _schema_of(cells).names if name != "picture"]
    groups: list[dict[str, NDArray[Any]]] = []
    samples = 0
    for number in range(file.num_row_groups):
        table = file.read_row_group(number, names, use_threads=False)
        groups.append(_read_rows(table, samples, cells, temporal))
        samples += table.num_rows
    if not samples:
        raise ValueError("it holds no samples")
    found = {
        name: np.concatenate([group.pop(name) for group in groups]) for name in list(groups[0])
    }
    static = temporal.static_cells(found["flow_px"], found["difference"])
    in_signals = ("flow_px", "difference", "saliency", "redundancy", "source")
    signals = Signals(static=static, **{name: found.pop(name) for name in in_signals})
    return {"signals": signals, **found}


def _read_rows(
    table: pa.Table, start: int, cells: int, temporal: TemporalSettings
) -> dict[str, NDArray[Any]]:
    """Some rows of a file as arrays, by their columns; `start` is the first one's number."""
    flat = {name: table[name].combine_chunks() for name in table.column_names}
    index = np.arange(start, start + table.num_rows)
    if flat.pop("sample").to_pylist() != index.tolist():
        raise ValueError("its samples are not 0, 1, 2, ...")
    first = index == 0
    difference = _cells(flat.pop("difference"), cells, null=first)
    no_flow = first | ~temporal.needs_flow(difference)
    return {
        "difference": difference,
        "flow_px": _cells(flat.pop("flow_px"), cells, null=no_flow),
        "saliency": _cells(flat.pop("saliency"), cells),
        "tier": _cells(flat.pop("tier"), cells),
        **{name: column.to_numpy() for name, column in flat.items()},
    }


def _cells(
    column: "pa.Array[Any]", cells: int, null: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Lists as [samples, cells]; 0 in the rows that are null, which must be these."""
    there: Any = slice(None) if null is None else ~null
    values = np.zeros((len(column), cells), column.type.value_type.to_pandas_dtype())
    lists = pc.list_flatten(column)  # leaves null rows out
    if len(lists) != values[there].size or lists.null_count:
        raise ValueError("it lacks signals of a sample that must have them")
    values[there] = lists.to_numpy().reshape(-1, cells)
    return values
