"""`batch inspect` and `batch verify`: what a cache says of itself, and whether it is whole."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from batch.making.fidelity import NeutralAnswers
from cachefmt import CacheFile, Codec, Fidelity
from cachefmt.header import Segment
from tests.cachefmt.files import KLT, PLAIN, make_header, write_file
from tests.cli.running import batch, objects, succeed


def flipped(path: Path, content: bytes) -> Path:
    """Flip one bit in the middle of some content of a file."""
    data = bytearray(path.read_bytes())
    data[data.index(content) + len(content) // 2] ^= 4
    path.write_bytes(bytes(data))
    return path


def test_inspect_tells_video_model_and_size_on_stdout_alone(cache: Path, model: Path) -> None:
    result = batch("inspect", cache)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("video      clip.mp4 (")
    assert f"model      {model} (llava_next, float32, " in result.stdout
    assert "samples    4, 3 stored, 1 pointers\n" in result.stdout
    assert "fidelity   " in result.stdout
    assert f"size       {cache.stat().st_size:,} bytes, " in result.stdout


def test_inspect_gives_json_with_stable_keys_and_bytes_that_add_up(cache: Path) -> None:
    lines = succeed("inspect", cache, "--json")
    (found,) = objects(lines)
    keys = (
        "cache size_bytes fp16_kv_bytes compression bytes_per_minute samples stored_samples "
        "slots computed tokens bytes groups codec fidelity index_layers seconds format model "
        "prompt video manifest policy layout tool segments"
    )
    assert list(found) == keys.split()
    assert found["size_bytes"] == cache.stat().st_size == sum(found["bytes"].values())
    assert list(found["tokens"]) == ["FP16", "INT8", "INT4"]
    with CacheFile.open(cache) as opened:
        shape = opened.header.shape
        assert found["index_layers"] == list(shape.index_layers)
    per_token = 2 * 2 * shape.layers * shape.heads * shape.head_dim
    assert found["fp16_kv_bytes"] == found["slots"] * per_token
    assert found["compression"] == found["fp16_kv_bytes"] / found["size_bytes"]


FIDELITY = Fidelity(kl=0.0123, agreement=0.98765, questions=8, tokens=40)


@pytest.fixture
def encoded(tmp_path: Path) -> Path:
    """Any bytes in two groups of layers, with bases and an index."""
    return write_file(tmp_path / "x.safetensors", make_header(codec=KLT), fidelity=FIDELITY)


def test_inspect_tells_bytes_by_block_group_of_layers_and_kind(encoded: Path) -> None:
    (found,) = objects(succeed("inspect", encoded, "--json"))
    with CacheFile.open(encoded) as cache:
        sizes = {name: cache.tensor_bytes(name) for name in cache.names}
    (part,) = found["segments"]
    assert part["blocks"] == [
        [sizes[f"block.{number:05}.{group:02}"] for group in range(2)] for number in range(2)
    ]
    assert found["groups"] == [
        {
            "layers": [group, group + 1],
            "basis": sizes[f"basis.{group:02}"],
            "blocks": sum(sizes[f"block.{number:05}.{group:02}"] for number in range(2)),
        }
        for group in range(2)
    ]
    kinds = found["bytes"]
    assert kinds["bases"] == sizes["basis.00"] + sizes["basis.01"]
    assert kinds["index"] == sizes["index"]
    assert kinds["tables"] == sizes["tables"] + sizes["cost.seconds"]
    assert sum(kinds.values()) == found["size_bytes"] == encoded.stat().st_size


def test_inspect_says_what_a_file_keeps_and_what_a_minute_takes(encoded: Path) -> None:
    (found,) = objects(succeed("inspect", encoded, "--json"))
    assert found["fidelity"] == dataclasses.asdict(FIDELITY)
    assert found["codec"]["step"] == KLT.step
    with CacheFile.open(encoded) as cache:
        time_s = cache.tables.time_s
    seconds = time_s[-1] - time_s[0] + np.median(np.diff(time_s))
    assert found["bytes_per_minute"] == round(60 * found["size_bytes"] / seconds)
    lines = succeed("inspect", encoded)
    assert "codec      klt standard, step 1, basis in the file" in lines
    assert (
        "fidelity   KL 0.0123 nats a token, agreement 0.988, "
        "of 40 tokens that answer 8 questions" in lines
    )
    assert any(f"; {found['bytes_per_minute']:,} a minute" in line for line in lines)
    assert sum(line.startswith("    layers ") for line in lines) == 2


def test_segments_of_one_bound_may_have_other_codecs(tmp_path: Path) -> None:
    folder = tmp_path / "x.segments"
    folder.mkdir()
    first_sample = 0
    for number, codec in enumerate((KLT, PLAIN)):
        header = make_header(codec=codec)
        bound = dataclasses.replace(header.policy, parameters={"max_kl": 0.1})
        part = Segment(number=number, count=2, first_sample=first_sample)
        header = dataclasses.replace(header, policy=bound, segment=part)
        fidelity = FIDELITY if codec is KLT else None
        write_file(folder / f"{number:05}.safetensors", header, fidelity=fidelity)
        first_sample += header.shape.samples
    (found,) = objects(succeed("inspect", folder, "--json"))
    assert [group["layers"] for group in found["groups"]] == [[0, 1], [1, 2], [0, 2]]
    assert sum(group["blocks"] for group in found["groups"]) == found["bytes"]["blocks"]
    assert found["fidelity"] == dataclasses.asdict(FIDELITY)
    assert any(" of the worst segment" in line for line in succeed("inspect", folder))


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        (PLAIN, ["codec      plain lossless", "fidelity   exact"]),
        (
            dataclasses.replace(KLT, calibration="7" * 64),
            [
                "codec      klt standard, step 1, calibration 777777777777",
                "fidelity   not measured",
            ],
        ),
    ],
)
def test_inspect_says_what_was_not_measured(tmp_path: Path, codec: Codec, said: list[str]) -> None:
    path = write_file(tmp_path / "x.safetensors", make_header(codec=codec))
    assert set(said) <= set(succeed("inspect", path))


def test_verify_says_that_a_whole_file_is_whole(cache: Path) -> None:
    result = batch("verify", cache)
    assert (result.exit_code, result.stdout) == (0, f"{cache}: whole\n")
    assert result.stderr.startswith(f"1 whole; {cache.stat().st_size:,} bytes, ")


def test_verify_names_the_damaged_tensor_and_the_missing_file_and_goes_on(
    cache: Path, tmp_path: Path
) -> None:
    with CacheFile.open(cache) as opened:
        rows = opened.block(0, 0)
    damaged = tmp_path / "damaged.safetensors"
    shutil.copy(cache, damaged)
    flipped(damaged, rows)
    gone = tmp_path / "gone.safetensors"
    some = batch("verify", damaged, gone, cache)
    assert (some.exit_code, some.stdout) == (3, f"{cache}: whole\n")
    assert f"error: {damaged}: block.00000.00 does not match its digest" in some.stderr
    assert f"error: {gone}: no such file" in some.stderr
    assert "1 whole, 2 failed; " in some.stderr
    assert batch("verify", damaged, gone).exit_code == 1


@pytest.fixture(scope="module")
def bounded(clip: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache within an error, in a folder with its manifest; not to be written to."""
    folder = tmp_path_factory.mktemp("bounded")
    words = ("prefill", clip, "--out", folder, "--model", model, "--json")
    (made,) = objects(succeed(*words, "--max-kl", 0.5))
    assert (made["codec"], made["quality"]) == ("klt", "custom")
    assert 0 < made["kl"] <= 0.5
    (again,) = objects(succeed(*words, "--max-kl", 0.5))
    assert (again["skipped"], again["kl"], again["step"]) == (True, made["kl"], made["step"])
    refused = batch(*words, "--max-kl", 0.4)
    assert "max_kl: got 0.5, expected 0.4; --force" in refused.stderr
    return folder / "clip.safetensors"


def test_a_bound_of_the_error_is_found_again_from_the_manifest(bounded: Path) -> None:
    (found,) = objects(succeed("inspect", bounded, "--json"))
    assert found["policy"]["parameters"]["max_kl"] == 0.5
    kl, agreement = (found["fidelity"][name] for name in ("kl", "agreement"))
    [line] = succeed("verify", "--fidelity", bounded)
    figures = f"{kl:.4f} and {{}}{agreement:.3f}"
    assert line == (
        f"{bounded}: whole; KL {figures.format('agreement ')}, "
        f"when it was written {figures.format('')}"
    )
    (row,) = objects(succeed("verify", "--fidelity", bounded, "--json"))
    assert (row["kl"], row["written_kl"], row["written_agreement"]) == (kl, kl, agreement)


def test_an_error_above_what_was_promised_fails(
    bounded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dataclasses.replace(FIDELITY, kl=0.51)
    monkeypatch.setattr(NeutralAnswers, "compare", lambda self, rows: found)
    result = batch("verify", "--fidelity", bounded)
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        "the KL of its answers is 0.5100 here, above the 0.5 that it was to keep" in result.stderr
    )


def test_an_error_needs_the_manifest_that_the_cache_was_made_of(
    bounded: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "clip.safetensors"
    shutil.copy(bounded, alone)
    result = batch("verify", "--fidelity", alone)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"is not at {alone.with_suffix('.parquet')}" in result.stderr
    assert batch("verify", alone).exit_code == 0


def test_a_cache_that_is_exact_is_found_to_be(cache: Path, tmp_path: Path) -> None:
    for name in ("clip.safetensors", "clip.parquet"):
        shutil.copy(cache.with_name(name), tmp_path)
    words = ("prefill", tmp_path / "clip.parquet", "--out", tmp_path, "--force")
    (header,) = objects(succeed("inspect", cache, "--json"))
    succeed(*words, "--quality", "lossless", "--model", header["model"]["id"])
    [line] = succeed("verify", "--fidelity", tmp_path / "clip.safetensors")
    assert line.endswith(
        "whole; KL 0.0000 and agreement 1.000, when it was written 0.0000 and 1.000"
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("verify", "--model", "demo"), "--model and --device go with --fidelity"),
        (
            ("prefill", "--out", "x", "--model", "demo", "--max-kl", 0),
            "0.0 is not in the range x>0",
        ),
        (
            ("prefill", "--out", "x", "--model", "demo", "--max-kl", "nan"),
            "max_kl: got nan",
        ),
        (
            ("prefill", "--out", "x", "--model", "demo", "--max-kl", 1, "--quality", "high"),
            "give one of them",
        ),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    clip: Path, words: tuple[object, ...], error: str
) -> None:
    result = batch(*words, clip)
    assert (result.exit_code, result.stdout) == (2, "")
    assert error in result.stderr
