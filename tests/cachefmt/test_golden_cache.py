"""The bytes of a small file, recorded: an accidental change of the format fails here.

After a meant change (FORMAT.md and the version say so) record again:
`python -m tests.cachefmt.test_golden_cache`.
"""

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from cachefmt import CacheFile, tensor_specs
from tests.cachefmt.files import SHAPE, Arrays, make_header, make_tables, split_file, write_file

RECORDED_HEADER = Path(__file__).with_name("golden_header.txt")
RECORDED_FILE_SHA256 = "ef4397e737756d8538472f188ee9ba435298b585016fef0e590506cf0e97bccf"
GOLDEN_SHAPE = replace(SHAPE, layers=1)


def golden_arrays() -> Arrays:
    """Content that depends on no random generator."""
    arrays = make_tables(GOLDEN_SHAPE)
    for index, (name, spec) in enumerate(tensor_specs(GOLDEN_SHAPE).items()):
        if name not in arrays:
            content = ((np.arange(spec.size_bytes) * 7 + index * 31) % 251).astype(np.uint8)
            arrays[name] = content.view(spec.numpy_dtype).reshape(spec.shape)
    return arrays


def write_golden(folder: Path) -> Path:
    return write_file(folder / "golden.safetensors", make_header(GOLDEN_SHAPE), golden_arrays())


def test_the_header_is_byte_for_byte_the_recorded_one(tmp_path: Path) -> None:
    json_bytes, _ = split_file(write_golden(tmp_path))
    recorded = RECORDED_HEADER.read_bytes().rstrip(b"\n")
    assert json_bytes.rstrip(b" ") == recorded
    assert json_bytes == recorded + b" " * (-len(recorded) % 8)


def test_the_whole_file_is_byte_for_byte_the_recorded_one(tmp_path: Path) -> None:
    content = write_golden(tmp_path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == RECORDED_FILE_SHA256


def test_the_recorded_header_still_opens(tmp_path: Path) -> None:
    recorded = RECORDED_HEADER.read_bytes().rstrip(b"\n")
    recorded += b" " * (-len(recorded) % 8)
    arrays = golden_arrays()
    data = b"".join(arrays[name].tobytes() for name in tensor_specs(GOLDEN_SHAPE))
    path = tmp_path / "recorded.safetensors"
    path.write_bytes(struct.pack("<Q", len(recorded)) + recorded + data)
    with CacheFile.open(path) as cache:
        cache.verify()
        assert cache.header.shape == GOLDEN_SHAPE


def record() -> None:
    """Write the header anew and print the digest to enter above."""
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_golden(Path(folder))
        RECORDED_HEADER.write_bytes(split_file(path)[0].rstrip(b" ") + b"\n")
        sys.stdout.write(hashlib.sha256(path.read_bytes()).hexdigest() + "\n")


if __name__ == "__main__":
    record()
