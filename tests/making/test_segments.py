"""A long video is cut where its scenes change, into spans that each fit the context."""

from dataclasses import replace
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.analysis.manifest import Manifest
from batch.errors import ContextError
from batch.making.cache_plan import plan_cache
from batch.making.plan import ROOM_FOR_ANSWER, make_plan
from batch.making.segments import Span, cut
from batch.models import Family, open_family
from batch.video import Geometry
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.tiny.qwen import qwen2_vl

CONTEXT = ROOM_FOR_ANSWER + 60


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return open_family(str(tiny.llava_next(tmp_path_factory.mktemp("llava"), context=CONTEXT)))


def video(family: Family, source: list[int], changed: dict[int, float] | None = None) -> Manifest:
    """Samples with these sources; in those that changed, this share of the cells is new."""
    geometry = geometry_of(family)
    manifest = make_manifest(random_pictures(len(source), geometry), geometry, source=source)
    difference = np.zeros((len(source), geometry.cells), np.float32)
    for sample, share in (changed or {}).items():
        difference[sample, : round(share * geometry.cells)] = 0.5
    is_odd = (np.cumsum(manifest.kept) % 2)[:, None]  # no kept sample has the saliency of the next
    saliency = np.broadcast_to(is_odd.astype(np.float32), difference.shape)
    signals = replace(manifest.signals, difference=difference, saliency=saliency)
    return replace(manifest, signals=signals)


def cuts(manifest: Manifest, family: Family) -> list[Span]:
    return cut(manifest, family.layout, context=CONTEXT, positions="compact")


def starts(manifest: Manifest, family: Family) -> list[int]:
    return [span.segment.first_sample for span in cuts(manifest, family)]


def one_fits(manifest: Manifest, family: Family, first: int, stop: int) -> bool:
    try:
        make_plan(manifest.part(slice(first, stop)), family.layout, context=CONTEXT)
    except ContextError:
        return False
    return True


def scenes_of(manifest: Manifest, changed: dict[int, float]) -> set[int]:
    """Where scenes begin, and the video's end."""
    return {0, len(manifest.kept), *(at for at, share in changed.items() if share > 0.5)}


@st.composite
def videos(draw: st.DrawFn) -> tuple[list[int], dict[int, float]]:
    """Sources of samples, most of them kept, and what share of some kept ones is new."""
    samples = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kept = rng.random(samples) < 0.8
    kept[0] = True
    source = np.maximum.accumulate(np.where(kept, np.arange(samples), 0)).tolist()
    shares = rng.choice([0.0, 0.5, 0.75, 1.0], samples, p=[0.7, 0.1, 0.1, 0.1])
    return source, {i: float(shares[i]) for i in np.flatnonzero(kept).tolist() if i}


@settings(max_examples=25, deadline=None)
@given(videos())
def test_spans_cover_the_video_start_with_kept_samples_and_fit(
    family: Family, drawn: tuple[list[int], dict[int, float]]
) -> None:
    manifest = video(family, *drawn)
    spans = cuts(manifest, family)
    rows = [span.rows for span in spans]
    assert [row.start for row in rows] == [0, *(row.stop for row in rows[:-1])]
    assert rows[-1].stop == len(manifest.kept)
    assert [span.segment.number for span in spans] == list(range(len(spans)))
    for span in spans:
        assert span.segment.count == len(spans)
        assert manifest.kept[span.rows.start]
        assert one_fits(manifest, family, span.rows.start, span.rows.stop)
    assert cuts(manifest, family) == spans


@settings(max_examples=25, deadline=None)
@given(videos())
def test_a_segment_ends_where_a_scene_does_or_in_one_too_long_where_it_is_full(
    family: Family, drawn: tuple[list[int], dict[int, float]]
) -> None:
    manifest = video(family, *drawn)
    scenes = scenes_of(manifest, drawn[1])
    edges = [*np.flatnonzero(manifest.kept).tolist(), len(manifest.kept)]
    borders = starts(manifest, family)
    for before, border in pairwise(borders):
        first = max(scene for scene in scenes if scene < border)
        stop = min(scene for scene in scenes if scene >= border)
        if border != stop:
            assert first in borders
            assert not one_fits(manifest, family, first, stop)
            assert not one_fits(manifest, family, before, edges[edges.index(border) + 1])
    cuts_at = [*borders, edges[-1]]
    for before, following in zip(cuts_at, cuts_at[2:], strict=False):
        assert not one_fits(manifest, family, before, following)  # never two for one


@settings(max_examples=25, deadline=None)
@given(videos())
def test_of_all_such_cuts_it_has_the_fewest_segments_and_then_the_borders_of_most_change(
    family: Family, drawn: tuple[list[int], dict[int, float]]
) -> None:
    manifest, changed = video(family, *drawn), drawn[1]
    scenes = scenes_of(manifest, changed)
    edges = [*np.flatnonzero(manifest.kept).tolist(), len(manifest.kept)]
    best = {0: (0, 0.0)}
    for first in edges[:-1]:
        if first not in best:
            continue
        segments, unchanged = best[first]
        later = (edge for edge in edges if edge > first)
        in_reach = list(takewhile(partial(one_fits, manifest, family, first), later))
        for stop in sorted(scenes & set(in_reach)) or in_reach[-1:]:
            way = segments + 1, unchanged + 1 - changed.get(stop, 1.0)
            best[stop] = min(best.get(stop, way), way)
    borders = starts(manifest, family)
    unchanged = sum(1 - changed[border] for border in borders[1:])
    assert (len(borders), unchanged) == pytest.approx(best[edges[-1]])


def test_a_still_hour_is_one_segment(family: Family) -> None:
    (whole,) = cuts(video(family, [0] * 3600), family)
    assert (whole.segment.count, whole.samples) == (1, 3600)


def test_where_cells_are_reused_a_still_hour_is_cut_and_each_part_has_its_picture(
    family: Family,
) -> None:
    manifest = video(family, [0] * 200)
    spans = cut(manifest, family.layout, context=CONTEXT, positions="compact", reuse="cells")
    assert len(spans) > 1
    assert sum(span.samples for span in spans) == 200
    for span in (spans[1], spans[-1]):
        part = manifest.part(span.rows)
        plan = make_plan(part, family.layout, context=CONTEXT, reuse="cells")
        assert len(np.unique(plan.sample[plan.sample >= 0])) == span.samples
        assert set(plan.sample[plan.is_computed & (plan.cell >= 0)]) == {0}
        np.testing.assert_array_equal(part.picture(0), manifest.picture(0))


def full_segment(family: Family) -> int:
    """Samples of a segment that nothing but the context ends."""
    return cuts(video(family, list(range(30))), family)[0].samples


def test_without_a_change_of_scene_segments_are_as_long_as_fits(family: Family) -> None:
    spans = cuts(video(family, list(range(30))), family)
    lengths = [span.samples for span in spans]
    assert len(set(lengths[:-1])) == 1
    one_more = video(family, list(range(lengths[0] + 1)))
    assert len(cuts(one_more, family)) == 2


def test_of_several_changes_of_scene_the_border_is_at_that_of_most_cells(family: Family) -> None:
    source = list(range(full_segment(family) + 4))
    changed = {5: 0.75, 6: 1.0, 7: 0.75, 8: 0.3}
    assert starts(video(family, source, changed), family) == [0, 6]


def test_a_scene_that_fits_is_not_cut_though_segments_are_less_full(family: Family) -> None:
    full = full_segment(family)
    source = list(range(2 * full))
    assert starts(video(family, source), family) == [0, full]
    scenes = {full - 2: 1.0, full + 3: 1.0}
    assert starts(video(family, source, scenes), family) == [0, full - 2, full + 3]


def test_a_video_that_fits_is_one_segment_though_scenes_change(family: Family) -> None:
    full = full_segment(family)
    manifest = video(family, list(range(full)), dict.fromkeys(range(1, full), 1.0))
    assert starts(manifest, family) == [0]


def test_a_stretch_is_planned_as_if_it_were_a_video_of_its_own(family: Family) -> None:
    manifest = video(family, [*range(12), 11, 11, *range(14, 20)])
    span = cuts(manifest, family)[1]
    work = plan_cache(manifest, family, dtype="float32", span=span, identify_weights=False)
    rows = span.rows
    alone = make_manifest(
        np.stack([manifest.picture(int(s)) for s in manifest.source[rows]]),
        geometry_of(family),
        source=(manifest.source[rows] - rows.start).tolist(),
    )
    expected = make_plan(alone, family.layout, context=CONTEXT)
    for name in ("token_ids", "sample", "cell", "positions", "multiplicity"):
        np.testing.assert_array_equal(getattr(work.plan, name), getattr(expected, name))
    assert work.header.segment == span.segment
    assert work.header.shape.samples == span.samples
    assert work.header.manifest.sha256 == manifest.sha256


def test_tokens_fill_a_segment_where_a_sample_takes_fewer_positions_than_tokens(
    tmp_path: Path,
) -> None:
    family = open_family(str(qwen2_vl(tmp_path)))
    geometry = Geometry(height_px=32, width_px=32, rows=4, columns=4, frames=2)
    manifest = make_manifest(random_pictures(40, geometry), geometry)
    context = ROOM_FOR_ANSWER + 200
    spans = cut(manifest, family.layout, context=context, positions="compact")
    assert len(spans) > 1
    for span in spans:
        plan = make_plan(manifest.part(span.rows), family.layout, context=context)
        assert len(plan.sample) <= 200
        assert plan.positions.max() < 100


def test_a_model_whose_context_holds_no_sample_is_refused(tmp_path: Path) -> None:
    from batch.errors import BatchError

    narrow = open_family(str(tiny.llava_next(tmp_path, context=ROOM_FOR_ANSWER + 3)))
    manifest = video(narrow, [0, 1])
    (first, _) = cut(manifest, narrow.layout, context=narrow.decoder.context, positions="compact")
    with pytest.raises(BatchError, match="do not fit the model's context"):
        plan_cache(manifest, narrow, dtype="float32", span=first, identify_weights=False)
