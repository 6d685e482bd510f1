"""Imports point one way, and what must start fast imports nothing heavy."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TORCH = ("torch", "transformers", "triton")

PRODUCT = [
    f"batch/{path.parent.name}"
    for path in (ROOT / "batch").glob("*/__init__.py")
    if path.parent.name not in ("cli", "evaluation")
]

FORBIDDEN = {
    **dict.fromkeys(PRODUCT, ("batch.evaluation",)),
    "cachefmt": ("batch", "jobs"),
    "jobs": ("batch", "cachefmt", *TORCH),
    "batch/evaluation/rivals": ("batch", "cachefmt", "jobs"),
    "batch/video": ("batch.evaluation", *TORCH),
    "batch/analysis": ("batch.evaluation", *TORCH),
}
"""Folder: what nothing in it imports, at the top of a file or inside a function."""

FAMILIES = {
    "batch/models": {
        "checkpoint",
        "family",
        "many_images",
        "pictures",
        "placement",
        "qwen_vl",
    },
    "batch/evaluation/methods": {"cell_method", "feature_method", "packing", "row_method"},
    "cachefmt/codecs": {"basis", "quantising", "symbols"},
}
"""Folder of alternatives that do not know each other: the modules that all of them may use."""

KNOWS_ALL = ROOT / "batch/models/opening.py"
"""The table of families."""


@cache
def imported(file: Path) -> frozenset[str]:
    """Absolute names of all modules (and names in them) that a file imports anywhere."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def forbidden_imports(root: Path) -> list[str]:
    return [
        f"{file.relative_to(root)} imports {name}"
        for folder, packages in FORBIDDEN.items()
        for file in sorted((root / folder).rglob("*.py"))
        for name in sorted(imported(file))
        if any(is_inside(name, package) for package in packages)
        and not is_inside(name, folder.replace("/", "."))
    ]


def imports_between_alternatives(root: Path) -> list[str]:
    found = []
    for folder, shared in FAMILIES.items():
        package = folder.replace("/", ".")
        files = [
            file
            for file in sorted((root / folder).glob("*.py"))
            if file.stem != "__init__" and file != KNOWS_ALL
        ]
        for file in files:
            others = {other.stem for other in files} - shared - {file.stem}
            found += [
                f"{file.relative_to(root)} imports {package}.{other}"
                for other in sorted(others)
                if any(is_inside(name, f"{package}.{other}") for name in imported(file))
            ]
    return found


def modules_of(folder: str) -> list[str]:
    """Dotted names of all modules in a folder of the repository."""
    names = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def loaded_after(statement: str) -> set[str]:
    """Names of all modules loaded in a fresh interpreter after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_no_file_imports_what_its_package_must_not_know() -> None:
    assert forbidden_imports(ROOT) == []


def test_families_methods_and_codecs_do_not_import_each_other() -> None:
    assert imports_between_alternatives(ROOT) == []


PACKAGES = [
    "cachefmt",
    "jobs",
    *(f"batch/{path.name}" for path in (ROOT / "batch").glob("[a-z]*/")),
]


@pytest.mark.parametrize("folder", PACKAGES)
def test_modules_of_a_package_import_each_other_in_one_direction(folder: str) -> None:
    modules = {
        file: f"{folder}/{file.stem}".replace("/", ".") for file in (ROOT / folder).glob("*.py")
    }
    graph = {
        module: {
            other
            for other in modules.values()
            if other != module and any(is_inside(name, other) for name in imported(file))
        }
        for file, module in modules.items()
        if file.stem != "__init__"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cachefmt/reader.py", "import batch"),
        ("cachefmt/codecs/int8.py", "from jobs.records import Record"),
        ("jobs/shards.py", "def f():\n    from cachefmt import reader"),
        ("batch/video/open.py", "import torch.nn"),
        ("batch/models/weights.py", "def f():\n    from batch.evaluation import methods"),
        ("batch/evaluation/rivals/presses.py", "from batch.models import open_family"),
        ("batch/evaluation/rivals/presses.py", "from batch import open_cache"),
        ("batch/evaluation/rivals/presses.py", "import batch"),
        ("batch/evaluation/rivals/presses.py", "from batch.evaluation.storing import store"),
        ("batch/analysis/tiers.py", "if True:\n    from torch import Tensor"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, path: str, source: str) -> None:
    write(tmp_path / path, source)
    assert [line.split()[0] for line in forbidden_imports(tmp_path)] == [path]


@pytest.mark.parametrize(
    "source",
    ["import batch.models.b", "from batch.models import b", "from batch.models.b import Family"],
)
def test_an_import_between_two_families_is_found(tmp_path: Path, source: str) -> None:
    write(tmp_path / "batch/models/a.py", source + "\nfrom batch.models.family import Family")
    write(tmp_path / "batch/models/b.py", "from batch.models import family")
    write(tmp_path / "batch/models/family.py", "")
    assert imports_between_alternatives(tmp_path) == ["batch/models/a.py imports batch.models.b"]


def write(file: Path, source: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)


@pytest.mark.parametrize("folder", ["batch/video", "batch/analysis", "batch/cli", "jobs"])
def test_importing_every_module_of_a_light_package_loads_no_torch(folder: str) -> None:
    modules = modules_of(folder)
    assert loaded_after("\n".join(f"import {name}" for name in modules)).isdisjoint(TORCH)


def test_a_night_without_new_videos_and_a_search_load_no_torch() -> None:
    night = ("batch.archive.run", "batch.archive.status", "batch.cli.index")
    modules = (*night, "batch.archive.searching", "batch.serving.library", "batch.cli.search")
    assert loaded_after("\n".join(f"import {name}" for name in modules)).isdisjoint(TORCH)


def test_help_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "cv2", "av", "pyarrow", "numpy", "PIL"}
    show_help = "from batch.cli import main\nmain(['--help'], standalone_mode=False)"
    loaded = loaded_after(show_help)
    assert "click" in loaded
    assert loaded.isdisjoint(heavy)
