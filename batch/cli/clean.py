"""`batch clean`: what a folder of caches holds for nobody any more."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from batch.cli.kinds import Kind, expect
from batch.cli.options import EXISTING, json_option
from batch.cli.progress import in_line, say
from batch.settings import Leftover

if TYPE_CHECKING:
    from batch.archive.cleaning import Found


@click.command()
@click.argument("caches", type=EXISTING)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(get_args(Leftover)),
    help="old: works of another model or other settings than the last; gone: videos that no file "
    "of the archive holds any more; runs: what killed runs left. Repeat for more; default: all.",
)
@click.option("--yes", is_flag=True, help="Remove it; without, it is only counted.")
@json_option
def clean(caches: Path, only: tuple[Leftover, ...], yes: bool, as_json: bool) -> None:
    """Count, and with --yes remove, what nobody needs of CACHES, a folder of batch index.

    Prints what was found, with its files and bytes. Nothing is removed while a run is at work.
    """
    expect(caches, {Kind.INDEX}, "a folder of caches of batch index")
    from batch.archive.cleaning import find_leftovers, remove
    from batch.archive.store import Store

    store = Store(caches)
    found = find_leftovers(store, only or get_args(Leftover))
    if yes:
        remove(store, found)
    for leftover in found:
        click.echo(_line(leftover, removed=yes, as_json=as_json))
    files, size_bytes = (sum(len(one.files) for one in found), sum(one.size_bytes for one in found))
    what = f"{files:,} files, {size_bytes:,} bytes"
    say(
        f"{what} removed" if yes else f"{what}; --yes removes them" if found else "nothing to clean"
    )


def _line(leftover: "Found", *, removed: bool, as_json: bool) -> str:
    files, size_bytes = len(leftover.files), leftover.size_bytes
    if not as_json:
        return f"{leftover.kind:5}{in_line(leftover.what)}: {files:,} files, {size_bytes:,} bytes"
    row = {"kind": leftover.kind, "what": leftover.what, "files": files}
    return json.dumps({**row, "size_bytes": size_bytes, "removed": removed})
