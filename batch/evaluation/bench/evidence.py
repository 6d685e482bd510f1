"""Whether the times named with an answer hold the moment that shows it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batch.answering import Answer, PrefixAnswerer
from batch.demo.clip import write_clip
from batch.demo.moments import Moment, moments
from batch.demo.show import HELD_OUT
from batch.demo.variants import VARIANTS
from batch.evaluation.bench.stages import load_demo, write_cache, write_manifest
from cachefmt import CacheFile

KINDS = ("plain", "long", "still-event")
"""Variants of held-out films."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """What an answer named of a video."""

    recall: float
    """Share of the moment's samples that lie in the named times, 0..1."""
    share: float
    """Of the video that is named, 0..1."""
    is_right: bool
    """Whether the answer is the truth."""


def named(reply: Answer, moment: Moment, samples: int) -> Named:
    """Compare the times of a reply with the moment, in a video of one sample a second."""
    times = np.arange(samples)
    inside = np.zeros(samples, bool)
    for time in reply.evidence:
        inside |= (time.start_s <= times) & (times < time.stop_s)
    shown = inside[moment.first_sample : moment.first_sample + moment.samples]
    return Named(
        recall=float(shown.mean()),
        share=float(inside.mean()),
        is_right=reply.text == moment.question.answer,
    )


def short_films(folder: Path, films: int) -> dict[str, list[Named]]:
    """Ask held-out films of some seconds about their moments; by variant.

    Args:
        films: of each variant.
    """
    return {kind: list(_of_variant(folder, kind, films)) for kind in KINDS}


def summary(found: Sequence[Named]) -> dict[str, float | int]:
    """Of right answers: recall, and share of the video named, both a mean; and their number.

    `touched` is the share of answers that name any of the moment.
    """
    right = [one for one in found if one.is_right]
    if not right:
        return {"right": 0, "questions": len(found)}
    return {
        "recall": float(np.mean([one.recall for one in right])),
        "touched": float(np.mean([one.recall > 0 for one in right])),
        "share_named": float(np.mean([one.share for one in right])),
        "right": len(right),
        "questions": len(found),
    }


def _of_variant(folder: Path, kind: str, films: int) -> Iterator[Named]:
    family = load_demo()
    for number in range(films):
        world = VARIANTS[kind].imagine(np.random.default_rng([HELD_OUT, number]))
        film = folder / f"{kind}-{number}.mp4"
        write_clip(world, film)
        write_manifest(film)
        asked = moments(world)
        with CacheFile.open(write_cache(film, family)) as cache:
            answerer = PrefixAnswerer.of_cache(cache, family)
            replies = answerer.ask_all(moment.question.text for moment in asked)
            for moment, reply in zip(asked, replies, strict=True):
                yield named(reply, moment, world.samples)
