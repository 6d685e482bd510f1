"""Judges "demo" and "seeing" of `--suite codec`: real files of films, written, read and asked."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import PROFILES
from batch.answering import PrefixAnswerer
from batch.evaluation.codec_rows import CodecRow, Loads, Setup, film_rows
from batch.evaluation.data import QuestionSet, demo_set
from batch.evaluation.judges.seeing_films import judge_sets
from batch.evaluation.measuring import timed
from batch.evaluation.runs import Run, prepared, run_video
from batch.evaluation.storing import PreparedVideo, Stored
from batch.evaluation.worlds.variants import VARIANTS
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family
from batch.models.checkpoint import dtype_name
from batch.settings import CacheSettings
from batch.video import Sampling
from cachefmt import CacheFile

SEEDS = (21, 22)
"""Of the films that are judged."""
VIDEOS = 6
"""Of a variant and seed: 108 films of the demo world."""
ROWS = ("none", "default")
"""Profiles: every slot, and what is stored by default."""


def film_setups(qualities: Iterable[str]) -> list[Setup]:
    """As it is, and every quality with either basis; of every slot and of what is stored anyway."""
    encoded = [(quality, calibrated) for calibrated in (False, True) for quality in qualities]
    return [
        Setup(quality=quality, calibrated=calibrated, rows=rows)
        for rows in ROWS
        for quality, calibrated in [("lossless", False), *encoded]
    ]


def demo_sets(folder: Path, videos: int) -> list[QuestionSet]:
    """Films of every variant of the demo world."""
    return [
        demo_set(variant, folder, videos=videos, seed=seed)
        for seed in SEEDS
        for variant in VARIANTS
    ]


def seeing_sets(
    judge: Path, folder: Path, videos: int, backgrounds: Path | None
) -> list[QuestionSet]:
    """Films that the judge has not seen; as of `judge_sets`."""
    return [one for seed in SEEDS for one in judge_sets(judge, folder, videos, seed, backgrounds)]


def judge_films(
    judge: str,
    family: Family,
    sets: Sequence[QuestionSet],
    setups: Sequence[Setup],
    *,
    folder: Path,
    report: Callable[[int], object],
) -> list[CodecRow]:
    """A row a setup.

    Args:
        family: a loaded model.
        folder: for the one cache file that exists at a time.
        report: called with 1 after each film.
    """
    loads = {setup: Loads() for setup in setups}
    runs: list[Run] = []
    for data, video, questions, _ in prepared(family, sets, Sampling()):
        makers = {
            setup.label: partial(_store, setup, video, folder / "judged.safetensors", found)
            for setup, found in loads.items()
        }
        runs += run_video(data, video, questions, makers)
        report(1)
    return film_rows(judge, runs, loads)


def _store(setup: Setup, video: PreparedVideo, path: Path, loads: Loads) -> Stored:
    """Write a film's cache as `batch prefill` does, and read it back."""
    manifest = video.manifest(TEMPORAL_PROFILES[setup.rows], PROFILES[setup.rows])
    family = video.family
    plan = plan_cache(manifest, family, CacheSettings(), dtype=dtype_name(family.model.dtype))
    prefill(plan, family, path)
    with closing(CacheFile.open(path)) as cache:
        shape = cache.header.shape
        seconds, prefix = timed(partial(Prefix.load, cache, family.layer_devices))
        loads.seconds.append(seconds)
        loads.row_bytes.append(4 * shape.token_count * shape.layers * shape.heads * shape.head_dim)
    return Stored(
        answerer=PrefixAnswerer(
            prefix, family, next_position=plan.plan.next_position, name=video.path.name
        ),
        size_bytes=path.stat().st_size,
        kv_bytes=prefix.size_bytes,
        tokens=dict(shape.tokens),
        seconds=video.seconds(),
    )
