"""A failure is shown with every sample and what was stored of it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from batch.evaluation.figures import draw_failure
from batch.video import Geometry
from cachefmt.tiers import Tier
from tests.manifests import make_manifest, random_pictures

GEOMETRY = Geometry(height_px=28, width_px=28, rows=2, columns=2)


@pytest.mark.parametrize(("samples", "tiles"), [(3, (1, 3)), (8, (1, 8)), (11, (2, 8))])
def test_a_sheet_has_a_tile_a_sample(tmp_path: Path, samples: int, tiles: tuple[int, int]) -> None:
    pictures = random_pictures(samples, GEOMETRY)
    draw_failure(pictures, make_manifest(pictures, GEOMETRY), tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    rows, columns = tiles
    assert sheet.shape[:2] == (rows * (18 + 112 + 112), columns * 112)


def test_what_is_not_stored_is_dark(tmp_path: Path) -> None:
    pictures = np.full((2, 28, 28, 3), 200, np.uint8)
    tiers = np.full((2, 4), Tier.FP16, np.uint8)
    tiers[0, 3] = Tier.PRUNE
    manifest = make_manifest(pictures, GEOMETRY, tier=tiers, source=[0, 0])
    draw_failure(pictures, manifest, tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    stored, pruned, pointer = sheet[140, 10], sheet[220, 100], sheet[140, 122]
    assert stored.max() > 150
    assert pruned.max() < 100
    assert pointer.max() < 100
