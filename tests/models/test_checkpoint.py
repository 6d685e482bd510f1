"""Which files make up a checkpoint, and what makes it another one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from batch.errors import ModelError
from batch.making.cache_plan import plan_cache
from batch.models import Checkpoint, open_checkpoint, open_family
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_next(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def sharded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in several files, as most of the hub's are."""
    out = tmp_path_factory.mktemp("sharded")
    AutoProcessor.from_pretrained(folder).save_pretrained(out)
    AutoModelForImageTextToText.from_pretrained(folder).save_pretrained(out, max_shard_size="20KB")
    return out


@pytest.fixture
def copy(sharded: Path, tmp_path: Path) -> Path:
    shutil.copytree(sharded, tmp_path, dirs_exist_ok=True)
    return tmp_path


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder))


def test_weights_that_the_index_does_not_name_are_no_part_of_the_identity(
    sharded: Path, copy: Path
) -> None:
    save_file({"again": torch.ones(2)}, copy / "consolidated.safetensors")
    assert opened(copy).weights_sha256 == opened(sharded).weights_sha256


def test_one_retrained_tensor_is_another_identity(sharded: Path, copy: Path) -> None:
    shard = sorted(copy.glob("*.safetensors"))[-1]
    with safe_open(shard, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    name = max(weights, key=lambda name: weights[name].numel())
    weights[name] += 0.001
    save_file(weights, shard, {"format": "pt"})
    assert opened(copy).weights_sha256 != opened(sharded).weights_sha256
    assert opened(copy).config_sha256 == opened(sharded).config_sha256


def test_a_missing_part_of_the_weights_is_named(copy: Path) -> None:
    lost = sorted(copy.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelError, match=f"no {lost.name} in {copy}"):
        _ = opened(copy).weights_sha256


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused_by_name(copy: Path, content: str) -> None:
    (copy / INDEX).write_text(content)
    with pytest.raises(ModelError, match=f"{INDEX}: not an index"):
        _ = opened(copy).weights_sha256


def test_an_adapter_beside_the_weights_is_refused(copy: Path) -> None:
    (copy / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ModelError, match="merge_and_unload"):
        opened(copy)


def test_a_fine_tune_has_another_identity_and_a_copy_the_same(tmp_path: Path, folder: Path) -> None:
    one = opened(folder)
    copy = opened(tiny.llava_next(tmp_path / "copy"))
    tuned = opened(tiny.llava_next(tmp_path / "tuned", seed=1))
    assert copy.weights_sha256 == one.weights_sha256
    assert copy.config_sha256 == one.config_sha256
    assert copy.processor_sha256 == one.processor_sha256
    assert tuned.weights_sha256 != one.weights_sha256
    assert tuned.config_sha256 == one.config_sha256


def test_weights_in_shards_have_the_same_identity(sharded: Path, folder: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert opened(sharded).weights_sha256 == opened(folder).weights_sha256


def test_an_unknown_folder_or_family_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such-model"):
        open_family("no-such-model", offline=True)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=str(tmp_path)):
        open_family(str(tmp_path))


def test_a_checkpoint_of_the_hub_is_used_offline_and_known_as_its_folder(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--tiny"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    there = open_family("somebody/tiny", offline=True)
    assert there.checkpoint.name == "somebody/tiny"
    assert there.checkpoint.revision == commit
    there.load(device="cpu", dtype=torch.float32)
    here = opened(folder)
    assert there.checkpoint.weights_sha256 == here.weights_sha256
    assert there.checkpoint.config_sha256 == here.config_sha256
    (repository / "snapshots" / commit / "model.safetensors").unlink()
    without = open_family("somebody/tiny", offline=True)
    with pytest.raises(ModelError, match="without --offline"):
        without.load(device="cpu", dtype=torch.float32)
    manifest = make_manifest(random_pictures(2, geometry_of(without)), geometry_of(without))
    work = plan_cache(manifest, without, dtype="float32", identify_weights=False)
    assert work.size_bytes == plan_cache(manifest, there, dtype="float32").size_bytes


@pytest.mark.parametrize(
    "content",
    [b"version https://git-lfs.github.com/spec/v1\n", b"\x02" + bytes(7) + b"[]", b""],
)
def test_weights_that_are_no_safetensors_file_are_refused_by_name(
    tmp_path: Path, folder: Path, content: bytes
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: not a safetensors file"):
        _ = opened(tmp_path / "model").weights_sha256
