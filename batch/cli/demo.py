"""`batch demo`: the whole way on drawn films, with the bundled model."""

import json
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli.options import FOLDER, json_option, profile_option
from batch.cli.progress import quiet_option, say

if TYPE_CHECKING:
    from batch.demo.run import DemoResult
    from batch.models import Family

FILMS, SAMPLES = 3, 12


@click.command()
@click.option(
    "--out", type=FOLDER, help="Keep manifests, caches and the page there; default: the page alone."
)
@profile_option("Thresholds of the tiers.")
@json_option
@quiet_option
def demo(out: Path | None, profile: str, as_json: bool) -> None:
    """Draw films, analyse and prefill them, delete them, and answer questions about them.

    The bundled model answers out of the caches, in new processes; the same questions go to the
    same model without compression. A page with the films' frames and all answers is written, whose
    path is printed.
    """
    from batch.demo.run import run_demo
    from jobs.atomic import check_folder, make_folder, write_errors

    page = (out or Path(tempfile.gettempdir())) / "sali-cache-demo.html"
    check_folder(page.parent)
    say(
        f"{FILMS} films of {SAMPLES} seconds: drawn, analysed, written as caches, deleted, asked. "
        "A minute or two; each command below is one that you can type."
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        make_folder(folder)
        result = run_demo(
            folder,
            films=FILMS,
            samples=SAMPLES,
            profile=profile,
            answer_uncompressed=_answer_uncompressed,
            answer_twice=_answer_twice,
            log=lambda line: say(f"  {line}"),
        )
        with write_errors(page):
            page.write_text(_page(result, folder), encoding="utf-8")
    if as_json:
        click.echo(json.dumps({**result.to_dict(), "page": str(page)}))
    else:
        click.echo("\n".join([*_report(result), f"page       {page}"]))


@cache
def _family() -> "Family":
    from batch.models import open_model
    from batch.settings import ModelSettings

    return open_model(ModelSettings(name="demo", device="cpu", dtype="float32")).load()


def _answer_uncompressed(film: Path, questions: Sequence[str]) -> list[str]:
    from batch.evaluation.uncompressed import uncompressed_film

    return uncompressed_film(_family(), film).ask_all(questions)


def _answer_twice(cache: Path, question: str) -> tuple[float, float]:
    from batch.answering import open_cache

    started_s = time.perf_counter()
    with open_cache(cache, model=_family()) as video:
        video.ask(question)
        first_s = time.perf_counter() - started_s
        video.ask(question)
        return first_s, time.perf_counter() - started_s - first_s


def _report(result: "DemoResult") -> list[str]:
    found = result.to_dict()
    lines = [f"{'question':46} {'answer':18} truth"]
    answered = [one for film in result.answered for one in film]
    for asked in sorted(answered, key=lambda asked: asked.question.kind == "caption"):
        question, truth = asked.question, asked.question.answer
        mark = f"   <- {asked.remark}" if asked.remark else ""
        if question.kind == "caption":
            lines += [question.text, f"    answer: {asked.answer}", f"    truth:  {truth}{mark}"]
        else:
            lines.append(f"{question.text:46} {asked.answer:18} {truth}{mark}")
    right = round(found["exact_match"] * found["questions"])
    full = round(found["exact_match_uncompressed"] * found["questions"])
    seconds = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["seconds"].items())
    speed = result.speed
    return [
        *lines,
        "",
        f"right      {right} of {found['questions']} from the caches, "
        f"{full} of {found['questions']} uncompressed",
        *(
            [f"           {found['other_order']} more name the same things in another order"]
            if found["other_order"]
            else []
        ),
        f"samples    {found['samples']}, {found['stored_samples']} stored",
        f"slots      {found['slots']}, {sum(found['tokens'].values())} stored",
        *(f"  {kind:9}{size:>12,} bytes" for kind, size in found["bytes"].items() if size),
        f"size       {found['cache_bytes']:,} bytes, {found['compression']:.2f}x smaller than the "
        f"FP16 KV of all slots ({found['fp16_kv_bytes']:,})",
        f"           the films themselves had {found['video_bytes']:,}",
        f"question   {speed.video:.2f} s from the video, {speed.first:.2f} s from its cache, "
        f"{speed.second:.2f} s the second time",
        f"seconds    {seconds} (each process starts Python and torch)",
    ]


def _page(result: "DemoResult", folder: Path) -> str:
    from batch.report.pages import AnsweredVideo, ShownAnswer, answers_page
    from batch.report.videos import VideoReport

    films = [
        AnsweredVideo(
            video=VideoReport.read(folder / f"film{number}.safetensors"),
            answers=[
                ShownAnswer(
                    question=asked.question.text,
                    text=asked.answer,
                    evidence=asked.evidence,
                    truth=asked.question.answer,
                    remark=asked.remark,
                )
                for asked in answered
            ],
        )
        for number, answered in enumerate(result.answered)
    ]
    introduction = (
        "The films were drawn, written as caches and deleted; then the bundled model answered "
        "these questions from the caches alone."
    )
    return answers_page(films, title="What the demo saw and said", introduction=introduction)
