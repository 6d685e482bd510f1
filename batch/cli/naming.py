"""Which model a command means: a model is never chosen silently.

`--model`, or SALI_MODEL, or what the caches of an index were made with, or the file of settings.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

import click

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

    Of `batch index` it is that of the last caches in --out, which is read before, as click takes
    what was given first.
    """
    if context.resilient_parsing:
        return None
    where = VARIABLE
    is_given = value is not None
    if is_given:
        is_given = (
            context.get_parameter_source("model") is not click.core.ParameterSource.ENVIRONMENT
        )
    if value is None and context.command.name == "index":
        value, where = _remembered(context), f"as the caches in {context.params['out']}"
    if value is None:
        value, where = _configured(), str(settings_file())
    if value is None:
        raise click.UsageError(
            "name a model: --model with a folder, an id on the hub (batch models names some), or "
            f'demo, a toy that knows drawn films only. {VARIABLE}, or the line model = "..." in '
            f"{settings_file()}, names it for every command."
        )
    if problem := problem_with_model(value):
        raise click.BadParameter(f"{value}: {problem}", context, parameter)
    if not is_given:
        click.echo(f"model {value} ({where})", err=True)
    return str(value)


def choose_revision(context: click.Context, parameter: click.Parameter, value: Any) -> str | None:
    """The callback of --revision: that of a remembered model, unless another one is given."""
    found = context.meta.get(_REMEMBERED) if value is None else value
    return None if found is None else str(found)


def _remembered(context: click.Context) -> str | None:
    """The model of the last caches in a folder of caches, whose revision is kept beside it."""
    from batch.archive.store import Store

    caches = Store(context.params["out"]).all_caches() if context.params.get("out") else []
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
