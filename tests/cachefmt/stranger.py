"""A reader written from FORMAT.md alone, with numpy, zstandard, xxhash and the standard library."""

import base64
import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
import zstandard
from numpy.typing import NDArray

RAW = {"F16": "<f2", "BF16": "<u2", "F32": "<f4"}
TIERS = ("FP16", "INT8", "INT4")
ALPHABETS = ((255, 1), (15, 2), (5, 3), (3, 5), (3, 5))
"""Base, symbols a byte."""
FORMAT = (Path(__file__).parents[2] / "cachefmt" / "FORMAT.md").read_text()
DICTIONARY = (
    FORMAT.split("### Dictionary")[1].split("```\n")[1].rstrip("\n").replace("#", "\1").encode()
)


def unshuffle(data: bytes, item_bytes: int) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(item_bytes, -1).T.tobytes()


def symbols_of(stream: bytes, base: int, per_byte: int, count: int) -> NDArray[np.int64]:
    digits = []
    for byte in stream:
        for _ in range(per_byte):
            byte, digit = divmod(byte, base)
            digits.append((digit + 1) // 2 if digit % 2 else -digit // 2)
    return np.array(digits[:count], np.int64)


class Matrix:
    """A matrix of symbols: its head, then its streams."""

    def __init__(self, head: bytes, rows: int, columns: int) -> None:
        *self.ends, self.escapes = struct.unpack("<5HI", head)
        self.rows, self.columns = rows, columns
        self.counts = [
            rows * (end - start) for start, end in zip([0, *self.ends[:-1]], self.ends, strict=True)
        ]
        self.sizes = [
            -(-count // per_byte)
            for count, (_, per_byte) in zip(self.counts, ALPHABETS, strict=True)
        ] + [4 * self.escapes]

    def read(self, streams: list[bytes]) -> NDArray[np.int64]:
        *planes, escapes = streams
        larger_by = iter(np.frombuffer(unshuffle(escapes, 4), "<u4").tolist())
        parts = []
        for plane, count, (base, per_byte) in zip(planes, self.counts, ALPHABETS, strict=True):
            found = symbols_of(plane, base, per_byte, count)
            for at in np.flatnonzero(np.abs(found) == (base - 1) // 2):
                found[at] += np.sign(found[at]) * next(larger_by)
            parts.append(found.reshape(self.rows, count // max(self.rows, 1)))
        unused = np.zeros((self.rows, self.columns - self.ends[4]), np.int64)
        return np.concatenate([*parts, unused], axis=1)


def open_frame(frame: bytes, sizes: list[int]) -> list[bytes]:
    content = zstandard.decompress(frame)
    assert len(content) == sum(sizes)
    ends = np.cumsum(sizes).tolist()
    return [content[end - size : end] for size, end in zip(sizes, ends, strict=True)]


class Basis:
    """mean [places, vector] or [1, vector], scale [vector], directions [components, vector]."""

    def __init__(self, mean: Any, scale: Any, directions: Any) -> None:
        self.mean, self.scale, self.directions = mean, scale, directions

    @classmethod
    def unpack(cls, data: bytes, layers: int, numbers: int) -> "Basis":
        """From the file: layers of the group, numbers of a layer and kind."""
        (components,) = struct.unpack_from("<H", data)
        scale = np.frombuffer(data, "<f4", 2 * layers, 2).repeat(numbers)
        gain = np.frombuffer(data, "<f4", components, 2 + 8 * layers)
        directions = directions_of(data[2 + 8 * layers + 4 * components :], gain, len(scale))
        return cls(np.zeros((1, len(scale))), scale, directions)

    @classmethod
    def calibrated(cls, content: bytes, group: int, places: int) -> "Basis":
        """From a calibration file, for samples of as many cells as those it was made from."""
        parts = {}
        for part in ("scale", "gain", "mean", "place"):
            parts[part] = safetensors_array(content, f"{part}.{group:02}").astype(np.float64)
        numbers = len(parts["mean"]) // parts["scale"].size
        scale = parts["scale"].reshape(-1).repeat(numbers)
        packed = safetensors_array(content, f"directions.{group:02}").tobytes()
        directions = directions_of(packed, parts["gain"], len(scale))
        own = np.minimum(np.arange(places), len(parts["place"]) - 1)
        mean = parts["mean"] + parts["place"][own] @ directions * scale
        return cls(mean, scale, directions)


def directions_of(data: bytes, gain: NDArray[Any], vector: int) -> NDArray[np.float64]:
    """[components, vector]"""
    matrix = Matrix(data[:14], vector, len(gain))
    symbols = matrix.read(open_frame(data[14:], matrix.sizes))
    return symbols.T * gain[:, None].astype(np.float64)


def safetensors_array(content: bytes, name: str) -> NDArray[Any]:
    (length,) = struct.unpack("<Q", content[:8])
    entry = json.loads(content[8 : 8 + length])[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    dtypes = {**RAW, "U8": "u1"}
    return np.frombuffer(content[begin:end], dtypes[entry["dtype"]]).reshape(entry["shape"])


class Stranger:
    """What somebody who only read FORMAT.md might write."""

    def __init__(self, content: bytes) -> None:
        (length,) = struct.unpack("<Q", content[:8])
        self.first_bytes, self.data = content[: 8 + length], content[8 + length :]
        self.table = json.loads(self.first_bytes[8:])
        metadata = self.table.pop("__metadata__")
        inflate = zlib.decompressobj(-15, DICTIONARY)
        version, text = metadata["sali-cache"].split(":", 1)
        assert version.split(".")[0] == "2"
        text = inflate.decompress(base64.b85decode(text)).decode()
        for at in range(0, len(inflate.unused_data), 32):
            text = text.replace("\1", f'"{inflate.unused_data[at : at + 32].hex()}"', 1)
        self.header = json.loads(text)
        seal = base64.b85decode(metadata["seal"])
        kl, agreement, questions, tokens = struct.unpack("<ddII", seal[32:56])
        fidelity = {"kl": kl, "agreement": agreement, "questions": questions, "tokens": tokens}
        self.header["fidelity"] = fidelity if any(seal[32:56]) else None
        self.header["header_sha256"], self.header["digests"] = seal[:32].hex(), seal[56:]
        self.shape, self.codec = self.header["shape"], self.header["codec"]
        self.tokens = sum(self.shape["tokens"].values())
        self.seen_modes: set[int] = set()

    def content(self, name: str) -> bytes:
        begin, end = self.table[name]["data_offsets"]
        return self.data[begin:end]

    def check_digests(self) -> None:
        digests = self.header["digests"]
        names = sorted(self.table, key=lambda name: self.table[name]["data_offsets"])
        for number, name in enumerate(names):
            digest = xxhash.xxh3_128(self.content(name)).digest()
            assert digests[16 * number : 16 * number + 16] == digest
        assert len(digests) == 16 * len(names)
        start = self.first_bytes.index(b'"seal":"') + 8
        blank = self.first_bytes[:start] + b"0" * 40 + self.first_bytes[start + 40 :]
        assert hashlib.sha256(blank).hexdigest() == self.header["header_sha256"]

    def tables(self) -> dict[str, NDArray[Any]]:
        samples, tokens = (self.shape["samples"],), (self.tokens,)
        return self.packed(
            "tables",
            {
                "time_s": ("f8", samples),
                "source": ("i4", samples),
                "tier": ("u1", tokens),
                "sample": ("i4", tokens),
                "cell": ("i4", tokens),
                "multiplicity": ("i4", tokens),
                "position": ("i4", (*tokens, self.shape["position_axes"])),
            },
        )

    def index(self) -> dict[str, NDArray[Any]]:
        shape = self.shape
        rows = (shape["stored_samples"], len(shape["index_layers"]), 2, shape["heads"])
        scales = (*rows, shape["head_dim"] // shape["group_size"])
        codes = ("u1", (*rows, shape["head_dim"] // 2))
        return self.packed(
            "index", {"codes": codes, "scale": ("f2", scales), "minimum": ("f2", scales)}
        )

    def packed(
        self, tensor: str, columns: dict[str, tuple[str, tuple[int, ...]]]
    ) -> dict[str, NDArray[Any]]:
        sizes = [int(dtype[1]) * int(np.prod(shape)) for dtype, shape in columns.values()]
        found = {}
        streams = open_frame(self.content(tensor), sizes)
        for (name, (dtype, shape)), stream in zip(columns.items(), streams, strict=True):
            bits = 8 * int(dtype[1])
            folded = np.frombuffer(unshuffle(stream, bits // 8), f"<u{bits // 8}")
            rows: list[list[int]] = []
            above = [0] * int(np.prod(shape[1:]))
            for row in folded.reshape(shape[0], len(above)).tolist():
                steps = [-(one + 1) // 2 if one % 2 else one // 2 for one in row]
                above = [(a + step) % 2**bits for a, step in zip(above, steps, strict=True)]
                rows.append(above)
            column = np.array(rows, f"<u{bits // 8}").reshape(shape).view(f"<{dtype}")
            found[name] = column
        return found

    def rows_of_block(self, block: int) -> range:
        tables, size = self.tables(), self.codec["block_samples"]
        stored = [s for s, source in enumerate(tables["source"]) if s == source]
        if block * size >= len(stored):
            return range(self.codec["text_tokens"], self.tokens)
        edges = []
        for first in (block * size, (block + 1) * size):
            sample = stored[first] if first < len(stored) else None
            at = (r for r in range(self.tokens) if max(tables["sample"][: r + 1]) >= sample)
            edges.append(self.tokens if sample is None else next(at, self.tokens))
        return range(self.codec["text_tokens"] if block == 0 else edges[0], edges[1])

    def places(self) -> NDArray[np.int64]:
        tables, texts, places = self.tables(), {}, []
        for sample, cell in zip(tables["sample"].tolist(), tables["cell"].tolist(), strict=True):
            if cell >= 0 or sample < 0:
                places.append(cell)
            else:
                places.append(self.shape["rows"] * self.shape["columns"] + texts.get(sample, 0))
                texts[sample] = texts.get(sample, 0) + 1
        return np.array(places, np.int64)

    def layers_of(self, group: int) -> int:
        size = self.codec["group_layers"]
        return min(size, self.shape["layers"] - group * size)

    def plain(self, block: int, group: int) -> dict[str, NDArray[np.float32]]:
        """Decoded rows [layers, 2, rows, heads, head_dim] by tier."""
        data, start = self.content(f"block.{block:05}.{group:02}"), 0
        head_dim = self.shape["head_dim"]
        groups = head_dim // self.shape["group_size"]
        rows = self.rows_of_block(block)
        tier = self.tables()["tier"][rows.start : rows.stop]
        parts = {
            "FP16": [(RAW[self.shape["raw_dtype"]], head_dim)],
            "INT8": [("i1", head_dim), ("<f2", groups)],
            "INT4": [("u1", head_dim // 2), ("<f2", groups), ("<f2", groups)],
        }
        found = {}
        for code, name in enumerate(TIERS):
            arrays = []
            for dtype, numbers in parts[name]:
                count = int((tier == code).sum())
                shape = (self.layers_of(group), 2, count, self.shape["heads"], numbers)
                array = np.frombuffer(data, dtype, int(np.prod(shape)), start).reshape(shape)
                arrays.append(array)
                start += array.nbytes
            found[name] = self.tier_rows(name, arrays)
        assert start == len(data)
        return found

    def tier_rows(self, name: str, arrays: list[NDArray[Any]]) -> NDArray[np.float32]:
        size = self.shape["group_size"]
        codes, *scales = arrays
        wide = [scale.astype(np.float32).repeat(size, -1) for scale in scales]
        if name == "FP16":
            return self.raw(codes)
        if name == "INT8":
            return codes.astype(np.float32) * wide[0]
        both = np.concatenate([codes & 15, codes >> 4], -1).astype(np.float32)
        return both * wide[0] + wide[1]

    def raw(self, numbers: NDArray[Any]) -> NDArray[np.float32]:
        if self.shape["raw_dtype"] == "BF16":
            return (numbers.astype("<u4") << 16).view("<f4")
        return numbers.astype(np.float32)

    def basis(self, group: int) -> Basis:
        numbers = self.shape["heads"] * self.shape["head_dim"]
        return Basis.unpack(self.content(f"basis.{group:02}"), self.layers_of(group), numbers)

    def klt(self, block: int, group: int, basis: Basis) -> NDArray[np.float32]:
        """Decoded rows [tokens of the block, vector], not yet rounded to raw_dtype."""
        data = self.content(f"block.{block:05}.{group:02}")
        rows = self.rows_of_block(block)
        places = self.places()[rows.start : rows.stop]
        count, step = struct.unpack_from("<If", data)
        if count == 2**32 - 1:
            count, places = 0, np.full_like(places, -1)
        coded = np.flatnonzero(places >= 0)
        matrix = Matrix(data[8:22], count, len(basis.directions))
        item_bytes = np.dtype(RAW[self.shape["raw_dtype"]]).itemsize
        exact_bytes = (len(places) - len(coded)) * len(basis.scale) * item_bytes
        sizes = [-(-len(coded) // 5), *matrix.sizes, exact_bytes]
        packed, *streams, exact = open_frame(data[22:], sizes)
        modes = symbols_of(packed, 3, 5, len(coded)) % 3  # digit 2 is symbol -1
        self.seen_modes.update(modes.tolist())
        numbers = step * matrix.read(streams)
        found = np.empty((len(places), len(basis.scale)), np.float32)
        last: dict[int, NDArray[np.float64]] = {}
        row = 0
        for token, mode in zip(coded, modes, strict=True):
            place = int(places[token])
            y = last[place] if mode else 0
            if mode != 2:
                y, row = y + numbers[row], row + 1
            last[place] = y
            mean = basis.mean[place if len(basis.mean) > 1 else 0]
            found[token] = mean + basis.scale * (y @ basis.directions)
        assert row == count
        kept = np.frombuffer(unshuffle(exact, item_bytes), RAW[self.shape["raw_dtype"]])
        found[places < 0] = self.raw(kept.reshape(-1, len(basis.scale)))
        return found
