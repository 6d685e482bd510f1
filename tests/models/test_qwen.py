"""What only the Qwen-VL families have: where and when samples stand, and budgets of pixels."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.errors import ModelError
from batch.making.cache_plan import plan_cache
from batch.models import Family, open_family
from batch.video import Footage
from tests import clips as videos
from tests.tiny.qwen import qwen2_5_vl, qwen2_vl, qwen3_vl


def steady(family: Family, samples: int = 3, interval_s: float = 1.0) -> Footage:
    """So many samples of two frames."""
    return Footage.steady(family.geometry.for_video(24, 32, 2 * samples), samples, interval_s)


def test_a_sample_that_is_left_out_leaves_no_gap(tmp_path: Path) -> None:
    family = open_family(str(qwen2_vl(tmp_path)))
    footage = steady(family)
    two = family.layout(footage.select(np.array([True, False, True])))
    np.testing.assert_array_equal(
        two.positions, family.layout(footage).positions[: len(two.positions)]
    )


def test_a_sample_keeps_its_time_when_an_earlier_one_is_left_out(tmp_path: Path) -> None:
    family = open_family(str(qwen2_5_vl(tmp_path)))
    footage = steady(family)
    two = family.layout(footage.select(np.array([True, False, True])))
    whole = family.layout(footage)
    np.testing.assert_array_equal(two.positions, whole.positions[whole.sample != 1])
    assert two.next_position == whole.next_position


def test_samples_at_fractions_of_a_second_stand_at_whole_positions(tmp_path: Path) -> None:
    family = open_family(str(qwen2_5_vl(tmp_path)))
    layout = family.layout(steady(family, 10, interval_s=1 / 3))
    times = np.unique(layout.positions[layout.cell >= 0, 0])
    assert set(np.diff(times)) == {1, 2}


def test_samples_tell_their_time_since_the_video_began_whatever_is_left_out(tmp_path: Path) -> None:
    family = open_family(str(qwen3_vl(tmp_path)))
    soon = steady(family, interval_s=0.6)
    late = replace(soon, start_s=60.0, pts_s=soon.pts_s + 60, last_pts_s=soon.last_pts_s + 60)
    for kept, times in (
        ([True, False, True], ["0.3", "2.7"]),
        ([False, True, True], ["1.5", "2.7"]),
    ):
        layout = family.layout(late.select(np.array(kept)))
        text = family.checkpoint.tokenizer.decode(layout.token_ids[layout.cell < 0])
        assert re.findall(r"<([\d.]+) seconds>", text) == times


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 14}, "patch_size is 14, supported is 4"),
        ({"do_resize": False}, "do_resize is False, supported is True"),
        ({"cap_pixels_per_frame": True}, "cap_pixels_per_frame is true"),
        ({"resample": 0}, "got resample 'nearest'"),
        ({"max_pixels": None, "size": {"shortest_edge": 56}}, "expected shortest_edge and longest"),
    ],
)
def test_a_processor_that_works_otherwise_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = qwen2_vl(tmp_path) / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        _ = open_family(str(tmp_path)).geometry


def test_analysis_and_prefill_agree_on_the_budget_of_a_long_video(tmp_path: Path) -> None:
    family = open_family(str(qwen3_vl(tmp_path / "model", most_px=8192)))
    film = videos.write_clip(
        tmp_path / "long.mp4", videos.moving(120, height_px=24, width_px=32, step_px=1), fps=10
    )
    manifest = analyze_video(
        film,
        family.geometry,
        AnalysisSettings.of_profile(),
    )
    assert manifest.geometry == family.geometry.for_video(24, 32, frames=12)
    assert manifest.geometry != family.geometry.for_video(24, 32, frames=6)
    assert plan_cache(manifest, family, dtype="float32").size_bytes > 0
