"""`batch evaluate`: methods side by side on the same videos, questions and model."""

import importlib.util
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from click.core import ParameterSource

from batch.cli import options
from batch.cli.choices import AnalysisChoice, choose_model_settings
from batch.cli.progress import progress
from batch.errors import BatchError
from batch.settings import Limit, ModelSettings

if TYPE_CHECKING:
    from batch.evaluation.chosen_judges import Judges
    from batch.evaluation.codec_rows import CodecRow
    from batch.evaluation.methods_suite import MethodsSuite
    from batch.evaluation.reuse_suite import ReuseRow
    from batch.evaluation.tables import Table

R = TypeVar("R", bound="CodecRow | ReuseRow")

EXTRA = {
    "matplotlib": "matplotlib>=3.10,<4",
    "rouge_score": "rouge-score>=0.1.2,<0.2",
    "sacrebleu": "sacrebleu>=2.6,<3",
}
"""What is imported, and what pip calls it."""
DEMO, PROSE, SEEING = JUDGES = ("demo", "prose", "seeing")
ABLATIONS, CODEC, REUSE = "ablations", "codec", "reuse"
_FILMS = (DEMO, SEEING)
_ASKED = {"methods": (DEMO,), ABLATIONS: (DEMO,), CODEC: JUDGES, REUSE: _FILMS}
"""Suites, and the judges that they ask if none is named."""
_NEEDS_FILMS = (ABLATIONS, REUSE)
_OF_ALL = ("suites", "judges", "as_json", "context_tokens", "contexts")
_OF_APART = (*_OF_ALL, "videos", "backgrounds", "device", "dtype", "attention")
"""What the suites codec and reuse take, which are run by themselves."""
_OF_PROSE = (*_OF_ALL, "methods", "budget_tokens", "budget_bytes", "out")
"""What goes with the judge that sees no films alone."""
_OF_ONE_JUDGE = {
    **dict.fromkeys(("data", "model", "revision"), DEMO),
    **dict.fromkeys(("context_tokens", "contexts"), PROSE),
}
_VIDEOS, _VIDEOS_APART = 20, 6
METHODS = (
    *("full", "sali-cache", "klt", "uniform", "centred-keys", "low-bits", "vidkv", "bitmod"),
    *("zipcache", "think", "token-drop", "sparse-frames", "dtd", "streaming-tom", "holitom"),
    *("fastvid", "vidcom2", "curve-stream", "tome", "sliding-window", "streaming-llm"),
    *("videoscan", "keydiff", "infinipot-v", "soft-prune", "h2o", "snapkv", "scissorhands"),
    *("dapq", "prefixkv", "kvmerger", "kvzip", "razor-attention", "salient-cells", "random"),
    *("QuantizedCache", "nothing"),
)
"""Names of methods and, the last two, schemes, which import torch: a wrong one is told at once."""


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
    type=click.Choice(list(_ASKED)),
    default=["methods"],
    show_default=True,
    help="ablations: the default profile with one part changed; repeat for both. codec: what each "
    "quality of the file keeps and takes. reuse: what is computed, and what its answers keep.",
)
@click.option(
    "--judge",
    "judges",
    multiple=True,
    type=click.Choice(JUDGES),
    help="demo: the bundled model, or --model. After make judges, prose: a real language model "
    "that reads text; seeing: one that sees films of its own. Repeat for more.  [default: demo; of "
    "--suite codec all, of reuse those that see]",
)
@click.option(
    "--backgrounds",
    type=options.EXISTING_FOLDER,
    help="Draw films over the clips in this folder: those of the judge seeing, beside others; "
    "without that judge, those of demo.",
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
    """Compare methods before the same judges: a model, and questions about films or texts.

    Each method runs as it is, if it knows how much to keep, and within each budget. Prints a row
    a judge and method; seed 0 trained the demo model and 1 draws the films of batch demo.
    """
    judges = tuple(dict.fromkeys(judges)) or _ASKED[suites[0]]
    _refuse_mixed(suites, judges)
    _refuse_unknown(methods, data)
    _require_packages()
    # torch 2.13's profiler, which counts allocations, else writes its starts and stops to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    from batch.evaluation.chosen_judges import Judges

    is_apart = CODEC in suites or REUSE in suites
    asked = Judges(
        names=judges,
        model=run,
        data=(DEMO,) if is_apart else data,
        videos=videos or (_VIDEOS_APART if is_apart else _VIDEOS),
        backgrounds=backgrounds,
        context_tokens=context_tokens,
        contexts=contexts,
    )
    if CODEC in suites:
        from batch.evaluation.codec_rows import codec_table
        from batch.evaluation.codec_suite import judge_codecs

        _print(judge_codecs(asked, progress), codec_table, as_json=as_json)
    elif REUSE in suites:
        from batch.evaluation.reuse_suite import judge_reuse, reuse_table

        _print(judge_reuse(asked, progress), reuse_table, as_json=as_json)
    else:
        from batch.evaluation.methods_suite import MethodsSuite

        suite = MethodsSuite(
            suites=suites,
            methods=methods,
            limits=[*budget_tokens, *budget_bytes] or [Limit(unit="bytes", share=0.25)],
            seed=seed,
            sampling=analysis.sampling(),
            saliency=analysis.network(),
            out=out,
        )
        _compare(suite, asked, rows, as_json=as_json)


def _compare(
    suite: "MethodsSuite", judges: "Judges", rows: Sequence[Path], *, as_json: bool
) -> None:
    """Let judges answer with every method, and write down and print what came of it."""
    from batch.evaluation.comparison import Comparison, join_rows, publish
    from jobs.atomic import make_folder

    if suite.out is not None:
        make_folder(suite.out)
    with tempfile.TemporaryDirectory() as folder:
        judged = suite.ask(judges, Path(folder), progress)
        for path in rows:
            judged = join_rows(judged, path)
        found = Comparison(judged=judged)
        if suite.out is not None:
            publish(found, suite.out, shlex.join(["batch", *sys.argv[1:]]))
    for line in found.to_json() if as_json else found.to_text():
        click.echo(line)


def _require_packages() -> None:
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " ".join(f"'{EXTRA[name]}'" for name in missing)
        raise BatchError(f"batch evaluate needs {', '.join(missing)}:  pip install {wanted}")


def _print(rows: Iterable[R], to_table: Callable[[list[R]], "Table"], *, as_json: bool) -> None:
    """In JSON each row as soon as it is known, else a table."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(asdict(row)))
        return
    table = to_table(list(rows))
    for line in [table.note, "", *table.to_text()]:
        click.echo(line)


def _refuse_mixed(suites: Sequence[str], judges: Sequence[str]) -> None:
    """Suites that are run by themselves, and judges, have few options in common with others."""
    context = click.get_current_context()
    apart = [suite for suite in (CODEC, REUSE) if suite in suites]
    if apart and len(set(suites)) > 1:
        raise click.UsageError(f"--suite {apart[0]} is run by itself, it has other rows")
    for suite in suites:
        if PROSE in judges and suite in _NEEDS_FILMS:
            raise click.UsageError(
                f"--judge {PROSE} does not go with --suite {suite}: it sees no films"
            )
    for option in context.command.params:
        name = option.name or ""
        if context.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        needed = _OF_ONE_JUDGE.get(name)
        if apart and name not in _OF_APART:
            raise click.UsageError(f"{option.opts[0]} does not go with --suite {apart[0]}")
        if needed is not None and needed not in judges:
            raise click.UsageError(f"{option.opts[0]} needs --judge {needed}")
        if set(judges) == {PROSE} and name not in _OF_PROSE:
            raise click.UsageError(f"{option.opts[0]} does not go with --judge {PROSE} alone")


def _refuse_unknown(methods: tuple[str, ...], data: tuple[str, ...]) -> None:
    """Names that a look shows to be of nothing."""
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise click.UsageError(f"--method: got {unknown[0]!r}, there are {', '.join(METHODS)}")
    for name in data:
        if name.partition(":")[0] != "demo" and not Path(name).exists():
            raise click.UsageError(f"--data: {name}: no such file or folder, nor demo:VARIANT")
