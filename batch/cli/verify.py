"""`batch verify`: every checksum of cache files."""

from pathlib import Path

import click

from batch.cli.summary import Summary


@click.command()
@click.argument("caches", nargs=-1, required=True, type=click.Path(path_type=Path))
def verify(caches: tuple[Path, ...]) -> None:
    """Read CACHES whole and compare every checksum; names what is damaged."""
    import time

    from cachefmt import CacheFile, CacheFileError

    summary, started = Summary(), time.perf_counter()
    for path in caches:
        try:
            with CacheFile.open(path) as cache:
                cache.verify()
                summary.size_bytes += cache.size_bytes
        except CacheFileError as error:
            summary.fail(str(error))
            continue
        summary.done += 1
        click.echo(f"{path}: whole")
    summary.seconds = time.perf_counter() - started
    summary.finish()
