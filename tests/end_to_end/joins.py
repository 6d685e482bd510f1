"""Clips joined into one long video: whether its segments begin where a clip does.

`python -m tests.end_to_end.joins FOLDER` takes all videos of a folder, in order of their names,
and prints for each clip what is in it, for each join whether it is found as a change of scene, and
for each border where it is and how many joins it could have been at. A clip longer than a segment
has borders within, whatever the rule.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import click
import numpy as np
import torch
from av.video.frame import VideoFrame

from batch.analysis.manifest import Manifest
from batch.analysis.signals import SCENE_SHARE, changed_shares
from batch.evaluation.bench.workload import write_cache, write_manifest
from batch.making.plan import ROOM_FOR_ANSWER
from batch.making.segments import cut
from batch.models import open_family
from cachefmt import open_segments
from cachefmt.tiers import Tier

SIZE_PX, FRAMES_PER_S = 224, 4


@dataclass(frozen=True, kw_only=True)
class Border:
    """Where a segment begins, and the clips' joins that it could have begun at instead."""

    sample: int
    second: float
    is_at_join: bool
    is_at_scene: bool
    """At a change of scene, told from the signals that cut the video."""
    joins_in_reach: int
    """Joins up to which the segment before fits the context."""

    @property
    def place(self) -> str:
        """In words."""
        where = "at a change of scene" if self.is_at_scene else "within a scene"
        return "at a join" if self.is_at_join else where


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A video of clips, and its segments' borders."""

    manifest: Manifest
    firsts: list[int]
    """First sample of each clip."""
    scenes: set[int]
    """Samples at which a scene begins, told from the signals."""
    borders: list[Border]


def join(clips: Sequence[Path], out: Path) -> list[float]:
    """Write clips one after the other, in one size and rate, a frame at a time.

    Returns:
        When each clip but the first begins, s.
    """
    joins, number = [], 0
    with av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_S, options={"preset": "ultrafast"})
        stream.width = stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, FRAMES_PER_S)
        for clip in clips:
            joins.append(number / FRAMES_PER_S)
            for frame in frames_of(clip):
                picture = frame.reformat(SIZE_PX, SIZE_PX, "yuv420p")
                picture.pts, picture.time_base = number, stream.codec_context.time_base
                container.mux(stream.encode(picture))
                number += 1
        container.mux(stream.encode(None))
    return joins[1:]


def frames_of(clip: Path) -> Iterator[VideoFrame]:
    """The frame that is on screen at every 1 / FRAMES_PER_S s."""
    with av.open(str(clip)) as container:
        first_s, taken = None, 0
        for frame in container.decode(video=0):
            if frame.time is None:
                continue
            first_s = frame.time if first_s is None else first_s
            # Taken now: a frame that needs no change is written as it is, with another time.
            time_s = frame.time - first_s
            while taken / FRAMES_PER_S <= time_s:
                yield frame
                taken += 1


def measure(clips: Sequence[Path], folder: Path, context: int) -> Joined:
    """Join clips, prefill them with the demo model, and compare.

    Args:
        context: tokens that a segment may hold, fewer than the model's so that it must be cut.
    """
    film = folder / "joined.mp4"
    joins_s = join(clips, film)
    family = open_family("demo")
    manifest = write_manifest(film, family)
    # Only prefill sees it: what a position means stays as it was.
    family.config.get_text_config(decoder=True).max_position_embeddings = context + ROOM_FOR_ANSWER
    family.load(device="cpu", dtype=torch.float32)
    starts = []
    for segment in open_segments(write_cache(film, manifest, family)):
        starts.append(segment.header.segment.first_sample)
        segment.close()
    firsts = [0, *np.searchsorted(manifest.pts_s - manifest.pts_s[0], joins_s).tolist()]
    shares = changed_shares(manifest.signals)
    scenes = set(np.flatnonzero(manifest.kept)[shares > SCENE_SHARE].tolist())

    def fits(first: int, stop: int) -> bool:
        part = manifest.part(slice(first, stop))
        limit = family.decoder.context
        return len(cut(part, family.layout, context=limit, positions="compact")) == 1

    borders = [
        Border(
            sample=start,
            second=float(manifest.pts_s[start]),
            is_at_join=start in firsts,
            is_at_scene=start in scenes,
            joins_in_reach=sum(fits(before, first) for first in firsts if first > before),
        )
        for before, start in pairwise(starts)
    ]
    return Joined(manifest=manifest, firsts=firsts, scenes=scenes, borders=borders)


def say_clips(clips: Sequence[Path], found: Joined) -> None:
    """A line for each clip and for the join before it."""
    kept, tokens = found.manifest.kept, (found.manifest.tier != Tier.PRUNE).sum(axis=1)
    starts = {border.sample for border in found.borders}
    for clip, (first, stop) in zip(clips, pairwise([*found.firsts, len(kept)]), strict=True):
        samples = slice(first, stop)
        within = sum(first < scene < stop for scene in found.scenes)
        change = "-" if not first else "found" if first in found.scenes else "not found"
        click.echo(
            f"{clip.name:32}{stop - first:5} samples {kept[samples].sum():5} kept "
            f"{tokens[samples].sum():6} tokens {within:3} changes of scene within; "
            f"join: {change}{', a border' if first in starts else ''}"
        )


def say_borders(found: Joined) -> None:
    """A line for each border, and all in three."""
    for border in found.borders:
        click.echo(f"{border.second:8.1f} s  {border.place:22}{border.joins_in_reach} in reach")
    joins = set(found.firsts[1:])
    places = Counter(border.place for border in found.borders)
    near = [border for border in found.borders if border.joins_in_reach]
    kept = int(found.manifest.kept.sum())
    click.echo(
        f"{len(joins & found.scenes)} of {len(joins)} joins are found as changes of scene, "
        f"and {len(found.scenes - joins)} of {kept - 1 - len(joins)} other kept samples"
    )
    click.echo(
        f"{len(found.borders)} borders: "
        + ", ".join(f"{count} {place}" for place, count in sorted(places.items()))
    )
    click.echo(
        f"{len(found.borders) - len(near)} had no join in reach; of the other {len(near)}, "
        f"{sum(border.is_at_join for border in near)} are at one"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--context", type=int, default=1024)
    words = parser.parse_args()
    clips = sorted(
        path for path in words.folder.iterdir() if path.suffix in {".mp4", ".mkv", ".webm", ".gif"}
    )
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(clips, Path(temporary), words.context)
        say_clips(clips, found)
        say_borders(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
