"""Clips joined into one long video: whether its segments begin where a clip does.

`python -m tests.end_to_end.joins FOLDER` takes all videos of a folder, in order of their names,
and prints each border with the nearest join.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np
import torch
from av.video.frame import VideoFrame

from batch.analysis.manifest import Manifest
from batch.evaluation.bench.stages import write_manifest
from batch.models import open_family
from batch.prefill import plan_video, prefill
from batch.prefill.plan import ROOM_FOR_ANSWER
from cachefmt import CacheFile

SIZE_PX, FRAMES_PER_S = 224, 4


@dataclass(frozen=True, kw_only=True)
class Border:
    """Where a segment begins, and the clips' joins that it could have begun at instead."""

    second: float
    nearest_join_s: float
    joins_in_reach: int
    """Joins in the second half of the segment before: only there a cut looks for a scene."""

    @property
    def is_at_join(self) -> bool:
        """Within a sample of it."""
        return abs(self.second - self.nearest_join_s) <= 1


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


def borders(clips: Sequence[Path], folder: Path, context: int) -> list[Border]:
    """Join clips, prefill them with the demo model, and compare.

    Args:
        context: tokens that a segment may hold, fewer than the model's so that it must be cut.
    """
    film = folder / "joined.mp4"
    joins = np.array(join(clips, film))
    write_manifest(film)
    family = open_family("demo")
    # Only prefill sees it: what a position means stays as it was.
    family.config.get_text_config(decoder=True).max_position_embeddings = context + ROOM_FOR_ANSWER
    family.load(device="cpu", dtype=torch.float32)
    video = plan_video(Manifest.read(film.with_suffix(".parquet")), family, dtype="float32")
    cache = film.with_suffix(video.suffix)
    cache.mkdir()
    starts = []
    for number in range(len(video.headers)):
        path = video.path(cache, number)
        prefill(video.segment(number), family, path)
        with CacheFile.open(path) as segment:
            starts.append(float(segment.array("sample.time_s")[0]))
    found = []
    for before, (start, stretch) in zip(
        starts, zip(starts[1:], video.stretches[:-1], strict=True), strict=False
    ):
        kept = np.flatnonzero(video.manifest.kept[stretch.rows])
        half = before + float(kept[len(kept) // 2])
        found.append(
            Border(
                second=start,
                nearest_join_s=float(joins[np.abs(joins - start).argmin()]),
                joins_in_reach=int(((joins > half) & (joins <= start + 1)).sum()),
            )
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--context", type=int, default=1024)
    words = parser.parse_args()
    clips = sorted(
        path for path in words.folder.iterdir() if path.suffix in {".mp4", ".mkv", ".webm"}
    )
    with tempfile.TemporaryDirectory() as temporary:
        found = borders(clips, Path(temporary), words.context)
    for border in found:
        click.echo(
            f"{border.second:8.1f} s  nearest join {border.nearest_join_s:8.1f} s  "
            f"{'at a join' if border.is_at_join else '-':10}{border.joins_in_reach} in reach"
        )
    at = sum(border.is_at_join for border in found)
    could = [border for border in found if border.is_at_join or border.joins_in_reach]
    click.echo(
        f"{len(clips)} clips, {len(found)} borders, {at} at a join; "
        f"{len(could)} had a join in reach"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
