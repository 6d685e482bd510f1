"""`batch evaluate`: methods side by side on the same videos, questions and model."""

import importlib.util
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from batch.cli import options
from batch.cli.choices import AnalysisChoice, choose_model_settings
from batch.cli.progress import progress
from batch.errors import BatchError
from batch.settings import Limit, ModelSettings

if TYPE_CHECKING:
    from batch.evaluation.codec_rows import CodecRow
    from batch.evaluation.judges.prose import ProseRow
    from batch.evaluation.reuse_suite import ReuseRow
    from batch.evaluation.summary import Row

EXTRA = {
    "matplotlib": "matplotlib>=3.10,<4",
    "rouge_score": "rouge-score>=0.1.2,<0.2",
    "sacrebleu": "sacrebleu>=2.6,<3",
}
"""What is imported, and what pip calls it."""
PROSE, SEEING, CODEC, REUSE, DEMO = "prose", "seeing", "codec", "reuse", "demo"
JUDGES = (DEMO, PROSE, SEEING)
_RUN = ("device", "dtype", "attention")
_OF_SUITES = {
    PROSE: ("methods", "context_tokens", "contexts"),
    CODEC: ("judges", "videos", "backgrounds", "context_tokens", "contexts", *_RUN),
    REUSE: ("judges", "videos", "backgrounds", *_RUN),
}
"""Suites that are run by themselves: the options that they take, beside those of all."""
_OF_ALL = ("suites", "as_json")
_ONLY_APART = ("judges", "context_tokens", "contexts")
_VIDEOS = 20
METHODS = (
    *("full", "sali-cache", "klt", "uniform", "centred-keys", "low-bits", "vidkv", "bitmod"),
    *("zipcache", "think", "token-drop", "sparse-frames", "dtd", "streaming-tom", "holitom"),
    *("fastvid", "vidcom2", "curve-stream", "tome", "sliding-window", "streaming-llm"),
    *("videoscan", "keydiff", "infinipot-v", "soft-prune", "h2o", "snapkv", "scissorhands"),
    *("dapq", "prefixkv", "kvmerger", "kvzip", "razor-attention", "salient-cells", "random"),
)
"""Names of `batch.evaluation.methods`, which imports torch: a wrong one is told at once."""


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
    "--videos",
    type=click.IntRange(1),
    help="Of each set, at most.  [default: 20, of --suite codec and reuse 6]",
)
@click.option(
    "--seed", type=click.IntRange(2), default=2, show_default=True, help="Of the drawn films."
)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice(["methods", "ablations", SEEING, PROSE, CODEC, REUSE]),
    default=["methods"],
    show_default=True,
    help="ablations: the default profile with one part changed; repeat for both. After make "
    "judges, seeing: the methods, on a model of a real language model and films of its own; prose: "
    "ways to store keys and values, of the language model reading text. codec: what each quality "
    "of the file keeps and takes. reuse: what is computed, and what its answers keep.",
)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    type=click.Choice(JUDGES),
    help="Of --suite codec and reuse; repeat for more; default: all, of which only demo needs no "
    "make judges; prose reads no films.",
)
@click.option(
    "--backgrounds", type=options.EXISTING_FOLDER, help="Draw films over the clips in this folder."
)
@click.option("--method", "methods", multiple=True, help="Repeat for more; default: all.")
@click.option(
    "--context-tokens",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Of each context of the judge prose.",
)
@click.option(
    "--contexts", type=click.IntRange(2), default=8, show_default=True, help="Of the same."
)
@click.option(
    "--budget-tokens",
    multiple=True,
    type=options.budget_type("tokens"),
    help="784, or a share of all slots like 25%.",
)
@click.option(
    "--budget-bytes",
    multiple=True,
    type=options.budget_type("bytes"),
    help="A number, or a share of the FP16 K and V of all slots.  [default: 25%]",
)
@click.option(
    "--rows", multiple=True, type=options.EXISTING_FILE, help="Answers of methods run elsewhere."
)
@click.option(
    "--out",
    type=options.FOLDER,
    help="Write RESULTS.md, figures and data there, and keep each run: a method is not run again.",
)
@options.gathered("analysis", AnalysisChoice, options.sampling_options, options.saliency_options)
@options.gathered(
    "run",
    choose_model_settings,
    click.option(
        "--model",
        default="demo",
        show_default=True,
        help="Folder or hub id of a checkpoint; demo is the one that knows the drawn films.",
    ),
    click.option("--revision", help="Branch, tag or commit on the hub."),
    options.offline_option,
    options.run_options,
)
@options.json_option
def evaluate(
    data: tuple[str, ...],
    videos: int | None,
    seed: int,
    suites: tuple[str, ...],
    judges: tuple[str, ...],
    backgrounds: Path | None,
    methods: tuple[str, ...],
    context_tokens: int,
    contexts: int,
    budget_tokens: tuple[Limit, ...],
    budget_bytes: tuple[Limit, ...],
    rows: tuple[Path, ...],
    out: Path | None,
    analysis: AnalysisChoice,
    run: ModelSettings,
    as_json: bool,
) -> None:
    """Compare methods on the same videos, questions and model.

    Each method runs as it is, if it knows how much to keep, and within each budget. Prints a row
    a method; seed 0 trained the demo model and 1 draws the films of batch demo.
    """
    _refuse_mixed(suites)
    _refuse_unknown(suites, methods, data)
    _require_packages()
    # torch 2.13's profiler, which counts allocations, else writes its starts and stops to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    if PROSE in suites:
        _print(*_judge_prose(methods, context_tokens, contexts), as_json=as_json)
        return
    if CODEC in suites:
        judged = _judge_codecs(judges or JUDGES, videos, backgrounds, context_tokens, contexts, run)
        _print(*judged, as_json=as_json)
        return
    if REUSE in suites:
        _judge_reuse(judges, videos, backgrounds, run, as_json=as_json)
        return
    network = analysis.network()
    from batch.evaluation.choosing import choose_entries, choose_sets
    from batch.evaluation.comparison import compare, publish
    from batch.evaluation.judges.seeing_films import find_judge, judge_sets
    from batch.evaluation.kept_runs import KeptRuns
    from batch.evaluation.running import run_methods
    from batch.evaluation.storing import PreparedVideo
    from batch.models import open_model
    from jobs.atomic import make_folder

    chosen, most = analysis.sampling(), videos or _VIDEOS
    if out is not None:
        make_folder(out)
    limits = [*budget_tokens, *budget_bytes] or [Limit(unit="bytes", share=0.25)]
    entries = choose_entries(suites, methods, limits)
    judge = find_judge() if SEEING in suites else None
    family = open_model(replace(run, name=str(judge or run.name))).load()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if judge is None:
            sets = choose_sets(data, folder, videos=most, seed=seed, backgrounds=backgrounds)
        else:
            sets = judge_sets(judge, folder, most, seed, backgrounds)
        videos_found = {question.video for one in sets for question in one.questions}
        kept = None if out is None else KeptRuns.within(out, family, chosen, network)
        with progress("evaluate", len(videos_found), "videos") as report:
            made = run_methods(
                family,
                sets,
                entries,
                folder=folder,
                sampling=chosen,
                saliency=network,
                report=report,
                has_control=judge is not None,
                kept=kept,
            )
            runs = list(made)
        name = SEEING if judge is not None else run.name
        found = compare(runs, rows, family, sets, judge=name)
        if out is not None:
            command = shlex.join(["batch", *sys.argv[1:]])
            publish(
                found, out, command, lambda video: PreparedVideo(video, family, chosen, network)
            )
    _print(found.rows, found.to_text(), as_json=as_json)


def _require_packages() -> None:
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " ".join(f"'{EXTRA[name]}'" for name in missing)
        raise BatchError(f"batch evaluate needs {', '.join(missing)}:  pip install {wanted}")


def _print(
    rows: Sequence["Row | ProseRow | CodecRow | ReuseRow"], text: Sequence[str], *, as_json: bool
) -> None:
    """A row a line in JSON, or lines for people."""
    for line in (json.dumps(row.to_dict()) for row in rows) if as_json else text:
        click.echo(line)


def _refuse_mixed(suites: tuple[str, ...]) -> None:
    """Suites that are run by themselves have few options in common with others."""
    context = click.get_current_context()
    apart = [suite for suite in _OF_SUITES if suite in suites]
    if apart and len(set(suites)) > 1:
        raise click.UsageError(f"--suite {apart[0]} is run by itself, it has other rows")
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if not given or name in _OF_ALL:
            continue
        if apart and name not in _OF_SUITES[apart[0]]:
            raise click.UsageError(f"{option.opts[0]} does not go with --suite {apart[0]}")
        if not apart and name in _ONLY_APART:
            needed = " or ".join(suite for suite, names in _OF_SUITES.items() if name in names)
            raise click.UsageError(f"{option.opts[0]} needs --suite {needed}")
    for name in ("data", "model", "revision"):
        if SEEING in suites and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} does not go with --suite {SEEING}: it has its own")


def _judge_codecs(
    judges: Sequence[str],
    videos: int | None,
    backgrounds: Path | None,
    context_tokens: int,
    contexts: int,
    model: ModelSettings,
) -> tuple[list["CodecRow"], list[str]]:
    """Let judges say what each quality of the file is worth: rows, and lines for people."""
    from batch.evaluation.codec_films import VIDEOS
    from batch.evaluation.codec_rows import codec_table
    from batch.evaluation.codec_suite import CodecSuite

    suite = CodecSuite(
        videos=videos or VIDEOS,
        backgrounds=backgrounds,
        context_tokens=context_tokens,
        contexts=contexts,
        model=model,
    )
    rows = suite.rows(judges, progress)
    table = codec_table(rows)
    return rows, [table.note, "", *table.to_text()]


def _judge_reuse(
    judges: tuple[str, ...],
    videos: int | None,
    backgrounds: Path | None,
    model: ModelSettings,
    *,
    as_json: bool,
) -> None:
    """Let judges say what ways to reuse compute and keep; in JSON, each row as soon as it is known.

    Raises:
        UsageError: a judge that sees no films.
    """
    from batch.evaluation.codec_films import VIDEOS
    from batch.evaluation.reuse_suite import ReuseSuite, reuse_table

    if PROSE in judges:
        raise click.UsageError(
            f"--judge {PROSE} does not go with --suite {REUSE}: it sees no films"
        )
    suite = ReuseSuite(videos=videos or VIDEOS, backgrounds=backgrounds, model=model)
    rows = []
    for row in suite.rows(judges or (DEMO, SEEING), progress):
        rows.append(row)
        if as_json:
            click.echo(json.dumps(row.to_dict()))
    if not as_json:
        table = reuse_table(rows)
        _print(rows, [table.note, "", *table.to_text()], as_json=False)


def _refuse_unknown(
    suites: tuple[str, ...], methods: tuple[str, ...], data: tuple[str, ...]
) -> None:
    """Names that a look shows to be of nothing."""
    unknown = [] if PROSE in suites else [name for name in methods if name not in METHODS]
    if unknown:
        raise click.UsageError(f"--method: got {unknown[0]!r}, there are {', '.join(METHODS)}")
    for name in data:
        if name.partition(":")[0] != "demo" and not Path(name).exists():
            raise click.UsageError(f"--data: {name}: no such file or folder, nor demo:VARIANT")


def _judge_prose(
    methods: tuple[str, ...], context_tokens: int, contexts: int
) -> tuple[list["ProseRow"], list[str]]:
    """Let schemes store contexts of text: a row each, and lines for people."""
    from batch.evaluation.judges.packages import SMOLLM2, find
    from batch.evaluation.judges.prose import LanguageModel, ProseJudge, choose_schemes, prose_table
    from batch.evaluation.judges.prose_texts import HAYSTACKS

    schemes = choose_schemes(methods)
    judge = ProseJudge(LanguageModel(find(SMOLLM2)), schemes)
    steps = (contexts + HAYSTACKS) * len(schemes)
    with progress(PROSE, steps, "stored contexts") as report:
        rows = judge.rows(context_tokens, contexts, report)
    table = prose_table(rows)
    return rows, [table.note, "", *table.to_text()]
