"""Examine a model on held-out films: `python -m batch.demo.exam`.

Films are written as H.264 and read back through the product's decoder. The same questions go
to the model without compression, by transformers' own forward, and to caches of each profile.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import torch

from batch.analysis.analyze import analyze_video
from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import PROFILES
from batch.answering import Answerer
from batch.cli.progress import progress
from batch.demo.clip import write_clip
from batch.demo.questions import KINDS, Question, ask
from batch.demo.world import imagine
from batch.evaluation.uncompressed import Uncompressed
from batch.models import Family, open_family
from batch.prefill import Positions, plan_cache, prefill
from batch.video import Sampling
from cachefmt import CacheFile

UNCOMPRESSED = "uncompressed"


@dataclass
class Paper:
    """The answers of one way to answer, to all films."""

    right: dict[str, list[bool]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    agrees: list[bool] = field(default_factory=list)
    """Whether an answer is the uncompressed model's."""
    size_bytes: int = 0
    full_bytes: int = 0
    """FP16 K and V of all slots."""
    tokens: dict[str, int] = field(default_factory=dict)
    slots: int = 0

    def mark(self, questions: list[Question], answers: list[str], yardstick: list[str]) -> None:
        for question, answer, other in zip(questions, answers, yardstick, strict=True):
            self.right[question.kind].append(answer == question.answer)
            self.agrees.append(answer == other)

    def to_dict(self) -> dict[str, object]:
        everything = [right for kind in KINDS for right in self.right[kind]]
        return {
            "questions": len(everything),
            "exact_match": _share(everything),
            "by_kind": {kind: _share(self.right[kind]) for kind in KINDS},
            "agreement": _share(self.agrees),
            "compression": self.full_bytes / self.size_bytes if self.size_bytes else 1.0,
            "tiers": {tier: count / self.slots for tier, count in self.tokens.items()},
        }


def examine(
    name: str,
    profiles: tuple[str, ...],
    videos: int,
    samples: tuple[int, int],
    seed: int,
    positions: Positions,
    folder: Path,
    tell: Callable[[int], object] = lambda films: None,
) -> dict[str, Paper]:
    """The answers of the model without compression and with each profile, by way to answer."""
    family, plain = open_family(name), open_family(name)
    for loaded in (family, plain):
        loaded.load(device="cpu", dtype=torch.float32)
    papers = {way: Paper() for way in (UNCOMPRESSED, *profiles)}
    for number in range(videos):
        rng = np.random.default_rng([seed, number])
        world = imagine(rng, int(rng.integers(samples[0], samples[1] + 1)))
        questions = ask(world, rng)
        film = folder / "film.mp4"
        write_clip(world, film)
        texts = [question.text for question in questions]
        yardstick = _ask_uncompressed(plain, film, texts)
        papers[UNCOMPRESSED].mark(questions, yardstick, yardstick)
        for profile in profiles:
            answers = _ask_cache(family, film, profile, positions, texts, papers[profile])
            papers[profile].mark(questions, answers, yardstick)
        tell(1)
    return papers


def _ask_uncompressed(family: Family, film: Path, texts: list[str]) -> list[str]:
    every = analyze_video(
        film,
        geometry=family.geometry,
        sampling=Sampling(),
        temporal=TEMPORAL_PROFILES["none"],
        thresholds=PROFILES["none"],
    )
    pictures = np.stack([every.picture(sample) for sample in range(len(every.frame))])
    return Uncompressed(family, pictures, every.footage).ask(texts)


def _ask_cache(
    family: Family,
    film: Path,
    profile: str,
    positions: Positions,
    texts: list[str],
    paper: Paper,
) -> list[str]:
    manifest = analyze_video(
        film,
        geometry=family.geometry,
        sampling=Sampling(),
        temporal=TEMPORAL_PROFILES[profile],
        thresholds=PROFILES[profile],
    )
    work = plan_cache(manifest, family, dtype="float32", positions=positions)
    path = film.with_suffix(".safetensors")
    prefill(work, family, path)
    shape = work.header.shape
    paper.size_bytes += work.size_bytes
    paper.full_bytes += 4 * work.plan.slots * shape.layers * shape.heads * shape.head_dim
    paper.slots += work.plan.slots
    for tier, count in shape.tokens.items():
        paper.tokens[tier] = paper.tokens.get(tier, 0) + count
    with Answerer(CacheFile.open(path), family) as answerer:
        return [reply.answer for reply in answerer.ask(texts)]


def _share(right: list[bool]) -> float:
    return sum(right) / len(right) if right else float("nan")


@click.command()
@click.option("--model", default="demo", show_default=True)
@click.option("--profile", "profiles", multiple=True, type=click.Choice(list(PROFILES)))
@click.option("--videos", default=40, show_default=True, type=click.IntRange(1))
@click.option("--samples", nargs=2, type=click.IntRange(1), default=(4, 16), show_default=True)
@click.option("--seed", default=2, show_default=True, help="Training used 0, the demo 1.")
@click.option("--positions", type=click.Choice(["compact", "original"]), default="compact")
@click.option("--json", "as_json", is_flag=True)
def main(
    model: str,
    profiles: tuple[str, ...],
    videos: int,
    samples: tuple[int, int],
    seed: int,
    positions: Positions,
    as_json: bool,
) -> None:
    """Ask a model about held-out films, with and without compression."""
    chosen = profiles or tuple(PROFILES)
    with tempfile.TemporaryDirectory() as folder, progress("exam", videos, "films") as tell:
        papers = examine(model, chosen, videos, samples, seed, positions, Path(folder), tell)
    found = {way: paper.to_dict() for way, paper in papers.items()}
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'':13}" + "".join(f"{way:>14}" for way in found))
    for kind in KINDS:
        shares = "".join(f"{_share(paper.right[kind]):14.3f}" for paper in papers.values())
        click.echo(f"{kind:8}{len(papers[UNCOMPRESSED].right[kind]):5}{shares}")
    for figure in ("exact_match", "agreement", "compression"):
        click.echo(f"{figure:13}" + "".join(f"{one[figure]:14.3f}" for one in found.values()))


if __name__ == "__main__":
    main()
