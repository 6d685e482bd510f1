"""`batch verify`: every checksum of caches, or of all caches of an archive; and their error."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.cli.kinds import Kind, is_cache, sift
from batch.cli.options import Parsed, allow_open_files, json_option
from batch.cli.progress import Summary, in_line, progress, quiet_option, say
from batch.errors import BatchError
from batch.settings import WriterSettings

if TYPE_CHECKING:
    from batch.archive.verifying import Check


def _parse_share(text: str) -> float:
    """The fraction that "5%" says."""
    number, percent, rest = text.partition("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = 0.0
    if not percent or rest or not 0 < share <= 1:
        raise ValueError(f"got {text!r}, expected a share like 5%")
    return share


@click.command()
@click.argument("caches", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--scrub",
    type=Parsed("share", _parse_share),
    help="Of folders of batch index: read only so many of the caches, another part each day; with "
    "5% every cache is read once in twenty days.",
)
@click.option(
    "--repair",
    is_flag=True,
    help="Of folders of batch index: remove files that are damaged, so that the next batch index "
    "makes them again. What is left of a video that is gone stays.",
)
@click.option(
    "--fidelity",
    is_flag=True,
    help="Compare the rows, too, with those that the model makes of the manifest, which lies "
    "beside the cache or in its index; takes as long as prefilling.",
)
@click.option("--model", help="Where the model is now that wrote the caches.")
@click.option("--device", help="As torch names it; default: cuda if there is one, else cpu.")
@json_option
@quiet_option
def verify(
    caches: tuple[Path, ...],
    scrub: float | None,
    repair: bool,
    fidelity: bool,
    model: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Read CACHES whole and compare every checksum.

    Each is a cache, file or folder of segments, or a folder of caches as batch prefill and batch
    index write them. Names what is damaged, missing or of something else. Exit codes: 0 all are
    whole, 3 some are not, 1 none is.
    """
    if not fidelity and (model or device):
        raise click.UsageError("--model and --device go with --fidelity")
    summary = Summary(deed="whole")
    wanted = {Kind.CACHE, Kind.SEGMENTS, Kind.CACHE_FOLDER, Kind.INDEX}
    kinds = sift(caches, wanted, "a cache or a folder of caches", summary)
    if (repair or scrub is not None) and set(kinds.values()) != {Kind.INDEX}:
        raise click.UsageError(
            "--repair and --scrub go with folders of batch index; of batch prefill the same "
            "command with --force writes a cache again"
        )
    measure = partial(_measure, model=model, device=device) if fidelity else None
    allow_open_files()
    checks = [check for path, kind in kinds.items() for check in _checks(path, kind, scrub)]
    removed = 0
    with progress("verify", len(checks), "caches") as report:
        for check in checks:
            row = _row(check, measure, repair=repair)
            removed += len(row["removed"])
            summary.size_bytes += row["size_bytes"]
            if row["whole"]:
                summary.done += 1
            else:
                summary.fail("\n".join(row["problems"]))
            if as_json:
                click.echo(json.dumps(row))
            elif row["whole"]:
                click.echo(f"{in_line(check.path)}: whole{_said(row)}")
            report(1)
    if repair and summary.failures:
        say(f"{removed} damaged files removed; the next batch index makes again what is missing")
    elif summary.failures and Kind.INDEX in kinds.values():
        say("with --repair damaged files are removed, and the next batch index makes them again")
    summary.finish()


def _checks(path: Path, kind: Kind, share: float | None) -> list["Check"]:
    from batch.archive.verifying import Check, checks_of

    if kind is Kind.INDEX:
        return checks_of(path, share)
    if kind is Kind.CACHE_FOLDER:
        return [Check(path=one) for one in sorted(path.iterdir()) if is_cache(one)]
    return [Check(path=path)]


def _row(
    check: "Check", measure: Callable[[Path], dict[str, Any]] | None, *, repair: bool
) -> dict[str, Any]:
    """What became of a cache, as --json has it; `measure` its error, if it is whole."""
    from batch.archive.verifying import remove_damaged, run_check
    from cachefmt import CacheFileError

    found = run_check(check)
    gone = remove_damaged(check, found) if repair else []
    problems = [str(problem) for problem in found.problems]
    measured: dict[str, Any] = {}
    if measure is not None and not problems:
        try:
            measured = measure(check.path)
        except (BatchError, CacheFileError) as error:
            problems.append(str(error))
    return {
        "cache": str(check.path),
        "whole": not problems,
        "problems": problems,
        **measured,
        "size_bytes": found.size_bytes,
        "removed": [str(file) for file in gone],
    }


def _measure(path: Path, *, model: str | None, device: str | None) -> dict[str, Any]:
    """Error and agreement of a cache today, of the worst segment, and when it was written.

    Raises:
        BatchError: it cannot be measured, or breaks what --max-kl promised.
    """
    from batch.analysis.finding import find_manifest
    from batch.answering.opening import open_writer
    from batch.making.header import promised_kl
    from batch.making.remeasuring import measure_again
    from cachefmt import open_segments

    with ExitStack() as opened:
        segments = [opened.enter_context(segment) for segment in open_segments(path)]
        header = segments[0].header
        manifest = find_manifest(path, header)
        writer = open_writer(segments[0], path, WriterSettings(model=model, device=device))
        measured = zip(segments, measure_again(segments, manifest, writer), strict=True)
        segment, found = max(measured, key=lambda pair: pair[1].kl)
    promised = promised_kl(header)
    if promised is not None and found.kl > promised:
        raise BatchError(
            f"{segment.path}: the KL of its answers is {found.kl:.4f} here, above the "
            f"{promised} that it was to keep"
        )
    then, is_exact = segment.header.fidelity, segment.header.codec.name == "plain"
    return {
        "kl": found.kl,
        "agreement": found.agreement,
        "written_kl": 0.0 if is_exact else then and then.kl,
        "written_agreement": 1.0 if is_exact else then and then.agreement,
    }


def _said(row: dict[str, Any]) -> str:
    if "kl" not in row:
        return ""
    kl, agreement = row["written_kl"], row["written_agreement"]
    then = "not measured" if kl is None else f"{kl:.4f} and {agreement:.3f}"
    return f"; KL {row['kl']:.4f} and agreement {row['agreement']:.3f}, when it was written {then}"
