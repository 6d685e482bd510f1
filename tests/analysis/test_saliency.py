import numpy as np
import pytest

from batch.analysis.saliency import cell_saliency, saliency_map
from batch.video import Geometry
from tests import clips

SMALL = Geometry(height_px=112, width_px=112, rows=8, columns=8)
LARGE = Geometry(height_px=336, width_px=336, rows=24, columns=24)


@pytest.mark.parametrize("colour", [(120, 110, 100), (10, 10, 10), (240, 240, 240), (20, 60, 200)])
@pytest.mark.parametrize("geometry", [SMALL, LARGE], ids=["8x8", "24x24"])
def test_a_blank_wall_with_camera_noise_scores_near_zero_everywhere(geometry, colour):
    wall = clips.flat(geometry.height_px, geometry.width_px, colour)
    for sigma in (0, 2, 5):
        assert cell_saliency(clips.noisy(wall, sigma), geometry).max() < 0.002


def test_a_blank_wall_stays_blank_when_something_else_is_in_the_picture():
    wall = clips.flat(112, 112)
    wall[56:, 56:] = clips.texture(56, 56)
    saliency = cell_saliency(clips.noisy(wall, 5), SMALL).reshape(8, 8)
    assert saliency[:3, :3].max() < 0.002
    assert saliency[5:, 5:].min() > 0.3


@pytest.mark.parametrize("colour", [(215, 40, 40), (240, 220, 50), (20, 20, 20)])
def test_a_small_object_lifts_its_cell_out_of_the_pruned(colour):
    wall = clips.noisy(clips.with_square(clips.flat(112, 112), top=47, left=47, colour=colour), 3)
    saliency = cell_saliency(wall, SMALL).reshape(8, 8)
    assert saliency[3, 3] > 0.1
    assert saliency.argmax() == 3 * 8 + 3


def test_the_map_is_a_fraction_of_the_size_of_the_picture():
    extreme = np.random.default_rng(0).integers(0, 2, (48, 64, 3)).astype(np.uint8) * 255
    saliency = saliency_map(extreme)
    assert saliency.shape == (48, 64)
    assert saliency.dtype == np.float32
    assert saliency.min() >= 0
    assert 0.5 < saliency.max() <= 1
