"""`batch serve`: the videos of a folder of caches, asked over HTTP."""

import ipaddress
import socket
from pathlib import Path

import click

from batch.cli import options
from batch.cli.kinds import Kind, expect
from batch.cli.progress import quiet_option, say
from batch.settings import AnswerSettings, WriterSettings
from jobs.disk_space import parse_size

_OPEN_BESIDE = 100
"""Connections beyond those that wait for an answer: lists, pages, clients that keep theirs."""
_ENDS_WITHIN_S = 5


@click.command()
@click.argument("caches", type=options.EXISTING)
@click.option("--work", help="Of a folder of batch index, as batch status lists them.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0: one that is free.",
)
@click.option(
    "--token",
    envvar="SALI_SERVE_TOKEN",
    help="What clients must send as a bearer's token, and browsers as a password; better given as "
    "SALI_SERVE_TOKEN than here, where others of the machine see it. Needed for any address but "
    "this machine's own.",
)
@click.option(
    "--memory",
    type=options.Parsed("size", parse_size),
    default="4G",
    show_default=True,
    help="What the caches in memory may take together; those not asked for longest are let go.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Questions about one video that are answered together.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Questions that may wait; more are refused with 429.",
)
@options.answer_options
@quiet_option
def serve(
    caches: Path,
    work: str | None,
    host: str,
    port: int,
    token: str | None,
    memory: int,
    batch_size: int,
    max_waiting: int,
    writer: WriterSettings,
    settings: AnswerSettings,
) -> None:
    """Serve the videos of CACHES over HTTP, with the model loaded once, until it is stopped.

    /v1/chat/completions is OpenAI's, streaming too: the model is the ID of a video, as /v1/models
    lists them, or the first message names it in a part "video_url". / lists them in
    a browser, with a page for each and a box to ask. Questions that come together about one video
    are one batch. Needs starlette and uvicorn, the extra serve. Prints its address. If others reach
    it, put a proxy before it: it speaks no TLS, and waits long for headers that come slowly.
    """
    kinds = {Kind.CACHE, Kind.SEGMENTS, Kind.CACHE_FOLDER, Kind.INDEX}
    expect(caches, kinds, "a cache, or a folder of them")
    _check_token(token, host)
    options.allow_open_files()
    from batch.errors import BatchError

    try:
        import uvicorn

        from batch.serving.app import ServeSettings, make_app
    except ModuleNotFoundError as error:
        raise BatchError(
            f"{error.name} is not installed: pip install 'starlette>=1.10,<2' 'uvicorn>=0.54,<1'"
        ) from error
    from batch.serving.desk import Desk
    from batch.serving.library import Library
    from batch.serving.shelf import Shelf

    library = Library(caches, work)
    for damage in library.damaged:
        click.echo(f"error: {damage}", err=True)
    own = frozenset({"localhost", "127.0.0.1", "::1", host})
    allowed = ServeSettings(
        token=None if token is None else token.strip(),
        hosts=own if _is_loopback(host) else None,
        most_tokens=settings.max_new_tokens,
    )
    with _listen(host, port) as listener:
        shelf = Shelf(library.load_model(writer), settings, memory)
        with Desk(shelf, batch_size=batch_size, most_waiting=max_waiting) as desk:
            config = uvicorn.Config(
                make_app(library, desk, allowed),
                log_level="warning",
                access_log=False,
                limit_concurrency=max_waiting + _OPEN_BESIDE,
                timeout_graceful_shutdown=_ENDS_WITHIN_S,
                server_header=False,
            )
            where = f"[{host}]" if ":" in host else host
            click.echo(f"http://{where}:{listener.getsockname()[1]}/")
            say(f"{len(library):,} videos; Ctrl-C ends it")
            uvicorn.Server(config).run(sockets=[listener])


def _check_token(token: str | None, host: str) -> None:
    """Wrong usage if it is none, or others than this machine could ask without one."""
    if token is not None and (not token.strip() or not token.isascii()):
        raise click.UsageError("--token: expected some ASCII characters")
    if token is None and not _is_loopback(host):
        raise click.UsageError(
            f"--host {host}: others can reach it, so it needs a token: SALI_SERVE_TOKEN"
        )


def _listen(host: str, port: int) -> socket.socket:
    from batch.errors import BatchError

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise BatchError(f"--host {host} --port {port}: {error.strerror}") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
