"""`batch models`: the families of checkpoints that can be used."""

import json

import click

from batch.cli.options import json_option


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the model families that are supported, whether tested against transformers, and limits.

    A checkpoint's family is the `model_type` of its config.json.
    """
    from importlib.metadata import version

    from batch.models import FAMILIES
    from batch.models.tested import PARITY_TESTED, TRANSFORMERS

    for name, family in sorted(FAMILIES.items()):
        row = {
            "family": name,
            "parity_tested": name in PARITY_TESTED,
            "transformers": TRANSFORMERS,
            "limits": family.limits,
        }
        tested = f"parity tested with transformers {TRANSFORMERS}"
        line = f"{name:17}{tested if row['parity_tested'] else 'not tested'}; {family.limits}"
        click.echo(json.dumps(row) if as_json else line)
    installed = version("transformers")
    if installed != TRANSFORMERS:
        click.echo(
            f"warning: transformers {installed} is installed; parity was tested with "
            f"{TRANSFORMERS}",
            err=True,
        )
