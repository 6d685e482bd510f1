"""`batch verify`: every checksum of caches, and their error once more."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli import options
from batch.cli.progress import Summary
from batch.errors import BatchError

if TYPE_CHECKING:
    from cachefmt import CacheFile


@click.command()
@click.argument("caches", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--fidelity",
    is_flag=True,
    help="Compare the rows with those that the model makes of the manifest, which lies beside the "
    "cache or in its archive; takes as long as prefilling.",
)
@click.option("--model", help="Where the model is now that wrote the caches.")
@click.option("--device", help="As torch names it; default: cuda if there is one, else cpu.")
def verify(caches: tuple[Path, ...], fidelity: bool, model: str | None, device: str | None) -> None:
    """Read CACHES, files or folders of segments, whole and compare every checksum.

    Names what is damaged, missing or of something else.
    """
    from cachefmt import CacheFileError, open_segments, verify_segments

    if not fidelity and (model or device):
        raise click.UsageError("--model and --device go with --fidelity")
    options.allow_open_files()
    summary = Summary()
    for path in caches:
        try:
            with ExitStack() as opened:
                segments = [opened.enter_context(segment) for segment in open_segments(path)]
                verify_segments(segments)
                said = _measure(path, segments, model, device) if fidelity else ""
                summary.size_bytes += sum(segment.size_bytes for segment in segments)
        except (CacheFileError, BatchError) as error:
            summary.fail(str(error))
            continue
        summary.done += 1
        click.echo(f"{path}: whole{said}")
    summary.finish()


def _measure(
    path: Path, segments: "Sequence[CacheFile]", model: str | None, device: str | None
) -> str:
    """What is measured of a cache today beside what its header says, of the worst segment.

    Raises:
        BatchError: it cannot be measured, or breaks what --max-kl promised.
    """
    from batch.answering.opening import open_writer
    from batch.making.remeasuring import find_manifest, measure_again

    header = segments[0].header
    manifest = find_manifest(path, header)
    writer = open_writer(segments[0], path, model=model, device=device)
    measured = zip(segments, measure_again(segments, manifest, writer), strict=True)
    segment, found = max(measured, key=lambda pair: pair[1].kl)
    promised = header.policy.parameters.get("max_kl")
    if promised is not None and found.kl > float(promised):
        raise BatchError(
            f"{segment.path}: the KL of its answers is {found.kl:.4f} here, above the "
            f"{promised} that it was to keep"
        )
    then = segment.header.fidelity
    exactly = segment.header.codec.name == "plain"
    said = ("0" if exactly else "not measured", "1" if exactly else "not measured")
    if then is not None:
        said = (f"{then.kl:.4f}", f"{then.agreement:.3f}")
    return (
        f"; KL {found.kl:.4f} ({said[0]} when written), agreement {found.agreement:.3f} ({said[1]})"
    )
