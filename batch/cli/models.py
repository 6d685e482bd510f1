"""`batch models`: the families of checkpoints that can be used."""

import json

import click

from batch.cli.options import json_option


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the model families that are supported, each tested against transformers, and limits.

    A checkpoint's family is the `model_type` of its config.json.
    """
    from importlib.metadata import version

    from batch.models import FAMILIES, PARITY_TRANSFORMERS
    from batch.models.placement import default_dtype, first_device

    for name, family in sorted(FAMILIES.items()):
        row = {
            "family": name,
            "parity_tested": True,
            "transformers": PARITY_TRANSFORMERS,
            "limits": family.limits,
        }
        tested = f"parity tested with transformers {PARITY_TRANSFORMERS}"
        click.echo(json.dumps(row) if as_json else f"{name:17}{tested}; {family.limits}")
    device = first_device("auto")
    click.echo(f"here models run in {default_dtype(device)} on {device}", err=True)
    installed = version("transformers")
    if installed != PARITY_TRANSFORMERS:
        click.echo(
            f"warning: transformers {installed} is installed; parity was tested with "
            f"{PARITY_TRANSFORMERS}",
            err=True,
        )
