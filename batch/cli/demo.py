"""`batch demo`: the whole way on drawn films, with the bundled model."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch.cli import options
from batch.cli.options import json_option, profile_option

if TYPE_CHECKING:
    from batch.demo.show import Shown

VIDEOS, SAMPLES = 3, 12


@click.command()
@click.option("--out", type=options.FOLDER, help="Keep manifests and caches there.")
@profile_option("Thresholds of the tiers.")
@json_option
def demo(out: Path | None, profile: str, as_json: bool) -> None:
    """Draw films, analyse and prefill them, delete them, and answer questions about them.

    The bundled model answers out of the caches, in new processes; the same questions go to the
    same model without compression.
    """
    from batch.demo.show import show
    from jobs.atomic import make_folder

    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        make_folder(folder)
        shown = show(
            folder,
            videos=VIDEOS,
            samples=SAMPLES,
            profile=profile,
            say=lambda line: click.echo(f"  {line}", err=True),
        )
    if as_json:
        click.echo(json.dumps(shown.to_dict()))
        return
    for line in _report(shown):
        click.echo(line)


def _report(shown: "Shown") -> list[str]:
    found = shown.to_dict()
    lines = [f"{'question':46} {'answer':18} truth"]
    for asked in sorted(shown.asked, key=lambda asked: asked.question.kind == "caption"):
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
