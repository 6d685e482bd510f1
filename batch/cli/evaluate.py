"""`batch evaluate`: methods side by side on the same videos, questions and model."""

import importlib.util
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

import click

from batch.cli import options
from batch.cli.progress import progress
from batch.errors import BatchError
from batch.settings import Attention, ModelSettings, Saliency

EXTRA = ("matplotlib", "rouge_score", "sacrebleu")


@click.command()
@click.option(
    "--data",
    multiple=True,
    default=["demo:plain"],
    show_default=True,
    help="demo:VARIANT, demo for all of them, a JSONL file, or the local folder of a benchmark; "
    "repeat for more.",
)
@click.option(
    "--videos", type=click.IntRange(1), default=20, show_default=True, help="Of each set, at most."
)
@click.option(
    "--seed", type=click.IntRange(2), default=2, show_default=True, help="Of the drawn films."
)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice(["methods", "ablations"]),
    default=["methods"],
    show_default=True,
    help="ablations: the default profile with one part changed; repeat for both.",
)
@click.option("--method", "methods", multiple=True, help="Repeat for more; default: all.")
@click.option("--budget-tokens", multiple=True, help="784, or a share of all slots like 25%.")
@click.option(
    "--budget-bytes",
    multiple=True,
    help="A number, or a share of the FP16 K and V of all slots.  [default: 25%]",
)
@click.option(
    "--rows", multiple=True, type=options.EXISTING_FILE, help="Answers of methods run elsewhere."
)
@click.option("--out", type=options.FOLDER, help="Write RESULTS.md, figures and data there.")
@options.sampling_options
@options.saliency_options
@options.model_options
@options.run_options
@options.json_option
def evaluate(
    data: tuple[str, ...],
    videos: int,
    seed: int,
    suites: tuple[str, ...],
    methods: tuple[str, ...],
    budget_tokens: tuple[str, ...],
    budget_bytes: tuple[str, ...],
    rows: tuple[Path, ...],
    out: Path | None,
    fps: float,
    max_samples: int | None,
    saliency: Saliency,
    saliency_model: Path | None,
    model: str,
    revision: str | None,
    offline: bool,
    device: str | None,
    dtype: str | None,
    attn: Attention,
    as_json: bool,
) -> None:
    """Compare methods on the same videos, questions and model.

    Each method runs as it is, if it knows how much to keep, and within each budget. Prints a row
    a method; seed 0 trained the demo model and 1 draws the films of batch demo.
    """
    # torch 2.13's profiler, which counts allocations, else writes its starts and stops to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise BatchError(
            f"batch evaluate needs {', '.join(missing)}:  pip install 'sali-cache[evaluate]'"
        )
    network = options.saliency_network(saliency, saliency_model)
    from batch.evaluation.choosing import choose_entries, choose_limits, choose_sets
    from batch.evaluation.comparison import compare, publish
    from batch.evaluation.runs import run_methods
    from batch.evaluation.storing import PreparedVideo
    from batch.models import open_model
    from jobs.atomic import make_folder

    chosen = options.sampling_settings(fps, max_samples)
    if out is not None:
        make_folder(out)
    entries = choose_entries(suites, methods, choose_limits(budget_tokens, budget_bytes))
    settings = ModelSettings(
        name=model, revision=revision, offline=offline, device=device, dtype=dtype, attention=attn
    )
    family = open_model(settings).load()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sets = choose_sets(data, folder, videos=videos, seed=seed)
        videos_found = {question.video for one in sets for question in one.questions}
        with progress("evaluate", len(videos_found), "videos") as report:
            runs = list(
                run_methods(
                    family,
                    sets,
                    entries,
                    folder=folder,
                    sampling=chosen,
                    saliency=network,
                    report=report,
                )
            )
        found = compare(runs, rows, family, sets)
        if out is not None:
            command = shlex.join(["batch", *sys.argv[1:]])
            publish(
                found, out, command, lambda video: PreparedVideo(video, family, chosen, network)
            )
    in_json = (json.dumps(row.to_dict()) for row in found.rows)
    for line in in_json if as_json else found.to_text():
        click.echo(line)
