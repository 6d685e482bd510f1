"""A reader written from FORMAT.md alone, with numpy and the standard library."""

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import cachefmt
from cachefmt import tensor_specs
from cachefmt.codecs import int4, int8
from tests.cachefmt.files import SHAPE, make_arrays, make_header, write_file

FORMAT = Path(cachefmt.__file__).with_name("FORMAT.md").read_text()
DTYPES = {"F64": "<f8", "I32": "<i4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1"}


class Stranger:
    """What somebody who only read FORMAT.md might write."""

    def __init__(self, content: bytes) -> None:
        (length,) = struct.unpack("<Q", content[:8])
        self.first_bytes, self.data = content[: 8 + length], content[8 + length :]
        self.table = json.loads(self.first_bytes[8:])
        self.header = json.loads(self.table.pop("__metadata__")["sali-cache"])

    def content(self, name: str) -> bytes:
        begin, end = self.table[name]["data_offsets"]
        return self.data[begin:end]

    def array(self, name: str) -> NDArray[Any]:
        entry = self.table[name]
        return np.frombuffer(self.content(name), DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def int8(self, name: str) -> NDArray[np.float32]:
        scale = self.array(f"{name}.int8.scale").astype(np.float32)
        size = self.header["shape"]["group_size"]
        return self.array(f"{name}.int8").astype(np.float32) * scale.repeat(size, -1)

    def int4(self, name: str) -> NDArray[np.float32]:
        packed = self.array(f"{name}.int4")
        codes = np.concatenate([packed & 15, packed >> 4], -1).astype(np.float32)
        size = self.header["shape"]["group_size"]
        scale, minimum = (
            self.array(f"{name}.int4.{part}").astype(np.float32).repeat(size, -1)
            for part in ("scale", "minimum")
        )
        return codes * scale + minimum


@pytest.fixture
def keys() -> dict[str, torch.Tensor]:
    """Keys of layer 0 that the file encodes, by codec."""
    return {
        codec: torch.randn(SHAPE.tokens[codec.upper()], SHAPE.heads, SHAPE.head_dim)
        for codec in ("int8", "int4")
    }


@pytest.fixture
def stranger(tmp_path: Path, keys: dict[str, torch.Tensor]) -> Stranger:
    arrays = make_arrays()
    prefix = "layers.0.key"
    codes, scale = int8.encode(keys["int8"], SHAPE.group_size)
    arrays |= {f"{prefix}.int8": codes.numpy(), f"{prefix}.int8.scale": scale.numpy()}
    packed, scale4, minimum = int4.encode(keys["int4"], SHAPE.group_size)
    arrays |= {
        f"{prefix}.int4": packed.numpy(),
        f"{prefix}.int4.scale": scale4.numpy(),
        f"{prefix}.int4.minimum": minimum.numpy(),
    }
    return Stranger(write_file(tmp_path / "x", make_header(), arrays).read_bytes())


def test_a_stranger_decodes_what_we_encoded(
    stranger: Stranger, keys: dict[str, torch.Tensor]
) -> None:
    assert np.abs(stranger.int8("layers.0.key") - keys["int8"].numpy()).max() < 0.02
    assert np.abs(stranger.int4("layers.0.key") - keys["int4"].numpy()).max() < 0.2


def test_a_stranger_computes_our_digests(stranger: Stranger) -> None:
    for name, digest in stranger.header["checksums"].items():
        assert hashlib.sha256(stranger.content(name)).hexdigest() == digest
    key = b'\\"header_sha256\\":\\"'
    start = stranger.first_bytes.index(key) + len(key)
    blank = stranger.first_bytes[:start] + b"0" * 64 + stranger.first_bytes[start + 64 :]
    assert hashlib.sha256(blank).hexdigest() == stranger.header["header_sha256"]


def test_the_page_names_every_header_key_and_every_tensor(stranger: Stranger) -> None:
    names = {re.sub(r"^layers\.\d+", "layers.L", name) for name in tensor_specs(SHAPE)}
    names = {name.replace(".key", ".K").replace(".value", ".K") for name in names}
    for part, value in stranger.header.items():
        names |= {part}
        if isinstance(value, dict) and part not in ("checksums", "policy"):
            names |= {key for key in value if key not in ("major", "minor")}
    for name in names:
        assert f"`{name}`" in FORMAT
