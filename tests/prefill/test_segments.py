"""A long video is cut where its scenes change, into stretches that each fit the context."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.analysis.manifest import Manifest
from batch.models import Family, open_family
from batch.prefill import Stretch, cut, make_plan, plan_cache
from batch.prefill.plan import ROOM_FOR_ANSWER
from batch.video import Geometry
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.tiny.qwen import qwen2_vl

CONTEXT = ROOM_FOR_ANSWER + 60


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return open_family(str(tiny.llava_next(tmp_path_factory.mktemp("llava"), context=CONTEXT)))


def video(family: Family, source: list[int], changed: dict[int, float] | None = None) -> Manifest:
    """Samples with these sources; in those that changed, every cell differs so much."""
    geometry = geometry_of(family)
    manifest = make_manifest(random_pictures(len(source), geometry), geometry, source=source)
    redundancy = np.ones(len(source), np.float32)
    difference = np.zeros((len(source), geometry.cells), np.float32)
    for sample, much in (changed or {}).items():
        redundancy[sample], difference[sample] = 0.0, much
    signals = replace(manifest.signals, redundancy=redundancy, difference=difference)
    return replace(manifest, signals=signals)


def cuts(manifest: Manifest, family: Family) -> list[Stretch]:
    return cut(manifest, family.layout, context=CONTEXT, positions="compact")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(0, 59))
def test_stretches_cover_the_video_start_with_kept_samples_and_fit(
    family: Family, kept: list[bool], scene: int
) -> None:
    source = [0]
    for index, keep in enumerate(kept, 1):
        source.append(index if keep else source[-1])
    manifest = video(family, source, {scene % len(source): 0.5})
    stretches = cuts(manifest, family)
    rows = [stretch.rows for stretch in stretches]
    assert [row.start for row in rows] == [0, *(row.stop for row in rows[:-1])]
    assert rows[-1].stop == len(source)
    assert [stretch.segment.number for stretch in stretches] == list(range(len(stretches)))
    for stretch in stretches:
        assert stretch.segment.count == len(stretches)
        part = manifest.part(stretch.rows)
        assert part.kept[0]
        make_plan(part, family.layout, context=CONTEXT)  # refuses what does not fit


def test_a_still_hour_is_one_segment(family: Family) -> None:
    (whole,) = cuts(video(family, [0] * 3600), family)
    assert (whole.segment.count, whole.samples) == (1, 3600)


def test_without_a_change_of_scene_segments_are_as_long_as_fits(family: Family) -> None:
    stretches = cuts(video(family, list(range(30))), family)
    lengths = [stretch.samples for stretch in stretches]
    assert len(set(lengths[:-1])) == 1
    one_more = video(family, list(range(lengths[0] + 1)))
    assert len(cuts(one_more, family)) == 2


def test_a_segment_ends_at_the_strongest_change_of_scene_in_its_second_half(
    family: Family,
) -> None:
    plain = cuts(video(family, list(range(30))), family)[0].samples
    late, early = plain - 2, 1
    changed = {early: 0.9, late - 1: 0.2, late: 0.5}
    assert cuts(video(family, list(range(30)), changed), family)[0].samples == late


def test_a_stretch_is_planned_as_if_it_were_a_video_of_its_own(family: Family) -> None:
    manifest = video(family, [*range(12), 11, 11, *range(14, 20)])
    stretch = cuts(manifest, family)[1]
    work = plan_cache(manifest, family, dtype="float32", stretch=stretch, identify_weights=False)
    rows = stretch.rows
    alone = make_manifest(
        np.stack([manifest.picture(int(s)) for s in manifest.source[rows]]),
        geometry_of(family),
        source=(manifest.source[rows] - rows.start).tolist(),
    )
    expected = make_plan(alone, family.layout, context=CONTEXT)
    for name in ("token_ids", "sample", "cell", "positions", "multiplicity"):
        np.testing.assert_array_equal(getattr(work.plan, name), getattr(expected, name))
    assert work.header.segment == stretch.segment
    assert work.header.shape.samples == stretch.samples
    assert work.header.manifest.sha256 == manifest.sha256


def test_tokens_fill_a_segment_where_a_sample_takes_fewer_positions_than_tokens(
    tmp_path: Path,
) -> None:
    family = open_family(str(qwen2_vl(tmp_path)))
    geometry = Geometry(height_px=32, width_px=32, rows=4, columns=4, frames=2)
    manifest = make_manifest(random_pictures(40, geometry), geometry)
    context = ROOM_FOR_ANSWER + 200
    stretches = cut(manifest, family.layout, context=context, positions="compact")
    assert len(stretches) > 1
    for stretch in stretches:
        plan = make_plan(manifest.part(stretch.rows), family.layout, context=context)
        assert len(plan.sample) <= 200
        assert plan.positions.max() < 100


def test_a_model_whose_context_holds_no_sample_is_refused(tmp_path: Path) -> None:
    from batch.errors import BatchError

    narrow = open_family(str(tiny.llava_next(tmp_path, context=ROOM_FOR_ANSWER + 3)))
    manifest = video(narrow, [0, 1])
    (first, _) = cut(manifest, narrow.layout, context=narrow.decoder.context, positions="compact")
    with pytest.raises(BatchError, match="do not fit the model's context"):
        plan_cache(manifest, narrow, dtype="float32", stretch=first, identify_weights=False)
