import numpy as np

from batch.report.tiers import INK, draw_tiers
from cachefmt.tiers import Tier


def test_each_cell_is_tinted_by_its_tier_above_a_legend_of_all():
    tiers = np.array([[0, 1], [2, 3]], np.uint8)
    drawn = draw_tiers(np.full((112, 112, 3), 128, np.uint8), tiers)
    assert drawn.shape == (700, 672, 3)
    for row, column in np.ndindex(2, 2):
        towards = drawn[168 + 336 * row, 168 + 336 * column].astype(float) - 128
        inks = {tier: np.array(INK[tier]) - 128.0 for tier in Tier}
        alike = {tier: ink @ towards / np.linalg.norm(ink) for tier, ink in inks.items()}
        assert max(alike, key=alike.__getitem__) == tiers[row, column]
    legend = drawn[672:].reshape(-1, 3)
    assert all((legend == INK[tier]).all(axis=1).any() for tier in Tier)
