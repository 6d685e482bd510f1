"""What a folder of caches holds, timings and signatures aside: equal for equal work."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from batch.analysis.manifest import Manifest
from cachefmt import CacheFile, tensor_specs

VARIES = {"analyze_seconds", "encode_seconds", "prefill_seconds", "run_started", "finished", "host"}


def contents(root: Path) -> dict[str, Any]:
    """Every file by its name, with all of its content that must not depend on chance."""
    return {
        str(path.relative_to(root)): _content(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def catalogue(root: Path) -> list[dict[str, Any]]:
    """The rows of the only catalogue."""
    (path,) = (root / "catalogue").iterdir()
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _cache(path)
    if path.suffix == ".json":
        record = json.loads(path.read_bytes())
        return {name: value for name, value in record.items() if name not in VARIES}
    if path.parent.name == "catalogue":
        table = pq.read_table(path)
        return table.drop_columns([name for name in VARIES if name in table.column_names])
    if path.suffix == ".parquet":
        return Manifest.read(path).sha256
    return path.read_bytes()


def _cache(path: Path) -> Any:
    """Header and digest of each tensor, but the seconds and what is computed of them."""
    with CacheFile.open(path) as cache:
        cache.verify()
        header = dataclasses.asdict(cache.header)
        tensors = {
            name: hashlib.sha256(cache.array(name).tobytes()).hexdigest()
            for name in tensor_specs(cache.header.shape)
            if name != "cost.seconds"
        }
    del header["checksums"], header["header_sha256"]
    return header, tensors


def status_by_name(out: Path) -> dict[str, tuple[str, str | None]]:
    """Status and reason of each row of the only catalogue."""
    return {Path(row["path"]).name: (row["status"], row["reason"]) for row in catalogue(out)}
