"""Options that several commands share, and what they mean."""

import resource
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import click

from batch.cli.choices import AnalysisChoice, choose_cache, choose_model_settings
from batch.cli.naming import VARIABLE, choose_model, choose_revision
from batch.settings import (
    AnswerSettings,
    Attention,
    Dtype,
    Limit,
    Positions,
    Quality,
    Reference,
    Reuse,
    Saliency,
    Scope,
    Unit,
    WriterSettings,
)
from jobs.disk_space import parse_size

EXISTING = click.Path(exists=True, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


class Parsed(click.ParamType[Any]):
    """A value with a parser that raises ValueError."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)


def budget_type(unit: Unit) -> Parsed:
    """A number of some unit or a share of all."""
    return Parsed("budget", lambda text: Limit.parse(text, unit))


Command = Callable[..., Any]
Option = Callable[[Command], Command]


def together(*options: Option) -> Option:
    """Several options as one decorator; help shows them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def gathered(into: str, make: Callable[..., object], *options: Option) -> Option:
    """Options as one parameter of a command, `into`: what `make` makes of them, by their names."""
    option, empty = together(*options), click.Command(None)
    option(empty)
    names = [str(parameter.name) for parameter in empty.params]

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**given: Any) -> Any:
            made = make(**{name: given.pop(name) for name in names})
            return command(**given, **{into: made})

        return option(run)

    return decorate


def profile_option(meaning: str, default: str | None = "default") -> Option:
    """--profile, with what it means to a command."""
    return click.option(
        "--profile",
        type=click.Choice(["default", "paper", "none"]),
        default=default,
        show_default=True,
        help=meaning,
    )


force_option = click.option("--force", is_flag=True, help="Do again what is done already.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
offline_option = click.option("--offline", is_flag=True, help="Use only what is on this machine.")
dtype_option = click.option(
    "--dtype",
    type=click.Choice(get_args(Dtype)),
    help="Default: that of quantised weights, else bfloat16 on a GPU or a processor with "
    "instructions for it, float32 on others.",
)
attn_option = click.option(
    "--attn",
    "attention",
    type=click.Choice(get_args(Attention)),
    default="auto",
    show_default=True,
    help="Attention to the tiers; auto is Triton's kernel on CUDA, torch elsewhere.",
)
run_options = together(
    click.option(
        "--device",
        help="As torch names it, or auto to spread the model over all there are; "
        "default: cuda if there is one, else cpu.",
    ),
    dtype_option,
    attn_option,
)


def model_options(*running: Option) -> Option:
    """Give `model`, the settings of one that must be named; `running` says how it runs."""
    return gathered(
        "model",
        choose_model_settings,
        click.option(
            "--model",
            envvar=VARIABLE,
            callback=choose_model,
            help="Folder or hub id of a checkpoint; demo is the bundled toy. Without it, what "
            f"{VARIABLE} names, in batch index the model of its caches, or "
            "~/.config/sali-cache.toml.",
        ),
        click.option(
            "--revision", callback=choose_revision, help="Branch, tag or commit on the hub."
        ),
        offline_option,
        *running,
    )


writer_options = gathered(
    "writer",
    WriterSettings,
    click.option("--model", help="Folder or hub id; default: the one that wrote the cache."),
    offline_option,
    run_options,
)
answer_options = together(
    writer_options,
    gathered(
        "settings",
        AnswerSettings,
        click.option(
            "--max-new-tokens",
            type=click.IntRange(1),
            default=AnswerSettings.max_new_tokens,
            show_default=True,
            help="Most tokens of an answer.",
        ),
        click.option(
            "--scope",
            type=click.Choice(get_args(Scope)),
            default=AnswerSettings.scope,
            show_default=True,
            help="What of a video answers. whole: all of it, which must be one segment; retrieve: "
            "the samples that the question is about; each-segment: every segment by itself, and "
            "the likeliest of their answers is the video's; auto: whole, or of several segments "
            "retrieve (each-segment where the cache has no index).",
        ),
        click.option(
            "--budget-tokens",
            type=click.IntRange(1),
            default=AnswerSettings.budget_tokens,
            show_default=True,
            help="Most tokens loaded for a question; with --scope each-segment, in each segment.",
        ),
    ),
)

sampling_options = together(
    click.option(
        "--fps",
        type=click.FloatRange(0, min_open=True),
        default=1.0,
        show_default=True,
        help="Frames a second; a sample is one, in Qwen-VL two.",
    ),
    click.option(
        "--max-samples",
        type=click.IntRange(1),
        help="Lower the rate of longer videos, so that no more are taken.",
    ),
)

saliency_options = together(
    click.option(
        "--saliency",
        type=click.Choice(get_args(Saliency)),
        default="classical",
        show_default=True,
        help="What tells how much there is to see in a cell: edges and colours, or a network.",
    ),
    click.option(
        "--saliency-model",
        type=EXISTING_FILE,
        help="The network, an ONNX file; a frame takes it a fifth of a second.",
    ),
)

pictures_option = click.option(
    "--pictures",
    type=FOLDER,
    help="Also draw the tiers on stored samples, there: a contact sheet of each video.",
)

analysis_options = gathered(
    "analysis",
    AnalysisChoice,
    sampling_options,
    saliency_options,
    click.option(
        "--reference",
        type=click.Choice(get_args(Reference)),
        help="What redundancy is measured against: the last kept sample, the one before, or of "
        "each cell the sample in which it changed last.  [default: by the profile; with --reuse "
        "cells, cells]",
    ),
    click.option("--jobs", type=click.IntRange(1), help="Processes; default: one a core."),
)

prefill_options = gathered(
    "cache",
    choose_cache,
    click.option(
        "--positions",
        type=click.Choice(get_args(Positions)),
        default="compact",
        show_default=True,
        help="Whether the gaps that pointer samples leave in the prompt are closed.",
    ),
    click.option(
        "--reuse",
        type=click.Choice(get_args(Reuse)),
        default="samples",
        show_default=True,
        help="What is done with what did not change. cells: cells are not computed, but made of "
        "those that they repeat; samples: whole samples, as pointers, count as copies of the one "
        "that they repeat; none: pointers are left out, and nothing stands for them.",
    ),
    click.option(
        "--timestamps",
        is_flag=True,
        help="Write its time before each sample, as <12.0 seconds>, where the model's prompt "
        "has room.",
    ),
    click.option("--block-samples", type=click.IntRange(1), help="Samples prefilled together."),
    click.option(
        "--quality",
        type=click.Choice(get_args(Quality)),
        default="standard",
        show_default=True,
        help="How much a file may lose of what was computed: smaller files lose more.",
    ),
    click.option(
        "--max-kl",
        type=click.FloatRange(0, min_open=True),
        help="Instead of a quality: the coarsest file whose answers to neutral questions stay "
        "within this mean KL, in nats a token, of those from what was computed; as it is, if "
        "none does. Keeps all K and V of a file in memory at 16 bits until it is written.",
    ),
    click.option(
        "--budget-tokens",
        type=budget_type("tokens"),
        help="Most tokens of a video that enter the language model, as 4096, or 25% of all its "
        "slots. Where more would, cells beside those that changed are reused, too, and higher "
        "thresholds tell what changed, the lowest that will do.",
    ),
    click.option(
        "--budget-bytes-per-minute",
        type=Parsed("size", parse_size),
        help="Instead of a quality: the finest file of at most so many bytes a minute of video, "
        "as 500K. Needs as much memory as --max-kl. With --quality lossless, thresholds are raised "
        "as for --budget-tokens.",
    ),
)

_MACOS_OPEN_FILES = 10_240
"""Source: OPEN_MAX; macOS has no bound of its own and refuses one without end, setrlimit(2)."""


def allow_open_files() -> None:
    """Let this process open as many files as it may; each open segment of a long video is two.

    One is read from; Python 3.11 keeps another open for the mapping.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MACOS_OPEN_FILES if most == resource.RLIM_INFINITY else most
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
