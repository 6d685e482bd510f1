"""Options that several commands share, and what they mean."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch.errors import BatchError, ModelError

if TYPE_CHECKING:
    from batch.models import Checkpoint

PROFILES = ("default", "paper", "none")
DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("auto", "torch", "triton")
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

Command = Callable[..., Any]


def model_options(command: Command) -> Command:
    """--model, --revision and --offline: which checkpoint."""
    for option in (
        click.option("--offline", is_flag=True, help="Use only what is on this machine."),
        click.option("--revision", help="Branch, tag or commit on the hub."),
        click.option(
            "--model",
            default="demo",
            show_default=True,
            help="Folder or hub id of a checkpoint; demo is the bundled one.",
        ),
    ):
        command = option(command)
    return command


def run_options(command: Command) -> Command:
    """--device, --dtype and --attn: where, in which type and by which attention a model runs."""
    for option in (
        click.option(
            "--attn",
            type=click.Choice(ATTENTIONS),
            default="auto",
            show_default=True,
            help="Attention to the tiers; auto is Triton's kernel on CUDA, torch elsewhere.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            help="Default: that of quantised weights, else by the device.",
        ),
        click.option(
            "--device",
            help="As torch names it, or auto to spread the model over all there are; "
            "default: cuda if there is one, else cpu.",
        ),
    ):
        command = option(command)
    return command


def analysis_options(command: Command) -> Command:
    """How videos are sampled and judged."""
    for option in (
        click.option("--jobs", type=click.IntRange(1), help="Processes; default: one a core."),
        click.option(
            "--reference",
            type=click.Choice(["kept", "previous"]),
            help="Sample that redundancy is measured against; default: by the profile.",
        ),
        click.option(
            "--max-samples",
            type=click.IntRange(1),
            help="Lower the rate of longer videos, so that no more are taken.",
        ),
        click.option(
            "--fps",
            type=click.FloatRange(0, min_open=True),
            default=1.0,
            show_default=True,
            help="Samples a second.",
        ),
    ):
        command = option(command)
    return command


force_option = click.option("--force", is_flag=True, help="Do again what is done already.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def make_folder(folder: Path) -> None:
    """Make a folder for results, with its parents.

    Raises:
        BatchError: a file is in the way, or this user may not write there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BatchError(f"{folder}: this folder cannot be made: {error.strerror}") from error


def choose_device(device: str | None) -> str:
    """The device asked for ("auto" is left to the model), or the best there is.

    Raises:
        ModelError: torch cannot use it here.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "auto":
        return device
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ModelError(f"--device {device}: torch cannot use it here: {reason}") from error
    return device


def choose_dtype(dtype: str | None, device: str, checkpoint: "Checkpoint") -> str:
    """The type asked for; else the checkpoint's if it is quantised, else by the device.

    That is float32 on the CPU and bfloat16 elsewhere.
    """
    from batch.models.placement import first_device

    if dtype is not None:
        return dtype
    if checkpoint.quantised_by is not None:
        return checkpoint.own_dtype
    return "float32" if first_device(device).type == "cpu" else "bfloat16"
