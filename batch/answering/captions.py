"""What a video shows in the words of its own model: a caption for each scene, from its cache alone.

The samples of a scene are moved together and described as if there were no others, so a caption
names what is in its own scene and nothing else.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from batch.answering.answerer import PrefixAnswerer
from batch.answering.evidence import end_of
from batch.answering.gathering import arrange, load
from batch.answering.opening import check_fits, open_checked
from batch.answering.samples import StoredSample, StoredVideo
from batch.kv.rotation import why_fixed
from batch.models import Family
from batch.settings import AnswerSettings
from batch.video import TimeRange
from cachefmt import CacheFile, KeyBounds
from cachefmt.layout import BOUNDS_TIER

PROMPT = "describe the scene ."
"""As the bundled model was taught it, which knows no other words; others understand it too."""
MOST_TOKENS = 48
"""Of a caption."""
SCENE_TOKENS = AnswerSettings.budget_tokens
"""Stored tokens of a scene, at most: a longer one is described in parts."""
CHANGE, TIMES_USUAL = 0.15, 2.0
"""What key bounds change at a cut, at least: this share of their width, and so many times the lower
quartile of the segment's changes.

Source: 150 drawn films of 1 to 3 scenes and 4 to 10 samples, demo model: within scenes 0.06, hardly
ever above 0.146, at cuts at least 0.156; 2 times the quartile holds for 0.90 of these. It is for
cameras that move: a real clip changes by 0.15 to 0.25 at each of 13 samples under a model with
real eyes, and would be cut there.
"""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What a video shows within a time."""

    time: TimeRange
    text: str


def describe(path: Path, family: Family) -> list[Caption]:
    """Describe the scenes of a video in order, from its cache, with the loaded model that wrote it.

    Where the model's keys cannot be moved to other positions, a segment is one scene.

    Raises:
        CacheFileError: it is no cache, or damaged.
        ModelError: another model wrote it.
    """
    with ExitStack() as opened:
        segments = open_checked(path, "auto")
        for segment in segments:
            opened.enter_context(segment)
        check_fits(segments[0], family, path)
        if why_fixed(family.config) is not None:
            return list(_of_segments(segments, family))
        return list(_of_scenes(StoredVideo(segments, family.rotation), family, path))


def _of_segments(segments: Sequence[CacheFile], family: Family) -> Iterator[Caption]:
    times_s = [segment.tables.time_s for segment in segments]
    for segment, time_s, following_s in zip_longest(segments, times_s, times_s[1:]):
        time = TimeRange(start_s=float(time_s[0]), stop_s=end_of(time_s, following_s))
        yield Caption(time=time, text=_text(PrefixAnswerer.of_cache(segment, family, time.stop_s)))


def _of_scenes(video: StoredVideo, family: Family, path: Path) -> Iterator[Caption]:
    for chosen in scenes(video):
        rows = arrange(video, chosen, family)
        answerer = PrefixAnswerer(
            load(video, rows, family), family, next_position=rows.next_position, name=str(path)
        )
        spans_s = video.spans_s(chosen)
        time = TimeRange(start_s=float(spans_s[0, 0]), stop_s=float(spans_s[-1, 1]))
        yield Caption(time=time, text=_text(answerer))


def scenes(video: StoredVideo) -> list[list[StoredSample]]:
    """The stored samples of each scene, in order of time: from the key bounds alone.

    A scene ends where the bounds change much (see `CHANGE`), between segments, and
    before it holds more than `SCENE_TOKENS`.
    """
    is_cut = np.concatenate([_cuts(index) for index in video.bounds])
    found: list[list[StoredSample]] = []
    tokens = 0
    for sample, cut, more in zip(video.stored, is_cut, video.tokens, strict=True):
        if not found or (tokens and (cut or tokens + more > SCENE_TOKENS)):
            found.append([])
            tokens = 0
        found[-1].append(sample)
        tokens += int(more)
    return found


def _cuts(index: KeyBounds) -> NDArray[np.bool_]:
    """Before which samples of a segment something else begins, the first one among them.

    A change is how far the bounds of a sample's keys are from those of the sample before, as a
    share of their width.
    """
    parts = (torch.from_numpy(part.copy()) for part in (index.codes, index.scale, index.minimum))
    bounds = BOUNDS_TIER.codec.decode(*parts).transpose(0, 2)  # [2, layers, samples, ...]
    width = (bounds[1] - bounds[0]).sum((0, 2, 3))
    moved = (bounds[:, :, 1:] - bounds[:, :, :-1]).abs().sum((0, 1, 3, 4))
    changes = moved / (width[1:] + width[:-1]).clamp(min=1e-9)
    usual = float(changes.quantile(0.25)) if len(changes) else 0.0
    is_cut = changes > max(CHANGE, TIMES_USUAL * usual)
    found: NDArray[np.bool_] = torch.cat([torch.ones(1, dtype=torch.bool), is_cut]).numpy()
    return found


def _text(answerer: PrefixAnswerer) -> str:
    (answer,) = answerer.ask_all([PROMPT], max_new_tokens=MOST_TOKENS)
    return answer.text
