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
from batch.models import Checkpoint, open_checkpoint
from tests import tiny

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in several files, as most of the hub's are."""
    folder = tiny.llava_next(tmp_path_factory.mktemp("whole"))
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
