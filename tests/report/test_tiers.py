import numpy as np

from batch.report.tiers import INK, STATES, legend, tint


def test_each_cell_is_tinted_by_its_tier_or_as_reused_and_the_legend_has_all():
    states = np.array([[0, 1, 2], [3, 4, 4]], np.uint8)
    drawn = tint(np.full((112, 168, 3), 128, np.uint8), states, 672)
    assert drawn.shape == (448, 672, 3)
    for row, column in np.ndindex(2, 3):
        towards = drawn[112 + 224 * row, 112 + 224 * column].astype(float) - 128
        inks = {state: np.array(INK[state]) - 128.0 for state in STATES}
        alike = {state: ink @ towards / np.linalg.norm(ink) for state, ink in inks.items()}
        assert max(alike, key=alike.__getitem__) == states[row, column]
    key = legend(states).reshape(-1, 3)
    assert all((key == INK[state]).all(axis=1).any() for state in STATES)
