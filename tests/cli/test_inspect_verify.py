"""`batch inspect` and `batch verify`: what a cache says of itself, and whether it is whole."""

import shutil
from pathlib import Path

from cachefmt import CacheFile
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
    assert " bytes (layers 0)\n" in result.stdout
    assert f"size       {cache.stat().st_size:,} bytes, " in result.stdout


def test_inspect_gives_json_with_stable_keys_and_bytes_that_add_up(cache: Path) -> None:
    lines = succeed("inspect", cache, "--json")
    (found,) = objects(lines)
    assert list(found) == [
        "cache",
        "size_bytes",
        "fp16_kv_bytes",
        "compression",
        "samples",
        "stored_samples",
        "slots",
        "tokens",
        "bytes",
        "index_layers",
        "seconds",
        "format",
        "model",
        "prompt",
        "video",
        "manifest",
        "policy",
        "layout",
        "tool",
        "segments",
    ]
    assert found["size_bytes"] == cache.stat().st_size == sum(found["bytes"].values())
    assert list(found["tokens"]) == ["FP16", "INT8", "INT4"]
    with CacheFile.open(cache) as opened:
        shape = opened.header.shape
        fp16 = sum(
            opened.array(f"layers.{layer}.{kind}.fp16").nbytes
            for layer in range(shape.layers)
            for kind in ("key", "value")
        )
        index = sum(opened.array(name).nbytes for name in opened.names if "index" in name)
        assert found["index_layers"] == list(shape.index_layers)
    assert found["bytes"]["index"] == index
    assert found["bytes"]["FP16"] == fp16
    per_token = 2 * 2 * shape.layers * shape.heads * shape.head_dim
    assert found["fp16_kv_bytes"] == found["slots"] * per_token
    assert found["compression"] == found["fp16_kv_bytes"] / found["size_bytes"]


def test_verify_says_that_a_whole_file_is_whole(cache: Path) -> None:
    result = batch("verify", cache)
    assert (result.exit_code, result.stdout) == (0, f"{cache}: whole\n")
    assert result.stderr.startswith(f"1 whole; {cache.stat().st_size:,} bytes, ")


def test_verify_names_the_damaged_tensor_and_the_missing_file_and_goes_on(
    cache: Path, tmp_path: Path
) -> None:
    with CacheFile.open(cache) as opened:
        rows = opened.array("layers.1.value.fp16").tobytes()
    damaged = tmp_path / "damaged.safetensors"
    shutil.copy(cache, damaged)
    flipped(damaged, rows)
    gone = tmp_path / "gone.safetensors"
    some = batch("verify", damaged, gone, cache)
    assert (some.exit_code, some.stdout) == (3, f"{cache}: whole\n")
    assert f"error: {damaged}: layers.1.value.fp16 does not match its checksum" in some.stderr
    assert f"error: {gone}: no such file" in some.stderr
    assert "1 whole, 2 failed; " in some.stderr
    assert batch("verify", damaged, gone).exit_code == 1
