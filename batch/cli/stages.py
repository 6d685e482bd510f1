"""`batch index` cut into stages that other machines can run."""

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from jobs.engines import Stage

OWN = frozenset({"phase", "shard"})
"""Options that each stage has of its own."""


def stages_of(
    context: click.Context, *, tasks: dict[str, int], leave_out: frozenset[str] = frozenset()
) -> list[Stage]:
    """The stages of an index command, as command lines.

    Args:
        context: of the command as it was given.
        tasks: how many tasks each of identify, analyze and prefill is cut into.
        leave_out: parameters that are not for the tasks.
    """
    command = (sys.executable, "-m", "batch", "index", *_words(context, OWN | leave_out))
    jobs = context.params["jobs"] or 1
    models = len(context.params["devices"]) or 1
    return [
        Stage(
            name=phase,
            command=(*command, "--phase", phase),
            tasks=count,
            cpus=jobs if phase != "prefill" else 1,
            gpus=models if phase == "prefill" else 0,
        )
        for phase, count in tasks.items()
    ]


def _words(context: click.Context, leave_out: frozenset[str]) -> list[str]:
    words: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if name in leave_out or not given:
            continue
        values = context.params[name]
        for value in values if parameter.multiple else [values]:
            if isinstance(parameter, click.Option) and parameter.is_flag:
                words.append(parameter.opts[0])
            elif isinstance(parameter, click.Option):
                words += [parameter.opts[0], _word(value)]
            else:
                words.append(_word(value))
    return words


def _word(value: Any) -> str:
    return str(value.resolve() if isinstance(value, Path) else value)
