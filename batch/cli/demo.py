"""`batch demo`: the whole way on drawn films, with the bundled model."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli.options import FOLDER, json_option, profile_option

if TYPE_CHECKING:
    from batch.demo.run import DemoResult


@click.command()
@click.option("--out", type=FOLDER, help="Keep manifests and caches there.")
@profile_option("Thresholds of the tiers.")
@json_option
def demo(out: Path | None, profile: str, as_json: bool) -> None:
    """Draw films, analyse and prefill them, delete them, and answer questions about them.

    The bundled model answers out of the caches, in new processes; the same questions go to the
    same model without compression.
    """
    from batch.demo.run import run_demo
    from jobs.atomic import make_folder

    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        make_folder(folder)
        result = run_demo(
            folder,
            films=3,
            samples=12,
            profile=profile,
            answer_uncompressed=_answer_uncompressed,
            log=lambda line: click.echo(f"  {line}", err=True),
        )
    click.echo(json.dumps(result.to_dict()) if as_json else "\n".join(_report(result)))


def _answer_uncompressed(film: Path, questions: Sequence[str]) -> list[str]:
    from batch.evaluation.uncompressed import uncompressed_film
    from batch.models import open_model
    from batch.settings import ModelSettings

    family = open_model(ModelSettings(device="cpu", dtype="float32")).load()
    return uncompressed_film(family, film).ask_all(questions)


def _report(result: "DemoResult") -> list[str]:
    found = result.to_dict()
    lines = [f"{'question':46} {'answer':18} truth"]
    for asked in sorted(result.answered, key=lambda asked: asked.question.kind == "caption"):
        question, truth = asked.question, asked.question.answer
        mark = "" if asked.answer == truth else "   <- wrong"
        if question.kind == "caption":
            lines += [question.text, f"    answer: {asked.answer}", f"    truth:  {truth}{mark}"]
        else:
            lines.append(f"{question.text:46} {asked.answer:18} {truth}{mark}")
    right = round(found["exact_match"] * found["questions"])
    full = round(found["exact_match_uncompressed"] * found["questions"])
    seconds = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["seconds"].items())
    return [
        *lines,
        "",
        f"right      {right} of {found['questions']} from the caches, "
        f"{full} of {found['questions']} uncompressed",
        f"samples    {found['samples']}, {found['stored_samples']} stored",
        f"slots      {found['slots']}, {sum(found['tokens'].values())} stored",
        *(
            f"  {tier:9}{tokens:>8,} tokens {found['tier_bytes'][tier]:>12,} bytes"
            for tier, tokens in found["tokens"].items()
        ),
        f"size       {found['cache_bytes']:,} bytes, {found['compression']:.2f}x smaller than the "
        f"FP16 KV of all slots ({found['fp16_kv_bytes']:,})",
        f"seconds    {seconds} (each process starts Python and torch)",
    ]
