"""Small cache files for the tests: any shape, content from a seed."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from cachefmt import (
    STORED_TIERS,
    WHOLE_VIDEO,
    CacheWriter,
    Codec,
    Fidelity,
    Header,
    KeyBounds,
    Layout,
    ManifestIdentity,
    ModelIdentity,
    PolicyIdentity,
    PromptIdentity,
    Shape,
    Tables,
    VideoIdentity,
)
from cachefmt.layout import index_specs, largest_sizes

PLAIN = Codec(name="plain", quality="lossless", group_layers=2, block_samples=1)
KLT = Codec(name="klt", quality="standard", step=1.0, group_layers=1, block_samples=1)

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


def make_header(shape: Shape = SHAPE, name: str = "clip.mp4", codec: Codec = PLAIN) -> Header:
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
        codec=replace(codec, group_layers=min(codec.group_layers, shape.layers)),
        layout=Layout(
            slots=slots,
            computed=shape.token_count,
            positions="original",
            next_position=(slots,) * shape.position_axes,
        ),
    )


def make_tables(shape: Shape = SHAPE, seed: int = 0) -> Tables:
    """Tables that hold all rules: the last sample is a pointer, some tokens are text.

    Text before all samples, between cells of a sample, and behind samples; tiers in any order.
    """
    drawn = np.random.default_rng(seed)
    tokens = shape.token_count
    source = np.arange(shape.samples, dtype=np.int32)
    if shape.stored_samples < shape.samples:
        source[shape.stored_samples :] = 0
    cells = shape.rows * shape.columns
    # Each stored sample: a text token of its own, its cells, and a text token behind it.
    kinds = [(-1, -1), (-1, -1)]
    for sample in range(shape.stored_samples):
        kinds += [(sample, -1), *((sample, cell) for cell in range(cells)), (-1, -1)]
    kinds += [(-1, -1)] * tokens
    kept = np.sort(drawn.choice(min(len(kinds), tokens + 2), tokens, replace=False))
    sample, cell = np.array(kinds, np.int32).reshape(-1, 2)[kept].T
    tiers = np.repeat([int(t) for t in STORED_TIERS], [shape.tokens[t.name] for t in STORED_TIERS])
    position = np.cumsum(drawn.integers(1, 3, (tokens, shape.position_axes)), axis=0)
    return Tables(
        time_s=np.arange(shape.samples) / 2,
        source=source,
        tier=drawn.permutation(tiers).astype(np.uint8),
        sample=sample.copy(),
        cell=cell.copy(),
        multiplicity=drawn.integers(1, 4, tokens).astype(np.int32),
        position=position.astype(np.int32),
    )


def make_bounds(shape: Shape = SHAPE, seed: int = 0) -> KeyBounds:
    drawn = np.random.default_rng(seed)
    codes, scale, minimum = index_specs(shape)
    return KeyBounds(
        codes=drawn.integers(0, 256, codes.shape).astype(np.uint8),
        scale=drawn.random(scale.shape).astype(np.float16),
        minimum=drawn.random(minimum.shape).astype(np.float16),
    )


def make_content(header: Header, tables: Tables, seed: int = 0) -> dict[str, bytes]:
    """Any bytes for each basis and block, in the order of the file."""
    drawn = np.random.default_rng(seed)
    sizes = largest_sizes(header, tables)
    if header.codec.name == "klt":
        sizes = {name: int(drawn.integers(0, 20)) for name in sizes}
    return {
        name: drawn.bytes(size)
        for name, size in sizes.items()
        if name.startswith(("basis.", "block."))
    }


def write_file(
    path: Path,
    header: Header | None = None,
    *,
    tables: Tables | None = None,
    content: dict[str, bytes] | None = None,
    fidelity: Fidelity | None = None,
) -> Path:
    header = header or make_header()
    tables = tables or make_tables(header.shape)
    with CacheWriter(path, header, tables) as writer:
        for name, data in (content or make_content(header, tables)).items():
            kind, *numbers = name.split(".")
            if kind == "basis":
                writer.write_basis(int(numbers[0]), data)
            else:
                writer.write_block(int(numbers[0]), int(numbers[1]), data)
        if header.shape.index_layers:
            writer.write_index(make_bounds(header.shape))
        writer.finish([0.5, 1.0, 2.0], fidelity)
    return path


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
