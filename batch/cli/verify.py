"""`batch verify`: every checksum of caches."""

from contextlib import ExitStack
from pathlib import Path

import click

from batch.cli.kinds import Kind, sift
from batch.cli.options import allow_open_files
from batch.cli.progress import Summary, quiet_option


@click.command()
@click.argument("caches", nargs=-1, required=True, type=click.Path(path_type=Path))
@quiet_option
def verify(caches: tuple[Path, ...]) -> None:
    """Read CACHES, files or folders of segments, whole and compare every checksum.

    Names what is damaged, missing or of something else.
    """
    summary = Summary()
    kinds = sift(caches, {Kind.CACHE, Kind.SEGMENTS}, "a cache", summary)
    from cachefmt import CacheFileError, open_segments, verify_segments

    allow_open_files()
    for path in kinds:
        try:
            with ExitStack() as opened:
                segments = [opened.enter_context(segment) for segment in open_segments(path)]
                verify_segments(segments)
                summary.size_bytes += sum(segment.size_bytes for segment in segments)
        except CacheFileError as error:
            summary.fail(str(error))
            continue
        summary.done += 1
        click.echo(f"{path}: whole")
    summary.finish()
