"""Qwen3-VL against transformers' own video processor and forward."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.making.cache_plan import plan_cache
from batch.models import open_family
from batch.video import Footage
from tests import clips as videos
from tests.models import parity, qwen
from tests.tiny import qwen as tiny

CLIPS = {**qwen.CLIPS, "long": parity.draw_clip(12, 24, 32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.qwen3_vl(tmp_path_factory.mktemp("qwen"), most_px=8192)


@pytest.fixture(scope="module")
def clips(folder: Path) -> dict[str, qwen.Clip]:
    return qwen.run(folder, {**CLIPS, "painted": qwen.painted(open_family(str(folder)))})


@pytest.mark.parametrize("name", CLIPS)
def test_tokens_and_positions_are_those_of_the_whole_conversation(
    folder: Path, clips: dict[str, qwen.Clip], name: str
) -> None:
    family, clip = open_family(str(folder)), clips[name]
    parity.assert_ids_and_positions_are(family, clip.footage(), clip.expected)


def test_scores_equal_transformers_own(folder: Path, clips: dict[str, qwen.Clip]) -> None:
    clip = clips["even"]
    parity.assert_scores_are_transformers_own(folder, clip.merged, clip.geometry, clip.expected)


def test_a_compressed_video_scores_as_transformers_with_the_dropped_slots_masked(
    folder: Path, clips: dict[str, qwen.Clip]
) -> None:
    clip = clips["even"]
    parity.assert_compressed_scores_are_those_of_masked_slots(
        folder, clip.pictures, clip.geometry, source=[0, 1, 1]
    )


@pytest.mark.parametrize(("name", "levels"), [("odd", 0), ("large", 2), ("long", 2)])
def test_the_picture_is_the_video_processors(
    clips: dict[str, qwen.Clip], name: str, levels: int
) -> None:
    np.testing.assert_allclose(clips[name].pictures, clips[name].seen, atol=levels)


def test_a_painted_cell_is_the_one_the_model_sees_changed(clips: dict[str, qwen.Clip]) -> None:
    changed = clips["painted"].changed()
    assert changed.tolist() == [float(cell == qwen.PAINTED) for cell in range(len(changed))]


def test_samples_tell_their_time_since_the_video_began_whatever_is_left_out(
    folder: Path, clips: dict[str, qwen.Clip]
) -> None:
    family = open_family(str(folder))
    steady = Footage.steady(clips["even"].geometry, 3, interval_s=0.6)
    late = replace(steady, start_s=60.0, pts_s=steady.pts_s + 60, last_pts_s=steady.last_pts_s + 60)
    for kept, times in (
        ([True, False, True], ["0.3", "2.7"]),
        ([False, True, True], ["1.5", "2.7"]),
    ):
        layout = family.layout(late.select(np.array(kept)))
        text = family.checkpoint.tokenizer.decode(layout.token_ids[layout.cell < 0])
        assert re.findall(r"<([\d.]+) seconds>", text) == times


def test_analysis_and_prefill_agree_on_the_budget_of_a_long_video(
    folder: Path, tmp_path: Path
) -> None:
    family = open_family(str(folder))
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
