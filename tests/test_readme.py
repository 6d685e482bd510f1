"""What README and the pages beside the code say is so."""

import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq
import pytest

import batch
from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import PROFILES
from batch.archive.catalogue import SCHEMA
from batch.cli import COMMANDS, main
from batch.demo.drawing import write_clip
from batch.demo.questions import questions_about
from batch.demo.world import random_world
from batch.errors import Reason
from batch.making.plan import ROOM_FOR_ANSWER
from batch.models import Family, open_family
from batch.video import Geometry
from cachefmt import STORED_TIERS, Tier
from cachefmt.header import Shape, default_group_size
from cachefmt.layout import kv_bytes
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.published import PUBLISHED

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "batch/**/*.md", "cachefmt/*.md", "jobs/**/*.md")
    for path in ROOT.glob(pattern)
)
RESULTS = json.loads((ROOT / "batch/evaluation/results/table.json").read_text())


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


README = read("README.md")


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one of the same depth."""
    level = heading.split()[0]
    return read(page).split(f"\n{heading}\n")[1].split(f"\n{level} ")[0]


def rows_below(text: str, header: str) -> list[list[str]]:
    """The cells of each row of the one table whose header begins so."""
    start = re.escape(f"| {header}")
    (table,) = re.findall(rf"^{start}.*\n\|[-| :]+\|\n((?:\|.*\n)*)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in table.splitlines()]


# What README says first.


def test_the_figures_of_the_first_table_are_those_that_were_measured() -> None:
    measured = {}
    for row in RESULTS["methods"]:
        label = " ".join(row[key] for key in ("method", "profile", "budget") if row[key])
        measured[label] = row
    rows = rows_below(README, "method | right answers")
    assert len(rows) >= 6
    for method, right, same, smaller in ([cell.strip("*") for cell in row] for row in rows):
        row = measured[method]
        low, high = row["intervals"]["accuracy"]
        assert right == f"{row['accuracy']:.3f} [{low:.3f}, {high:.3f}]"
        assert same == f"{row['agreement_em']:.3f}"
        # Other tools' caches are not files: only their K and V are counted.
        own = method.startswith(("uncompressed", "sali-cache"))
        assert smaller == (
            f"{row['compression_fp16']:.2f} / {row['compression_kv']:.2f}"
            if own
            else f"- / {row['compression_kv']:.2f}"
        )


def test_the_figures_of_qualities_are_those_of_results() -> None:
    codecs = rows_below(read("batch/evaluation/RESULTS.md"), "stored | codec, quality")
    measured = {tuple(row[1:3]): row for row in codecs if row[0] == "every slot"}
    prose = {row[0]: row for row in rows_below(read("batch/evaluation/RESULTS.md"), "scheme |")}
    for row in rows_below(README, "quality | basis"):
        quality, basis, right, same, smaller, word, numbers, _ = (cell.strip("*") for cell in row)
        made = "calibrated" if "calibrated" in basis else "own"
        found = measured[f"klt, {quality}", made]
        assert (right, same) == (found[3], found[4])
        assert abs(int(smaller) - float(found[6])) <= 0.5
        if made == "calibrated":
            of_text = prose[f"klt {quality}, calibrated"]
            assert (word, numbers) == (of_text[4].split()[0], of_text[6])


def test_what_stands_around_the_first_table_is_what_was_run() -> None:
    command, out = RESULTS["command"].split(" --out ")
    assert out == "batch/evaluation"
    films = re.search(r"--data .* --seed \d+", command)
    assert films is not None
    assert f"`{command}`" in README
    assert f'`make rivals FILMS="{films[0]}"`' in README
    [judge] = RESULTS["judges"]
    videos = sum(one["videos"] for one in judge["sets"])
    questions = sum(one["questions"] for one in judge["sets"])
    assert len(judge["sets"]) == 9
    assert f"{videos} held-out films of nine kinds, {questions} questions" in README
    machine = RESULTS["machine"]
    assert machine["gpu"] is None
    assert f"{machine['cores']} CPU cores, {judge['dtype']}" in README


def test_what_is_said_of_the_cost_and_of_the_model_is_so() -> None:
    seconds = {
        (row["method"], row["profile"], row["budget"]): row["seconds_per_sample"]
        for row in RESULTS["methods"]
    }
    ours, theirs = seconds["sali-cache", "default", None], seconds["uncompressed", None, None]
    said = f"{ours * 1e3:.0f} ms a sample against {theirs * 1e3:.0f} ms uncompressed"
    assert said in README
    checkpoint = open_family("demo").checkpoint
    size = f"{checkpoint.parameters / 1e6:.1f} million parameters"
    card = read("batch/models/demo/README.md")
    assert size in README
    assert size in card
    seen, read_by = checkpoint.config.vision_config, checkpoint.config.text_config
    assert f"{seen.hidden_size} wide, {seen.num_hidden_layers} layers" in card
    assert f"{read_by.hidden_size} wide, {read_by.num_hidden_layers} layers" in card
    assert f"vocabulary of {read_by.vocab_size}" in card


def test_the_python_example_answers_from_a_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    rng = np.random.default_rng([1, 0])  # the first film of batch demo
    world = random_world(rng, 12)
    write_clip(world, tmp_path / "video.mp4")
    truths = {question.text: question.answer for question in questions_about(world, rng)}
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    (asked,) = re.findall(r'ask\("(.*)"\)', example)
    assert capsys.readouterr().out == f"{truths[asked]}\n"
    assert (tmp_path / "manifests" / "video.parquet").is_file()
    assert (tmp_path / "caches" / "video.safetensors").is_file()


def test_the_functions_that_the_python_section_names_are_the_api() -> None:
    text = section("README.md", "## Python")
    named = set(re.findall(r"\b(?:make|open|to)_\w+", text))
    assert named
    assert named <= set(batch.__all__)


def test_both_console_scripts_are_the_command_line() -> None:
    scripts = tomllib.loads(read("pyproject.toml"))["project"]["scripts"]
    assert set(scripts) == {"batch", "sali-cache"}
    for name, target in scripts.items():
        assert EntryPoint(name, target, "console_scripts").load() is main


# Tables that describe what the code has.


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    rows = re.findall(r"^\| `batch (\w+)", README, re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


def test_every_folder_of_the_tree_is_there_and_named() -> None:
    named = re.findall(r"^    (\S+/) ", section("CONTRIBUTING.md", "## Folders"), re.MULTILINE)
    packages = {f"batch/{folder.parent.name}/" for folder in ROOT.glob("batch/*/__init__.py")}
    assert set(named) == packages | {"cachefmt/", "jobs/", "tests/"}


def test_every_word_of_the_table_is_explained_once() -> None:
    words = [word for word, _ in rows_below(README, "word | meaning")]
    assert len(words) == len(set(words))
    assert {"sample", "cell", "tier", "pointer", "manifest", "slot", "segment"} <= set(words)


def test_the_columns_of_a_manifest_are_those_of_the_table(tmp_path: Path) -> None:
    family = open_family("demo")
    manifest = make_manifest(random_pictures(2, geometry_of(family)), geometry_of(family))
    manifest.write(tmp_path / "x.parquet")
    rows = rows_below(read("batch/analysis/README.md"), "column | type")
    assert [name for name, *_ in rows] == pq.read_schema(tmp_path / "x.parquet").names


def test_the_thresholds_of_the_profiles_are_those_of_the_table() -> None:
    page = read("batch/analysis/README.md")
    (names,) = re.findall(r"^\| setting \| (.*) \|$", page, re.MULTILINE)
    expected: dict[str, list[str]] = {}
    for name in names.split(" | "):
        for key, value in (asdict(TEMPORAL_PROFILES[name]) | asdict(PROFILES[name])).items():
            expected.setdefault(key, []).append(as_a_cell(value))
    assert {key: said for key, *said in rows_below(page, "setting | default")} == expected
    assert set(names.split(" | ")) == set(PROFILES)


def as_a_cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value.name if isinstance(value, Tier) else str(value)


def test_the_columns_of_the_catalogue_and_the_reasons_are_those_of_the_tables() -> None:
    page = read("batch/archive/README.md")
    columns = ", ".join(name for name, *_ in rows_below(page, "column | meaning"))
    reasons = [name for name, *_ in rows_below(page, "reason | meaning")]
    assert sorted(columns.split(", ")) == sorted(SCHEMA.names)
    assert reasons == [reason.value for reason in Reason]


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
    return kv_bytes(shape)


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
    assert f"| {' | '.join(row)} |" in read("batch/models/README.md").splitlines()


def test_the_sizes_that_readme_repeats_are_those_of_the_table() -> None:
    int4 = {row[0]: row[5] for row in rows_below(read("batch/models/README.md"), "checkpoint")}
    (model,) = set(re.findall(r"--model (\S+)", section("README.md", "## With a real model")))
    said = re.search(r"takes (\S+ GB) with this model and (\S+ GB) with (\S+):", README)
    assert said is not None
    assert (said[1], said[2]) == (int4[model], int4[said[3]])


# Commands, paths and links of every page.


def code_of(page: str) -> Iterator[str]:
    """Each line of indented or fenced text, and each span of code, without its comment."""
    text = re.sub(r"\\\n\s*", "", read(page))
    yield from re.findall(r"^    (.*)$", text, re.MULTILINE)
    for _, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def options_of(command: str) -> dict[str, click.Parameter]:
    found = main.get_command(click.Context(main), command)
    assert found is not None, command
    return {name: option for option in found.params for name in option.opts}


def fits(words: list[str], options: dict[str, click.Parameter]) -> bool:
    """Whether these options are there, and take what they are given where they take few things."""
    for word, following in pairwise([*words, ""]):
        name = word.split("=")[0]
        if not name.startswith("-") or name == "--help":
            continue
        if name not in options:
            return False
        allowed = options[name].type
        if isinstance(allowed, click.Choice) and following and following not in allowed.choices:
            return False
    return True


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_of_a_page_exists(page: str) -> None:
    every = [options_of(command) for command in COMMANDS]
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    for code in code_of(page):
        if re.match(r"(time )?(batch|sali-cache) [a-z]+\b", code):
            _, command, *words = shlex.split(code.removeprefix("time "), comments=True)
            assert fits(words, options_of(command)), code
        elif re.match(r"--[a-z]", code):
            assert any(fits(shlex.split(code), options) for options in every), code
        elif match := re.match(r"make ([a-z-]+)", code):
            assert match[1] in targets, code
        elif match := re.match(r"(?:\S*/)?python3? -m (\S+)", code):
            assert importlib.util.find_spec(match[1]) is not None, code


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_is_there(page: str) -> None:
    for path in (code.split()[0] for code in code_of(page) if code.strip()):
        if re.fullmatch(r"(batch|cachefmt|jobs|tests|\.ci)/[\w./-]+", path):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", read(page))):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_long_check_of_the_makefile_is_in_contributing() -> None:
    targets = re.findall(
        r"^(test-[a-z-]+|rivals|judges|bench|bench-gpu):", read("Makefile"), re.MULTILINE
    )
    assert targets
    for target in targets:
        assert f"`make {target}`" in read("CONTRIBUTING.md"), target
