"""What a folder of caches holds that no run will use again, counted and removed file by file."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batch.archive.inventory import Inventory
from batch.archive.store import ProductFolder, Store
from batch.settings import Leftover
from jobs.errors import BusyError, JobError
from jobs.records import read_object
from jobs.runs import dead_runs, live_runs


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files that can go together, and what they are of."""

    kind: Leftover
    what: str
    files: tuple[Path, ...]
    size_bytes: int


def find_leftovers(store: Store, kinds: Iterable[Leftover]) -> list[Found]:
    """Look for all that can go; reads names and records only.

    Raises:
        BusyError: a run is at work, of which this could not tell what it needs.
    """
    if runs := live_runs(store.root):
        run = runs[0]
        raise BusyError(
            f"{store.root}: process {run.pid} on {run.host} is at work since {run.started}; "
            "run the same command when it has ended"
        )
    finders = {"old": _old_works, "gone": _gone_videos, "runs": _dead_runs}
    found: list[Found] = []
    for kind in dict.fromkeys(kinds):
        for what, files in finders[kind](store):
            size_bytes = sum(file.stat().st_size for file in files)
            found.append(Found(kind=kind, what=what, files=tuple(files), size_bytes=size_bytes))
    return found


def remove(store: Store, found: Iterable[Found]) -> None:
    """Remove the files, in their order, and folders that are empty then.

    Raises:
        JobError: the system refuses; the same command goes on.
    """
    for leftover in found:
        for file in leftover.files:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise JobError(f"{file}: cannot be removed: {error.strerror}") from error
            _remove_empty(file.parent, store.root)


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root:
        try:
            folder.rmdir()
        except OSError:  # something is in it
            return
        folder = folder.parent


def _old_works(store: Store) -> Iterator[tuple[str, list[Path]]]:
    """All but the last, the analyses that only they rest on, and what they answered."""
    works = store.all_caches()
    used = {caches.read_settings()["analysis"] for caches in works[-1:]}
    for caches in works[:-1]:
        settings = caches.read_settings()
        files = _files_of(caches, "caches") + _existing(store.catalogue(caches.id))
        files += _existing(store.captions(caches.id))
        files += _answers_of(store, caches.id)
        if settings["analysis"] not in used:
            used.add(settings["analysis"])
            files += _files_of(store.manifests(settings["analysis"]), "manifests")
        # The settings go last: what is removed in part is found again by them.
        files.sort(key=lambda file: file.name == "settings.json")
        yield f"work {caches.id} with {settings['model']}", files


def _gone_videos(store: Store) -> Iterator[tuple[str, list[Path]]]:
    """Of the last work, with their manifests. Where no file is known, nothing counts as gone."""
    there = {row.video for row in Inventory.read(store.files).there() if row.kind == "video"}
    works = store.all_caches()
    if not there or not works:
        return
    caches = works[-1]
    manifests = store.manifests(caches.read_settings()["analysis"])
    for video in sorted(caches.ledger.done() - there):
        path = caches.ledger.read_done(video)["path"]
        files = [*caches.files_of(video), *manifests.files_of(video)]
        yield f"video {video[:12]}, last at {path}", files


def _dead_runs(store: Store) -> Iterator[tuple[str, list[Path]]]:
    for folder in dead_runs(store.root):
        with suppress(FileNotFoundError):  # a run that ends this moment
            yield f"run {folder.name}", [file for file in folder.iterdir() if file.is_file()]


def _files_of(products: ProductFolder, kind: str) -> list[Path]:
    """What runs write into the folder of one ID."""
    patterns = (
        f"{kind}/??/*",
        f"{kind}/??/*.segments/*",
        f"{kind}/*.json",
        "done/??/*.json",
        "failed/??/*.json",
    )
    found = (file for pattern in patterns for file in products.folder.glob(pattern))
    return [file for file in found if file.is_file()] + _existing(products.folder / "settings.json")


def _answers_of(store: Store, work: str) -> list[Path]:
    return [
        file
        for path in store.answers.glob("*/settings.json")
        if read_object(path, "settings", "they are written again")["work"] == work
        for file in (*path.parent.glob("done/??/*.json"), path)
    ]


def _existing(file: Path) -> list[Path]:
    return [file] if file.exists() else []
