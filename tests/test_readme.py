"""What the README says is so."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import DynamicCache

from batch.cli import COMMANDS
from batch.models import open_family
from batch.prefill import plan_cache, prefill
from tests import tiny
from tests.manifests import make_manifest, random_pictures

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    rows = re.findall(r"^\| `batch (\w+)", README, re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


def test_every_folder_of_the_tree_is_there_and_named() -> None:
    named = set(re.findall(r"^    (\S+/) ", README, re.MULTILINE))
    packages = {f"batch/{folder.parent.name}/" for folder in ROOT.glob("batch/*/__init__.py")}
    assert named == packages | {"cachefmt/", "jobs/", "rivals/", "tests/"}


def test_the_columns_of_a_manifest_are_those_of_the_table(tmp_path: Path) -> None:
    family = open_family("demo")
    manifest = make_manifest(random_pictures(2, family.geometry), family.geometry)
    manifest.write(tmp_path / "x.parquet")
    section = README.split("### Columns of a manifest")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \|", section, re.MULTILINE)
    assert rows[1:] == pq.read_schema(tmp_path / "x.parquet").names


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = open_family(str(tiny.llava_next(tmp_path / "model")))
    family.load(device="cpu", dtype=torch.float32)
    manifest = make_manifest(random_pictures(2, family.geometry), family.geometry)
    (tmp_path / "caches").mkdir()
    work = plan_cache(manifest, family, dtype="float32")
    prefill(work, family, tmp_path / "caches" / "holiday.safetensors")
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    past = names["past"]
    assert isinstance(past, DynamicCache)
    assert past.get_seq_length() == len(work.plan.token_ids)
