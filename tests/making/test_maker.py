"""Caches made one after the other with one model: memory, room, and runs that were cut short."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch.analysis.manifest import Manifest
from batch.answering import AnswerSettings
from batch.errors import BatchError
from batch.making.destination import Destination
from batch.making.maker import CacheMaker, MadeCache
from batch.making.plan import ROOM_FOR_ANSWER
from batch.models import open_family
from batch.settings import CacheSettings, ModelSettings
from cachefmt import open_segments
from jobs.disk_space import Allowance
from jobs.errors import NoSpaceError
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures

SHORT, LONG = 8, 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    folder = tmp_path_factory.mktemp("models") / "narrow"
    return ModelSettings(name=str(tiny.llava_next(folder, context=ROOM_FOR_ANSWER + 60)))


@pytest.fixture(scope="module")
def maker(model: ModelSettings) -> CacheMaker:
    return CacheMaker(model, CacheSettings())


def manifest(model: ModelSettings, samples: int) -> Manifest:
    geometry = geometry_of(open_family(model.name))
    return make_manifest(random_pictures(samples, geometry), geometry)


def make(
    maker: CacheMaker,
    video: Manifest,
    folder: Path,
    report: Callable[[int], object] = lambda samples: None,
    quota_left: int | None = None,
    force: bool = False,
) -> MadeCache:
    destination = Destination.named(folder, "video", force=force)
    room = Allowance(folder=folder, quota_left=quota_left)
    return maker.make(video, destination, room=room, report=report)


def out_of_memory_above(most: int) -> Callable[[int], None]:
    """As if the memory did not hold a block of more samples than these."""

    def report(samples: int) -> None:
        if samples > most:
            raise MemoryError

    return report


def block_sizes(made: MadeCache) -> set[object]:
    sizes = set()
    for file in open_segments(made.path):
        with file:
            file.verify()
            sizes.add(file.header.policy.parameters["block_samples"])
    return sizes


def test_without_memory_for_a_block_it_is_made_of_smaller_ones_and_counts_as_done(
    maker: CacheMaker, model: ModelSettings, tmp_path: Path
) -> None:
    video = manifest(model, SHORT)
    made = make(maker, video, tmp_path, out_of_memory_above(2))
    assert (made.written, block_sizes(made)) == ([0], {2})
    assert make(maker, video, tmp_path).written == []


def test_without_memory_for_a_single_sample_nothing_is_left(
    maker: CacheMaker, model: ModelSettings, tmp_path: Path
) -> None:
    with pytest.raises(MemoryError, match="a block of one sample does not fit"):
        make(maker, manifest(model, SHORT), tmp_path, out_of_memory_above(0))
    assert list(tmp_path.iterdir()) == []


def test_segments_of_two_block_sizes_are_never_mixed(
    maker: CacheMaker, model: ModelSettings, tmp_path: Path
) -> None:
    done = 0

    def report(samples: int) -> None:
        nonlocal done
        done += samples
        if done > LONG / 2 and samples > 2:
            raise MemoryError

    video = manifest(model, LONG)
    made = make(maker, video, tmp_path, report)
    segments = len(made.video.headers)
    assert segments > 1
    assert (made.written, block_sizes(made)) == ([*range(segments)], {2})


def test_a_run_that_was_cut_short_goes_on_with_the_blocks_that_the_memory_allowed(
    maker: CacheMaker, model: ModelSettings, tmp_path: Path
) -> None:
    video, done = manifest(model, LONG), 0

    def cut_short(samples: int) -> None:
        nonlocal done
        done += samples
        out_of_memory_above(2)(samples)
        if done > LONG / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(maker, video, tmp_path, cut_short)
    reported: list[int] = []
    made = make(maker, video, tmp_path, reported.append)
    assert 0 not in made.written
    assert block_sizes(made) == {2}
    assert (reported[0] > 0, sum(reported), max(reported[1:])) == (True, LONG, 2)


def test_what_has_no_room_is_not_begun(
    maker: CacheMaker, model: ModelSettings, tmp_path: Path
) -> None:
    video = manifest(model, SHORT)
    size_bytes = maker.plan(video).size_bytes
    with pytest.raises(NoSpaceError, match="--max-bytes is reached"):
        make(maker, video, tmp_path, quota_left=size_bytes - 1)
    assert list(tmp_path.iterdir()) == []
    made = make(maker, video, tmp_path, quota_left=size_bytes)
    assert made.size_bytes == made.path.stat().st_size <= size_bytes


def test_what_has_no_room_removes_nothing(
    maker: CacheMaker, model: ModelSettings, tmp_path: Path
) -> None:
    video = manifest(model, LONG)
    made = make(maker, video, tmp_path)
    before = sorted(made.path.iterdir())
    with pytest.raises(NoSpaceError):
        make(maker, video, tmp_path, quota_left=1, force=True)
    assert sorted(made.path.iterdir()) == before


@pytest.mark.parametrize("block_samples", [2, 8])
def test_blocks_of_another_size_than_asked_for_are_other_settings(
    maker: CacheMaker, model: ModelSettings, tmp_path: Path, block_samples: int
) -> None:
    video = manifest(model, SHORT)
    make(maker, video, tmp_path)
    other = CacheMaker(model, CacheSettings(block_samples=block_samples))
    with pytest.raises(BatchError, match="--force replaces it"):
        make(other, video, tmp_path)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (ModelSettings, {"dtype": "float8"}),
        (ModelSettings, {"attention": "flash"}),
        (CacheSettings, {"positions": "closed"}),
        (CacheSettings, {"reuse": "all"}),
        (CacheSettings, {"block_samples": 0}),
        (CacheSettings, {"quality": "best"}),
        (AnswerSettings, {"scope": "everything"}),
        (AnswerSettings, {"batch_size": 0}),
    ],
)
def test_settings_that_mean_nothing_are_refused_with_what_is_supported(
    settings: Any, wrong: dict[str, Any]
) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"{name}: got {value!r}, (supported are|expected) "):
        settings(**wrong)
