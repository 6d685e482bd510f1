"""`batch models`: the families of checkpoints that can be used."""

import json
from dataclasses import asdict, dataclass

import click

from batch.cli.options import json_option


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of a family."""

    family: str
    """The config's `model_type`."""
    parity_tested: bool
    """Whether tests hold it to transformers' own forward."""
    transformers: str
    """The version they ran with."""
    limits: str


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the model families that are supported, whether tested against transformers, and limits.

    A checkpoint's family is the `model_type` of its config.json.
    """
    from importlib.metadata import version

    from batch.models.tested import TRANSFORMERS

    for row in _rows():
        tested = f"parity tested with transformers {row.transformers}"
        line = f"{row.family:17}{tested if row.parity_tested else 'not tested'}; {row.limits}"
        click.echo(json.dumps(asdict(row)) if as_json else line)
    installed = version("transformers")
    if installed != TRANSFORMERS:
        click.echo(
            f"warning: transformers {installed} is installed; parity was tested with "
            f"{TRANSFORMERS}",
            err=True,
        )


def _rows() -> list[Row]:
    from batch.models import FAMILIES
    from batch.models.tested import PARITY_TESTED, TRANSFORMERS

    return [
        Row(
            family=name,
            parity_tested=name in PARITY_TESTED,
            transformers=TRANSFORMERS,
            limits=family.limits,
        )
        for name, family in sorted(FAMILIES.items())
    ]
