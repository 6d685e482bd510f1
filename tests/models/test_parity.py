"""Each family of the table against transformers' own processor and forward."""

from pathlib import Path

import numpy as np
import pytest
import torch

from batch.models import FAMILIES, open_family
from cachefmt import Tier
from tests.models import parity
from tests.models.cases import CASES
from tests.models.parity import PAINTED, QUESTION, Compared
from tests.shared import once

CLIPS = [(family, clip) for family in FAMILIES for clip in CASES[family].clips]
SCORED = [(family, clip) for family, clip in CLIPS if CASES[family].clips[clip].is_scored]
each_clip = pytest.mark.parametrize(("family", "clip"), CLIPS)
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "references", parity.run_references)


@each_clip
def test_tokens_and_positions_are_those_of_the_whole_conversation(
    references: Path, family: str, clip: str
) -> None:
    """The cut into prefix and question changes no token and no position."""
    compared = Compared.read(references, family, clip)
    opened, expected = open_family(str(compared.folder)), compared.expected
    layout, asked = opened.layout(compared.footage), opened.question_ids(QUESTION)
    assert [*layout.token_ids, *asked] == expected.token_ids.tolist()
    behind = np.arange(len(asked))[:, None] + np.array(layout.next_position)
    np.testing.assert_array_equal(np.vstack([layout.positions, behind]), expected.positions)


@pytest.mark.parametrize(("family", "clip"), SCORED)
def test_scores_equal_transformers_own(references: Path, family: str, clip: str) -> None:
    """With nothing pruned; and other frames score otherwise."""
    compared = Compared.read(references, family, clip)
    got = parity.scores(compared.folder, compared.pictures, compared.geometry)
    own = torch.from_numpy(compared.expected.logits[-1])
    torch.testing.assert_close(got, own, atol=1e-4, rtol=1e-4)
    others = parity.scores(compared.folder, 255 - compared.pictures, compared.geometry)
    assert (others - own).abs().max() > 1e-2


@each_family
def test_a_compressed_video_scores_as_transformers_with_the_dropped_slots_masked(
    references: Path, family: str
) -> None:
    """With pointers, and half of the other cells pruned; which scores otherwise than all cells."""
    compared = Compared.read(references, family, next(iter(CASES[family].clips)))
    shown = (compared.folder, compared.pictures, compared.geometry)
    shape = (compared.samples, compared.geometry.cells)
    tier = np.random.default_rng(5).choice([Tier.FP16, Tier.PRUNE], shape).astype(np.uint8)
    source = [0, 1, 1, 3, 3][: compared.samples]
    got = parity.scores(*shown, tier=tier, source=source)
    expected = parity.masked_scores(*shown, tier=tier, source=source)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert (got - parity.scores(*shown)).abs().max() > 1e-2


@each_clip
def test_the_picture_is_the_processors(references: Path, family: str, clip: str) -> None:
    compared = Compared.read(references, family, clip)
    levels = CASES[family].clips[clip].levels
    np.testing.assert_allclose(compared.pictures, compared.seen, atol=levels)


@each_family
def test_a_painted_cell_is_the_one_the_model_sees_changed(references: Path, family: str) -> None:
    compared = Compared.read(references, family, PAINTED)
    geometry = compared.geometry
    one, other = compared.seen.reshape(2, geometry.height_px, geometry.width_px, 3)
    differs = (one != other).any(axis=-1).astype(np.float32)
    expected = np.zeros(geometry.cells, np.float32)
    expected[-2] = 1
    np.testing.assert_array_equal(geometry.cell_means(differs), expected)
    height_px, width_px = geometry.covered
    assert differs.sum() == height_px * width_px / geometry.cells


@pytest.mark.parametrize("family", [name for name, case in CASES.items() if case.unmixed])
def test_a_painted_cell_changes_its_own_features_where_no_layer_mixes_patches(
    family: str, tmp_path: Path
) -> None:
    case = CASES[family]
    loaded = parity.loaded(case.write(tmp_path, **case.unmixed))
    frame = next(iter(case.clips.values())).frames[0]
    geometry = loaded.geometry.for_video(*frame.shape[:2], 1)
    for cell in range(geometry.cells):
        changes = parity.features_changed_by(loaded, frame, geometry, cell)
        assert torch.nonzero(changes).flatten().tolist() == [cell]
