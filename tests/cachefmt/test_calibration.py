"""The calibration file: what was written comes back, what was touched is refused by name."""

import json
import re
import shutil
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from cachefmt import CacheFileError, Header, VideoIdentity
from cachefmt.calibration import (
    Calibration,
    CalibrationHeader,
    CalibrationShape,
    read_calibration_header,
    write_calibration,
)
from cachefmt.calibration_files import (
    MissingCalibrationError,
    calibration_of,
    calibration_path,
    find_calibration,
    holds_calibration,
)
from cachefmt.codecs.basis import round_directions
from tests.cachefmt.files import KLT, make_header
from tests.cachefmt.files import SHAPE as CACHE_SHAPE

OF_CACHE = make_header(replace(CACHE_SHAPE, layers=3), codec=KLT)
SHAPE = CalibrationShape(
    layers=3,
    heads=2,
    head_dim=8,
    group_layers=2,
    raw_dtype="BF16",
    rows=2,
    columns=3,
    places=8,
    components=(5, 0),
)
HEADER = CalibrationHeader(
    tool="0.1.0",
    model=replace(OF_CACHE.model, id="somebody/model-1"),
    prompt=OF_CACHE.prompt,
    shape=SHAPE,
    text_ids=(7, 1, 7),
    videos=(VideoIdentity(sha256="5" * 64, name="a.mp4"), VideoIdentity(sha256="6" * 64, name="")),
    tokens=1000,
    most_components=5,
    data_sha256="0" * 64,
)


def make_tensors(header: CalibrationHeader, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    found = {}
    for name, spec in header.specs().items():
        values = rng.random(spec.shape) + 0.01
        if spec.dtype == "BF16":
            bits = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
            found[name] = bits.view(np.uint16)
        else:
            found[name] = values.astype(spec.numpy_dtype)
    for number, directions in enumerate(make_directions(header.shape, seed)):
        _, packed = round_directions(torch.ones(len(directions)), directions, 0.25)
        found[f"directions.{number:02}"] = np.frombuffer(packed, np.uint8)
    return found


def make_directions(shape: CalibrationShape, seed: int) -> list[Tensor]:
    """Of each group [components, vector]."""
    drawn = torch.Generator().manual_seed(seed)
    pairs = zip(shape.groups(), shape.components, strict=True)
    return [torch.randn(count, shape.vector(group), generator=drawn) for group, count in pairs]


def directions_and_mean(
    tensors: dict[str, NDArray[Any]], number: int, header: CalibrationHeader, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """As FORMAT.md says: [components, vector] and, of each place, [places, vector]."""
    scale, gain, mean, place = (
        tensors[f"{name}.{number:02}"].astype(np.float32)
        for name in ("scale", "gain", "mean", "place")
    )
    # What is rounded with the gains of `make_tensors` is multiplied by those of the file.
    exact = make_directions(header.shape, seed)[number]
    by, _ = round_directions(torch.ones(len(exact)), exact, 0.25)
    rows = (exact / by[:, None]).round().numpy() * gain[:, None]
    numbers = header.shape.heads * header.shape.head_dim
    return rows, mean + place @ rows * scale.repeat(numbers)


def write(path: Path, header: CalibrationHeader = HEADER, seed: int = 0) -> Path:
    write_calibration(path, header, make_tensors(header, seed))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(calibration_path(tmp_path, HEADER.model.id))


@st.composite
def headers(draw: st.DrawFn) -> CalibrationHeader:
    layers, group_layers = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shape = replace(
        SHAPE,
        layers=layers,
        group_layers=group_layers,
        components=(0,) * -(-layers // group_layers),
    )
    counts = [draw(st.integers(0, shape.vector(group))) for group in shape.groups()]
    shape = replace(
        shape,
        components=tuple(counts),
        raw_dtype=draw(st.sampled_from(["F16", "BF16", "F32"])),
        places=draw(st.integers(7, 9)),
    )
    text = draw(st.lists(st.integers(0, 100), max_size=4))
    return replace(HEADER, shape=shape, text_ids=tuple(text))


@given(headers(), st.integers(0, 5))
def test_what_was_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, header: CalibrationHeader, seed: int
) -> None:
    path = write(tmp_path_factory.mktemp("one") / "a.calibration.safetensors", header, seed)
    tensors = make_tensors(header, seed)
    found = Calibration.open(path)
    shape = found.header.shape
    assert found.header == replace(header, shape=shape, data_sha256=found.header.data_sha256)
    assert shape == replace(header.shape, direction_bytes=shape.direction_bytes)
    bases = found.bases(shape.rows, shape.columns)
    for number, basis in enumerate(bases):
        directions, mean = directions_and_mean(tensors, number, header, seed)
        assert np.array_equal(basis.scale.numpy(), tensors[f"scale.{number:02}"])
        assert np.array_equal(basis.directions.numpy(), directions)
        np.testing.assert_allclose(basis.mean.numpy(), mean, rtol=1e-5)
    raw = found.text_rows.flatten().view(torch.uint8).numpy().tobytes()
    assert raw == tensors["text.rows"].tobytes()
    with safe_open(str(path), "pt") as whole:  # any safetensors library opens it
        assert set(whole.keys()) == set(tensors)
        assert torch.equal(whole.get_tensor("text.rows"), found.text_rows)


def test_places_beyond_its_own_and_samples_of_other_sizes_have_the_mean_of_the_rest(
    file: Path,
) -> None:
    _, mean = directions_and_mean(make_tensors(HEADER), 0, HEADER)
    calibration = Calibration.open(file)
    place = np.array([0, 2, SHAPE.places, 10**9])  # a cache may claim any
    for grid, expected in (
        ((SHAPE.rows, SHAPE.columns), mean[[0, 2, -1, -1]]),
        ((SHAPE.columns, SHAPE.rows), mean[[-1] * 4]),
    ):
        basis = calibration.bases(*grid)[0]
        found = basis.synthesise(torch.zeros(4, basis.components), place)
        np.testing.assert_allclose(found.flatten(1).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("ids", "shared"), [([7, 1, 7, 9], 3), ([7, 1, 9], 2), ([7], 1), ([1, 1], 0), ([], 0)]
)
def test_only_text_that_begins_the_same_is_shared(file: Path, ids: list[int], shared: int) -> None:
    calibration, token_ids = Calibration.open(file), np.array(ids, np.int32)
    assert calibration.shared_text(token_ids, "BF16") == shared
    assert calibration.shared_text(token_ids, "F16") == 0


def test_a_flipped_bit_of_the_tensors_and_a_cut_are_found(file: Path) -> None:
    content = file.read_bytes()
    data = 8 + struct.unpack("<Q", content[:8])[0]
    for at in range(data, len(content), 23):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(CacheFileError, match="data_sha256"):
            Calibration.open(file)
    for length in (*range(0, len(content), 53), len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CacheFileError, match=file.name):
            Calibration.open(file)
    file.write_bytes(content + b"\0")
    with pytest.raises(CacheFileError, match="too long"):
        Calibration.open(file)


def test_a_flipped_bit_of_the_header_is_found(file: Path) -> None:
    content = file.read_bytes()
    for at in range(0, 8 + struct.unpack("<Q", content[:8])[0], 5):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        for read in (Calibration.open, read_calibration_header):
            with pytest.raises(CacheFileError, match=file.name):
                read(file)


def change(path: Path, key: str, value: object) -> None:
    """Write another value into the header, whose lengths then fit again."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    table = json.loads(content[8 : 8 + length])
    version, text = table["__metadata__"]["sali-cache-calibration"].split(":", 1)
    header = {**json.loads(text), "format": version}
    *sections, last = key.split(".")
    within = header
    for section in sections:
        within = within[section]
    within[last] = value
    version = header.pop("format")
    table["__metadata__"]["sali-cache-calibration"] = f"{version}:{json.dumps(header)}"
    text = json.dumps(table, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("format", "99.0", "newer"),
        ("format", "two", "begins with a version"),
        ("shape.layers", 10**9, "2 shape.components for 500000000 groups"),
        ("shape.heads", 10**12, "expected"),
        ("shape.head_dim", 0, "at least 1"),
        ("shape.places", 6, "above 6 cells"),
        ("shape.places", 10**15, "expected"),
        ("shape.components", [5, 33], "0 to 32"),
        ("shape.components", [5, 1], "expected"),
        ("shape.direction_bytes", [-1, 22], "must be 2 sizes"),
        ("shape.direction_bytes", [10**12, 22], "expected"),
        ("shape.direction_bytes", [], "has tensors"),
        ("shape.raw_dtype", "I8", "must be one of"),
        ("text_ids", [7, 1, -1], "text_ids"),
        ("text_ids", [7, 1], "expected"),
        ("videos", [], "0 videos"),
        ("tokens", "many", "wrong type"),
        ("model.dtype", None, "wrong type"),
        ("prompt.processor_sha256", "x", "hexadecimal"),
        ("surprise", 1, "unknown key"),
    ],
)
def test_a_header_that_says_otherwise_is_refused(
    file: Path, key: str, value: object, says: str
) -> None:
    change(file, key, value)
    with pytest.raises(CacheFileError, match=says):
        Calibration.open(file)


def test_numbers_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path) -> None:
    tensors = make_tensors(HEADER)
    for name, value in (("scale.00", 0), ("gain.00", np.nan), ("mean.01", np.inf)):
        spoilt = tensors[name].copy()
        spoilt.flat[0] = value
        with pytest.raises(ValueError, match=name):
            write_calibration(tmp_path / "a", HEADER, {**tensors, name: spoilt})
        assert list(tmp_path.iterdir()) == []


def test_a_cache_or_a_foreign_file_is_no_calibration(tmp_path: Path) -> None:
    other = tmp_path / "other.calibration.safetensors"
    other.write_bytes(b"{}")
    with pytest.raises(CacheFileError, match="truncated"):
        Calibration.open(other)
    text = b'{"__metadata__":{"format":"pt"}}'
    other.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CacheFileError, match="no calibration"):
        Calibration.open(other)
    with pytest.raises(CacheFileError, match="cannot be opened"):
        Calibration.open(tmp_path / "missing.calibration.safetensors")


def test_a_calibration_is_found_by_model_and_prompt_that_of_its_name_first(file: Path) -> None:
    folder, model, prompt = file.parent, HEADER.model, HEADER.prompt
    assert file.name == "model-1.calibration.safetensors"
    shutil.copy(file, folder / "an older one.calibration.safetensors")
    shutil.copy(file, folder / ".unfinished.calibration.safetensors")
    assert find_calibration(folder, replace(model, revision="main"), prompt) == file
    assert find_calibration(folder, replace(model, weights_sha256="9" * 64), prompt) is None
    assert find_calibration(folder, replace(model, dtype="float32"), prompt) == file
    assert find_calibration(folder, replace(model, weights_sha256="0" * 64), prompt) == file
    other = replace(prompt, chat_template_sha256="9" * 64)
    assert find_calibration(folder, model, other) is None
    assert find_calibration(folder / "missing", model, prompt) is None
    file.unlink()
    found = find_calibration(folder, model, prompt)
    assert found is not None
    assert found.name == "an older one.calibration.safetensors"
    assert read_calibration_header(found).text_ids == HEADER.text_ids


def naming(sha256: str, **codec: Any) -> Header:
    """The header of a cache that names a calibration."""
    changed = {"group_layers": 2, "text_tokens": 2, "calibration": sha256, **codec}
    return replace(OF_CACHE, codec=replace(OF_CACHE.codec, **changed))


@pytest.mark.parametrize(
    "cache",
    [
        "clip.safetensors",
        "clip.segments",
        "clip.segments/00001.safetensors",
        "works/0123/caches/ab/abcd.segments/00000.safetensors",
    ],
)
def test_a_cache_finds_what_it_names_beside_it_or_above(file: Path, cache: str) -> None:
    digest = Calibration.open(file).sha256
    write(file.with_name("another.calibration.safetensors"), seed=1)
    assert calibration_of(file.parent / cache, naming(digest)).path == file


def test_a_link_finds_what_lies_beside_the_cache_that_it_leads_to(file: Path) -> None:
    digest = Calibration.open(file).sha256
    (file.parent / "clip.safetensors").touch()
    link = file.parent.with_name(f"{file.parent.name}-elsewhere") / "clip.safetensors"
    link.parent.mkdir()
    link.symlink_to(file.parent / "clip.safetensors")
    assert calibration_of(link, naming(digest)).path == file


def test_a_damaged_one_of_another_model_is_of_no_concern(file: Path) -> None:
    other = file.with_name("another.calibration.safetensors")
    other.write_bytes(b"damaged")
    assert find_calibration(file.parent, HEADER.model, HEADER.prompt) == file
    file.write_bytes(b"damaged")
    with pytest.raises(CacheFileError, match=re.escape(file.name)):
        find_calibration(file.parent, HEADER.model, HEADER.prompt)


def test_what_cannot_be_read_beside_it_does_not_hide_it(file: Path) -> None:
    digest = Calibration.open(file).sha256
    file.with_name("a.calibration.safetensors").symlink_to("gone")
    (file.parent / "b.calibration.safetensors").mkdir()
    cache = file.with_name("clip.safetensors")
    assert calibration_of(cache, naming(digest)).path == file
    assert holds_calibration(file.parent, digest)
    assert not holds_calibration(file.parent, "0" * 64)
    file.unlink()
    with pytest.raises(MissingCalibrationError, match=r"a\.calibration.*No such file.*b\.cal"):
        calibration_of(cache, naming(digest))


def test_tensors_of_a_header_are_counted_before_they_are_named(file: Path) -> None:
    change(file, "shape", asdict(SHAPE) | {"layers": 10**6, "components": [0] * (10**6 // 2)})
    with pytest.raises(CacheFileError, match="has 11 tensors, its header asks for 2500001"):
        Calibration.open(file)


def test_a_cache_of_another_model_or_other_groups_is_refused(file: Path) -> None:
    digest = Calibration.open(file).sha256
    header = naming(digest)
    for forged in (
        replace(header, shape=replace(header.shape, layers=4)),
        replace(header, shape=replace(header.shape, raw_dtype="F16")),
        replace(header, model=replace(header.model, weights_sha256="9" * 64)),
        naming(digest, group_layers=1),
        naming(digest, text_tokens=4),
    ):
        with pytest.raises(CacheFileError, match=r"clip.safetensors: .*not about its model"):
            calibration_of(file.with_name("clip.safetensors"), forged)


def test_a_calibration_that_was_moved_or_changed_is_missed_by_name(file: Path) -> None:
    cache, digest = file.with_name("clip.safetensors"), Calibration.open(file).sha256
    assert calibration_of(cache, naming(digest)).sha256 == digest
    file.unlink()
    write(file, seed=1)
    with pytest.raises(
        MissingCalibrationError, match=f"clip.safetensors: needs .*{digest[:8]}"
    ) as error:
        calibration_of(cache, naming(digest))
    assert f"{file} has {Calibration.open(file).sha256[:8]}" in str(error.value)
    file.unlink()
    with pytest.raises(CacheFileError, match="it was moved, changed or removed"):
        calibration_of(cache, naming(digest))


def test_directions_that_no_writer_wrote_are_refused_by_name(tmp_path: Path) -> None:
    tensors = make_tensors(HEADER)
    path = tmp_path / "a.calibration.safetensors"
    for spoilt in (b"", tensors["directions.00"].tobytes()[:-1]):
        path.unlink(missing_ok=True)
        tensors["directions.00"] = np.frombuffer(spoilt, np.uint8)
        write_calibration(path, HEADER, tensors)
        with pytest.raises(CacheFileError, match=r"directions\.00 cannot be decoded"):
            Calibration.open(path).bases(2, 3)
