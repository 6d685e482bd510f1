"""A budget of tokens: kept, used as far as thresholds allow, and never worse for being larger."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.analysis.manifest import Manifest
from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import PROFILES, assign
from batch.errors import BatchError
from batch.making.cache_plan import VideoPlan
from batch.making.maker import CacheMaker
from batch.models import OpenModel, open_model
from batch.settings import CacheSettings, Limit, ModelSettings, Reuse
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures

SAMPLES = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    folder = tiny.llava_next(tmp_path_factory.mktemp("models") / "tiny")
    return open_model(ModelSettings(name=str(folder), dtype="float32"))


def filmed(model: OpenModel, reuse: Reuse, seed: int) -> Manifest:
    """Samples that each differ from their reference, most by little."""
    geometry = geometry_of(model.family)
    manifest = make_manifest(random_pictures(SAMPLES, geometry), geometry)
    draws = np.random.default_rng(seed).exponential(0.1, (SAMPLES, geometry.cells))
    difference = draws.astype(np.float32)
    difference[0] = 0
    temporal = replace(
        TEMPORAL_PROFILES["default"], reference="cells" if reuse == "cells" else "kept"
    )
    static = temporal.static_cells(np.zeros_like(difference), difference)
    salient = np.ones_like(difference)
    signals = replace(manifest.signals, difference=difference, static=static, saliency=salient)
    thresholds = PROFILES["default"]
    header = replace(manifest.header, temporal=temporal, thresholds=thresholds)
    return replace(manifest, header=header, signals=signals, tier=assign(signals, thresholds))


def within(
    model: OpenModel, manifest: Manifest, budget: Limit | None, reuse: Reuse, **chosen: int
) -> VideoPlan:
    asked = CacheSettings(budget_tokens=budget, reuse=reuse, quality="lossless", **chosen)  # type: ignore[arg-type]  # numbers
    return CacheMaker(model, asked).plan(manifest, identify_weights=False)


@pytest.mark.parametrize("reuse", ["cells", "samples"])
@given(seed=st.integers(0, 9), shares=st.lists(st.floats(0.45, 1.0), min_size=2, max_size=2))
@settings(deadline=None, max_examples=4)
def test_a_larger_budget_never_computes_nor_stores_less(
    model: OpenModel, reuse: Reuse, seed: int, shares: list[float]
) -> None:
    manifest = filmed(model, reuse, seed)
    budgets = [Limit(unit="tokens", share=share) for share in sorted(shares)]
    small, large = (within(model, manifest, budget, reuse) for budget in budgets)
    assert small.computed <= large.computed <= budgets[1].of(large.slots)
    assert small.computed <= budgets[0].of(small.slots)
    assert small.threshold_scale >= large.threshold_scale
    if reuse == "samples":
        assert sum(small.tokens.values()) <= sum(large.tokens.values())


def test_a_video_within_its_budget_is_left_as_it_is(model: OpenModel) -> None:
    manifest = filmed(model, "cells", 1)
    free = within(model, manifest, None, "cells")
    held = within(model, manifest, Limit(unit="tokens", amount=free.computed), "cells")
    assert held.threshold_scale == 1
    assert held.computed == free.computed
    tighter = within(model, manifest, Limit(unit="tokens", amount=free.computed - 1), "cells")
    assert tighter.threshold_scale > 1
    assert tighter.slots == free.slots
    parameters = tighter.headers[0].policy.parameters
    assert parameters["budget_tokens"] == str(free.computed - 1)
    assert parameters["threshold_scale"] == tighter.threshold_scale
    assert tighter.headers[0].manifest == free.headers[0].manifest


def test_what_no_threshold_can_do_is_refused_with_the_least_there_is(model: OpenModel) -> None:
    manifest = filmed(model, "cells", 1)
    with pytest.raises(BatchError, match=r"--budget-tokens 3 allows 3\. Allow more") as refused:
        within(model, manifest, Limit(unit="tokens", amount=3), "cells")
    least = int(str(refused.value).split("changed in it, ")[1].split()[0])
    kept = within(model, manifest, Limit(unit="tokens", amount=least), "cells")
    assert kept.computed == least
    with pytest.raises(BatchError, match=f"{least} of its"):
        within(model, manifest, Limit(unit="tokens", amount=least - 1), "cells")


def test_rows_kept_as_computed_keep_a_budget_of_bytes_by_fewer_samples(model: OpenModel) -> None:
    manifest = filmed(model, "samples", 2)
    free = within(model, manifest, None, "samples")
    a_minute = int(0.8 * free.size_bytes / (manifest.header.decoded_s / 60))
    held = within(model, manifest, None, "samples", budget_bytes_per_minute=a_minute)
    assert 0.4 * free.size_bytes < held.size_bytes <= 0.8 * free.size_bytes
    with pytest.raises(BatchError, match="it would still have"):
        within(model, manifest, None, "samples", budget_bytes_per_minute=10)


def test_pictures_of_what_is_not_kept_any_more_are_left_where_they_are(
    model: OpenModel, tmp_path: Path
) -> None:
    filmed(model, "samples", 3).write(tmp_path / "x.parquet")
    manifest = Manifest.read(tmp_path / "x.parquet")
    raised = manifest.raised(16.0)
    assert raised.kept.sum() < manifest.kept.sum()
    for sample in np.flatnonzero(raised.kept):
        assert (raised.picture(sample) == manifest.picture(sample)).all()
    assert raised.sha256 == manifest.sha256
