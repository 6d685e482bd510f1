"""What the README says is so."""

import re
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import DynamicCache

from batch.archive.catalogue import SCHEMA
from batch.cli import COMMANDS
from batch.errors import Reason
from batch.making import plan_cache, prefill
from batch.making.plan import ROOM_FOR_ANSWER
from batch.models import Family, open_family
from batch.video import Geometry
from cachefmt import STORED_TIERS, Tier, tensor_specs
from cachefmt.header import Shape, default_group_size
from cachefmt.key_bounds import layers_within
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.published import PUBLISHED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    rows = re.findall(r"^\| `batch (\w+)", README, re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


def test_every_folder_of_the_tree_is_there_and_named() -> None:
    named = set(re.findall(r"^    (\S+/) ", README, re.MULTILINE))
    packages = {f"batch/{folder.parent.name}/" for folder in ROOT.glob("batch/*/__init__.py")}
    assert named == packages | {"cachefmt/", "jobs/", "tests/"}


def test_the_columns_of_a_manifest_are_those_of_the_table(tmp_path: Path) -> None:
    family = open_family("demo")
    manifest = make_manifest(random_pictures(2, geometry_of(family)), geometry_of(family))
    manifest.write(tmp_path / "x.parquet")
    section = README.split("### Columns of a manifest")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \|", section, re.MULTILINE)
    assert rows[1:] == pq.read_schema(tmp_path / "x.parquet").names


def test_the_columns_of_the_catalogue_and_the_reasons_are_those_of_the_tables() -> None:
    section = README.split("### The catalogue")[1].split("\n## ")[0]
    columns, reasons = section.split("| reason | meaning |")
    names = ", ".join(re.findall(r"^\| ([\w, ]+) \|", columns, re.MULTILINE)[1:])
    assert sorted(names.split(", ")) == sorted(SCHEMA.names)
    assert re.findall(r"^\| (\w+) \|", reasons, re.MULTILINE) == [reason.value for reason in Reason]


def size_of_a_minute(family: Family, geometry: Geometry, tier: Tier) -> int:
    """Bytes of a minute's cells if all are of one tier, at a frame a second."""
    decoder, samples = family.decoder, 60 // geometry.frames
    tokens = {other.name: 0 for other in STORED_TIERS} | {tier.name: samples * geometry.cells}
    shape = Shape(
        layers=decoder.layers,
        heads=decoder.heads,
        head_dim=decoder.head_dim,
        group_size=default_group_size(decoder.head_dim),
        raw_dtype="F16",
        position_axes=1,
        samples=samples,
        stored_samples=samples,
        rows=geometry.rows,
        columns=geometry.columns,
        tokens=tokens,
        index_layers=(),
    )
    shape = replace(shape, index_layers=layers_within(shape))
    return sum(spec.size_bytes for spec in tensor_specs(shape).values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_of_published_checkpoints_follow_from_their_configs(name: str) -> None:
    family = PUBLISHED[name].family(name)
    geometry = family.geometry.for_video(720, 1280, 60)
    sizes = (size_of_a_minute(family, geometry, tier) / 1e9 for tier in STORED_TIERS)
    fitting = f"{(family.decoder.context - ROOM_FOR_ANSWER) // geometry.cells}"
    row = [
        name,
        f"{family.checkpoint.parameters * 2 / 1e9:.1f} GB",
        f"{60 // geometry.frames} x {geometry.cells}",
        *(f"{size:.2f} GB" for size in sizes),
        fitting if isinstance(family.geometry, Geometry) else "see below",
    ]
    assert f"| {' | '.join(row)} |" in README.splitlines()


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = open_family(str(tiny.llava_next(tmp_path / "model")))
    family.load(device="cpu", dtype=torch.float32)
    manifest = make_manifest(random_pictures(2, geometry_of(family)), geometry_of(family))
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
