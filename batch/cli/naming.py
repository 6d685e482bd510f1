"""Which model a command means: a model is never chosen silently.

`--model`, or what the caches of an index were made with, or SALI_MODEL, or the file of settings.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from batch.cli.progress import say
from batch.errors import BatchError
from batch.families import problem_with_model

VARIABLE = "SALI_MODEL"
_REMEMBERED = "sali-cache.remembered-revision"


def settings_file() -> Path:
    """Where a person keeps what every command is to use."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "sali-cache.toml"


def choose_model(context: click.Context, parameter: click.Parameter, value: Any) -> str | None:
    """The callback of a --model that must be named; says on stderr where another name is from.

    Of `batch index` the last caches in --out come first: what is for every command must not begin
    an archive anew. Click has read --out by then, as it takes what was given first.
    """
    if context.resilient_parsing:
        return None
    where = None
    if context.get_parameter_source("model") is not ParameterSource.COMMANDLINE:
        value, where = _named_elsewhere(context, value)
    if value is None:
        raise click.UsageError(
            "name a model: --model with a folder, an id on the hub (batch models names some), or "
            f'demo, a toy that knows drawn films only. {VARIABLE}, or the line model = "..." in '
            f"{settings_file()}, names it for every command."
        )
    if problem := problem_with_model(value):
        raise click.BadParameter(f"{value}: {problem}", context, parameter)
    if where is not None:
        say(f"model {value} ({where})")
    return str(value)


def _named_elsewhere(context: click.Context, in_environment: str | None) -> tuple[str | None, str]:
    """A model that the command line does not name, and where it is named."""
    out = context.params.get("out")
    if context.command.name == "index" and out is not None:
        remembered = _remembered(context, out)
        if remembered is not None:
            return remembered, f"as the caches in {out}"
    if in_environment is not None:
        return in_environment, VARIABLE
    return _configured(), str(settings_file())


def choose_revision(context: click.Context, parameter: click.Parameter, value: Any) -> str | None:
    """The callback of --revision: that of a remembered model, unless another one is given."""
    found = context.meta.get(_REMEMBERED) if value is None else value
    return None if found is None else str(found)


def _remembered(context: click.Context, out: Path) -> str | None:
    """The model of the last caches in a folder of caches; its revision is for `choose_revision`."""
    from batch.archive.store import Store

    caches = Store(out).all_caches()
    if not caches:
        return None
    settings = caches[-1].read_settings()
    context.meta[_REMEMBERED] = settings["revision"]
    return str(settings["model"])


def _configured() -> str | None:
    """The model in the file of settings, which need not be there."""
    file = settings_file()
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BatchError(f"{file}: cannot be read: {error}") from error
    unknown = sorted(found.keys() - {"model"})
    if unknown or not isinstance(found.get("model"), str):
        got = f"key {unknown[0]!r}" if unknown else f"model = {found.get('model')!r}"
        raise BatchError(f'{file}: got {got}, expected one line: model = "..."')
    return str(found["model"])
