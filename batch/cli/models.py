"""`batch models`: the families of checkpoints that can be used."""

import json

import click

from batch.cli.options import json_option
from batch.families import KNOWN_FAMILIES, PARITY_TRANSFORMERS


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the model families that are supported, each tested against transformers, and limits.

    A checkpoint's family is the `model_type` of its config.json. Of each a checkpoint on the hub is
    named, for --model.
    """
    from importlib.metadata import version

    for name, family in sorted(KNOWN_FAMILIES.items()):
        row = {
            "family": name,
            "checkpoint": family.checkpoint,
            "parity_tested": True,
            "transformers": PARITY_TRANSFORMERS,
            "limits": family.limits,
        }
        tested = f"parity tested with transformers {PARITY_TRANSFORMERS}"
        line = f"{name:17}{family.checkpoint}; {tested}; {family.limits}"
        click.echo(json.dumps(row) if as_json else line)
    installed = version("transformers")
    if installed != PARITY_TRANSFORMERS:
        click.echo(
            f"warning: transformers {installed} is installed; parity was tested with "
            f"{PARITY_TRANSFORMERS}",
            err=True,
        )
