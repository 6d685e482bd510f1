"""`batch report`: pages of caches, and their scenes for other tools."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from batch.cli.kinds import Kind, expect, is_cache
from batch.cli.options import EXISTING, FOLDER, allow_open_files, force_option, json_option
from batch.cli.progress import Summary, in_words, progress, quiet_option

if TYPE_CHECKING:
    from batch.archive.status import CachesStatus
    from batch.report.archives import Work
    from batch.report.videos import VideoReport

_LOOK_BYTES = 1 << 12


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A cache or manifest, what its row calls it, and where its page goes."""

    path: Path
    row: str
    page: Path


@click.command()
@click.argument("caches", type=EXISTING)
@click.option("--out", required=True, type=FOLDER, help="Folder for the pages.")
@click.option(
    "--match",
    multiple=True,
    help="Of a folder of batch index: pages only of videos whose path fits, as '*/2024/*', or a "
    "column of the catalogue, as 'duration_s>=600'; repeat for more.",
)
@force_option
@json_option
@quiet_option
def report(caches: Path, out: Path, match: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Write pages that a browser opens from the disk: of each video of CACHES, and of them all.

    CACHES is a folder that batch index or batch prefill writes, one cache, or a manifest. Pages
    show samples on a time line, tiers, change, saliency, bytes and settings; the video is not
    needed. Beside each lie its scenes as CSV, WebVTT and JSON for Label Studio. What is there and
    still true is not written again. Prints the path of each page.
    """
    wanted = {Kind.INDEX, Kind.CACHE_FOLDER, Kind.CACHE, Kind.SEGMENTS, Kind.PARQUET}
    kind = expect(caches, wanted, "caches, or a manifest")
    if match and kind is not Kind.INDEX:
        raise click.UsageError("--match goes with a folder of caches of batch index")
    from jobs.atomic import check_folder, make_folder

    allow_open_files()
    check_folder(out)
    summary = Summary()
    works = _index_works(caches, match) if kind is Kind.INDEX else []
    sources = _index_sources(caches, out, works) if works else list(_sources(caches, kind, out))
    make_folder(out)
    pages: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    with progress("report", len(sources), "pages") as tell:
        for source in sources:
            row, written = _page(source, summary, kind, force=force)
            rows.append(row)
            if written is not None:
                pages[source.row] = _address(source.page, out)
                summary.size_bytes += source.page.stat().st_size
                _say(source.page, source.path, written, as_json=as_json)
            tell(1)
    if kind in (Kind.INDEX, Kind.CACHE_FOLDER):
        _say(_write_archive(caches, out, works, rows, pages), caches, True, as_json=as_json)
    summary.finish()


def _say(page: Path, of: Path, written: bool, *, as_json: bool) -> None:
    facts = {"page": str(page), "of": str(of), "written": written}
    click.echo(json.dumps(facts) if as_json else page)


def _page(
    source: _Source, summary: Summary, kind: Kind, *, force: bool
) -> tuple[dict[str, Any], bool | None]:
    """Its row for the page of all, and whether a page was written; None: it cannot be."""
    from batch.errors import BatchError
    from cachefmt import CacheFileError

    is_many = kind in (Kind.INDEX, Kind.CACHE_FOLDER)
    try:
        row, written = _write_page(
            source,
            up="../index.html" if is_many else None,
            force=force,
            needs_row=kind is Kind.CACHE_FOLDER,
        )
    except (BatchError, CacheFileError) as error:
        summary.fail(str(error))
        name = str(source.path)
        failure = {"status": "failed", "reason": "no page", "message": str(error)}
        return {"path": name, **failure}, None
    summary.done += written
    summary.skipped += not written
    return row, written


def _index_works(folder: Path, match: Sequence[str]) -> list["Work"]:
    from batch.archive.catalogue import catalogue_rows
    from batch.archive.choosing import is_chosen
    from batch.archive.status import read_status
    from batch.archive.store import Store
    from batch.errors import BatchError
    from batch.report.archives import Work

    store = Store(folder)
    states = {one.work: one for one in read_status(store).works}
    found = [
        Work(
            model=f"{states[caches.id].model} · work {caches.id}",
            rows=[row for row in catalogue_rows(store, caches) if is_chosen(row, match)],
            rate=_rate(states[caches.id]),
        )
        for caches in store.all_caches()
    ]
    if not any(one.rows for one in found):
        what = "no video fits --match" if match else "no video is known"
        raise BatchError(f"{folder}: {what}; batch status {folder} shows what there is")
    return found


def _rate(state: "CachesStatus") -> str:
    if state.videos_per_hour is None:
        return ""
    to_go = f", {in_words(state.to_go_s)} to go" if state.to_go_s else ""
    return f"{state.videos_per_hour:,.1f} an hour{to_go}"


def _index_sources(folder: Path, out: Path, works: Sequence["Work"]) -> list[_Source]:
    return [
        _Source(
            path=folder / row["cache"],
            row=row["cache"],
            page=out / "videos" / f"{row['work'][:8]}-{row['video'][:16]}.html",
        )
        for work in works
        for row in work.rows
        if row["status"] in ("done", "gone")
    ]


def _sources(path: Path, kind: Kind, out: Path) -> Iterator[_Source]:
    from jobs.atomic import fitting_stem

    if kind is not Kind.CACHE_FOLDER:
        yield _Source(path=path, row=str(path), page=out / f"{fitting_stem(path.stem)}.html")
        return
    for one in filter(is_cache, sorted(path.iterdir())):
        name = fitting_stem(one.name)  # all of it: a file and a folder may share a stem
        yield _Source(path=one, row=str(one), page=out / "videos" / f"{name}.html")


def _write_page(
    source: _Source, *, up: str | None, force: bool, needs_row: bool
) -> tuple[dict[str, Any], bool]:
    """Write a page and its scenes, if they are not there; its row if needed, and whether it did.

    Raises:
        BatchError, CacheFileError: the cache or its manifest is damaged or not there.
        JobError: a file cannot be written.
    """
    from batch.report.exports import FORMATS, NAMES, scene_cues, write
    from batch.report.pages import video_page
    from batch.report.videos import VideoReport
    from jobs.atomic import make_folder, write_whole

    digest, page = _digest(source.path), source.page
    is_there = not force and _digest_in(page) == digest
    if is_there and not needs_row:
        return {}, False
    video = VideoReport.read(source.path)
    if not is_there:
        make_folder(page.parent)
        downloads = {}
        for to in FORMATS:
            file = page.with_suffix(f".scenes.{to}")
            text = write(video, scene_cues(video), to)
            write_whole(file, text.encode(errors="replace"))
            downloads[NAMES[to]] = _address(file, page.parent)
        text = video_page(video, up=up, downloads=downloads, digest=digest)
        write_whole(page, text.encode())  # last: it says that all is there
    return _row(source, video) if needs_row else {}, not is_there


def _digest(path: Path) -> str:
    """Of all that a page shows: changes when its cache or the design of pages does."""
    from batch.report.rendering import digest_of
    from cachefmt import open_segments

    if path.suffix == ".parquet":
        stat = path.stat()
        return digest_of(f"{stat.st_size} {stat.st_mtime_ns}")
    with ExitStack() as opened:
        segments = [opened.enter_context(segment) for segment in open_segments(path)]
        return digest_of(*(str(segment.header.header_sha256) for segment in segments))


def _digest_in(page: Path) -> str | None:
    """The digest that a page was written with; None: there is none."""
    try:
        with page.open("rb") as file:
            start = file.read(_LOOK_BYTES).decode(errors="replace")
    except OSError:
        return None
    _, _, rest = start.partition('<meta name="sali-cache" content="')
    return rest.partition('"')[0] or None


def _address(file: Path, folder: Path) -> str:
    """Of a file, relative to the folder of the page that names it."""
    return quote(os.fsencode(os.path.relpath(file, folder)))


def _row(source: _Source, video: "VideoReport") -> dict[str, Any]:
    """What the catalogue of an index would say of a cache."""
    fidelity, files = video.fidelity, [source.path]
    if source.path.is_dir():
        files = list(source.path.iterdir())
    return {
        "path": str(source.path),
        "cache": source.row,
        "status": "done",
        "duration_s": float(video.edges_s[-1] - video.edges_s[0]),
        "samples": len(video.manifest.kept),
        "stored_samples": int(video.manifest.kept.sum()),
        "cache_bytes": video.size_bytes,
        "fp16_kv_bytes": video.fp16_kv_bytes,
        "compression": video.fp16_kv_bytes / video.size_bytes,
        "agreement": None if fidelity is None else fidelity.agreement,
        **{f"{phase}_seconds": spent for phase, spent in video.seconds.items()},
        "finished": datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC),
    }


def _write_archive(
    folder: Path,
    out: Path,
    works: Sequence["Work"],
    rows: Sequence[Mapping[str, Any]],
    pages: Mapping[str, str],
) -> Path:
    """The page of all: of the works of an index, or of rows of a plain folder."""
    from batch.report.archives import Work, archive_page
    from batch.report.rendering import shown_name
    from jobs.atomic import write_whole
    from jobs.runs import live_runs

    running = [
        f"process {run.pid} on {run.host} is at work since {run.started}"
        for run in live_runs(folder)
    ]
    works = works or [Work(rows=rows)]
    title = shown_name(folder.absolute().name)
    subtitle = f"{shown_name(str(folder))}, as of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    text = archive_page(works, pages, title=title, subtitle=subtitle, running=running)
    page = out / "index.html"
    write_whole(page, text.encode())
    return page
