"""Small cache files for the tests: any shape, content from a seed."""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from cachefmt import (
    STORED_TIERS,
    WHOLE_VIDEO,
    CacheWriter,
    Header,
    Layout,
    ManifestIdentity,
    ModelIdentity,
    PolicyIdentity,
    PromptIdentity,
    Shape,
    VideoIdentity,
    tensor_specs,
)
from cachefmt.layout import BOUNDS
from cachefmt.tables import first_rows

Arrays = dict[str, NDArray[Any]]

SHAPE = Shape(
    layers=2,
    heads=2,
    head_dim=8,
    group_size=4,
    raw_dtype="BF16",
    position_axes=1,
    samples=3,
    stored_samples=2,
    rows=2,
    columns=3,
    tokens={tier.name: 4 - place for place, tier in enumerate(STORED_TIERS)},
    index_layers=(0,),
)


def make_header(shape: Shape = SHAPE, name: str = "clip.mp4") -> Header:
    slots = shape.token_count + shape.samples * shape.rows * shape.columns
    return Header(
        tool="0.1.0",
        model=ModelIdentity(
            id="demo",
            revision=None,
            family="demo",
            config_sha256="1" * 64,
            weights_sha256="2" * 64,
            dtype="bfloat16",
        ),
        prompt=PromptIdentity(processor_sha256="3" * 64, chat_template_sha256="4" * 64),
        video=VideoIdentity(sha256="5" * 64, name=name),
        manifest=ManifestIdentity(sha256="6" * 64),
        segment=WHOLE_VIDEO,
        policy=PolicyIdentity(
            name="saliency", parameters={"int8": 0.25, "bias": True, "reference": "kept", "top": 3}
        ),
        shape=shape,
        layout=Layout(
            slots=slots,
            positions="original",
            next_position=(slots,) * shape.position_axes,
        ),
    )


def make_tables(shape: Shape) -> Arrays:
    """Tables that hold all rules: the last sample is a pointer, some tokens are text."""
    sample_index = np.arange(shape.samples, dtype=np.int32)
    source = sample_index.copy()
    if shape.samples > 1:
        source[-1] = 0
    stored = max(shape.samples - 1, 1)
    cells = shape.rows * shape.columns
    columns: dict[str, list[NDArray[np.int32]]] = {"position": [], "sample": [], "cell": []}
    for tier in STORED_TIERS:
        rank = np.arange(len(shape.rows_of(tier)), dtype=np.int32)
        has_cell = (rank > 0) & (rank <= stored * cells) & (shape.samples > 0)
        columns["position"].append(np.repeat(rank[:, None] * 2 + tier, shape.position_axes, axis=1))
        columns["sample"].append(np.where(has_cell, (rank - 1) // max(cells, 1), -1))
        columns["cell"].append(np.where(has_cell, (rank - 1) % max(cells, 1), -1))
    tables: Arrays = {f"token.{k}": np.concatenate(v).astype("<i4") for k, v in columns.items()}
    tables["token.multiplicity"] = (np.arange(shape.token_count, dtype=np.int32) % 3) + 1
    tables["sample.time_s"] = sample_index / 2
    tables["sample.source"] = source
    tables["cost.seconds"] = np.array([0.5, 1.0, 2.0])
    own = np.flatnonzero(source == sample_index)
    tables["index.row"] = np.stack(
        [first_rows(sample, own) for sample in columns["sample"]], axis=-1
    ).reshape(len(own), len(STORED_TIERS))
    return tables


def make_arrays(shape: Shape = SHAPE, seed: int = 0) -> Arrays:
    """All tensors of a shape; layers hold any bits."""
    rng = np.random.default_rng(seed)
    arrays = make_tables(shape)
    for name, spec in tensor_specs(shape).items():
        if name in BOUNDS[1:]:
            arrays[name] = rng.random(spec.shape).astype(np.float16)
        elif name not in arrays:
            bits = rng.integers(0, 256, spec.size_bytes, dtype=np.uint8)
            arrays[name] = bits.view(spec.numpy_dtype).reshape(spec.shape)
    return arrays


def write_file(path: Path, header: Header | None = None, arrays: Arrays | None = None) -> Path:
    header = header or make_header()
    with CacheWriter(path, header) as writer:
        for name, array in (arrays or make_arrays(header.shape)).items():
            writer.write(name, 0, array)
        writer.finish()
    return path


def blocks(length: int, cuts: list[int]) -> Iterator[tuple[int, int]]:
    edges = sorted({0, length, *(cut for cut in cuts if cut < length)})
    return itertools.pairwise(edges)


def split_file(path: Path) -> tuple[bytes, bytes]:
    """The JSON with its padding, and the data."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def join_file(path: Path, json_bytes: bytes, data: bytes) -> Path:
    path.write_bytes(struct.pack("<Q", len(json_bytes)) + json_bytes + data)
    return path


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    group_size = draw(st.sampled_from([1, 2, 4]))
    groups = draw(st.integers(1, 3).filter(lambda count: count * group_size % 2 == 0))
    count = st.integers(0, 6)
    return replace(
        SHAPE,
        layers=(layers := draw(st.integers(1, 3))),
        index_layers=tuple(sorted(draw(st.sets(st.integers(0, layers - 1))))),
        heads=draw(st.integers(1, 3)),
        head_dim=group_size * groups,
        group_size=group_size,
        raw_dtype=draw(st.sampled_from(["F16", "BF16", "F32"])),
        position_axes=draw(st.integers(1, 3)),
        samples=(samples := draw(st.integers(0, 4))),
        stored_samples=max(samples - 1, min(samples, 1)),
        rows=draw(st.integers(1, 3)),
        columns=draw(st.integers(1, 3)),
        tokens={tier.name: draw(count) for tier in STORED_TIERS},
    )
