"""What every family is held to: transformers' own processor and forward on the same frames."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.answering import Answerer
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family, open_family
from batch.settings import CacheSettings, Pointers
from batch.video import Footage, Geometry
from cachefmt import CacheFile, Tier
from tests.manifests import make_manifest

QUESTION = "what is the red star doing ?"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What transformers made of some frames and QUESTION."""

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    """[tokens, axes]"""
    logits: NDArray[np.float32]
    """[tokens, vocabulary]"""
    pixels: NDArray[np.float32]
    """As the processor gives them to the vision tower."""


def reference(
    folder: Path, frames: NDArray[np.uint8], kind: Literal["video", "image"], fps: float = 1.0
) -> Reference:
    """What transformers makes of one clip, RGB [frames, height, width, 3]."""
    return references(folder, [frames], kind, fps)[0]


def references(
    folder: Path, clips: list[NDArray[np.uint8]], kind: Literal["video", "image"], fps: float = 1.0
) -> list[Reference]:
    """Run tests/models/reference.py once on several clips; starting it takes most of its time."""
    with TemporaryDirectory(dir=folder) as jobs:
        for number, frames in enumerate(clips):
            job = Path(jobs, f"job-{number}.npz")
            np.savez(job, frames=frames, kind=kind, fps=fps, question=QUESTION)
        program = [sys.executable, "-m", "tests.models.reference"]
        subprocess.run([*program, str(folder), jobs], check=True)
        return [
            Reference(**np.load(Path(jobs, f"result-{number}.npz"))) for number in range(len(clips))
        ]


def loaded(folder: Path) -> Family:
    """The family of a checkpoint with its weights, float32 on the CPU."""
    family = open_family(str(folder))
    family.load(device="cpu", dtype=torch.float32)
    return family


def draw_clip(frames: int, height_px: int, width_px: int, *, seed: int = 3) -> NDArray[np.uint8]:
    """Frames of blurred random blots, RGB [frames, height_px, width_px, 3]; no two alike."""
    rng = np.random.default_rng(seed)
    blots = rng.integers(0, 256, (frames, 6, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(blot, (width_px, height_px)) for blot in blots])


def grey_levels(
    pixels: NDArray[np.float32], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What a processor made of frames, [frames, 3, height, width], as RGB 0..255."""
    levels: NDArray[np.float64] = (pixels.transpose(0, 2, 3, 1) * deviation + mean) * 255
    return levels.round()


def paint_cell(frame: NDArray[np.uint8], geometry: Geometry, cell: int) -> NDArray[np.uint8]:
    """A copy of a frame of the geometry's size in which every pixel of one cell is another."""
    painted = frame.copy()
    height_px, width_px = (
        covered_px // cells
        for covered_px, cells in zip(
            geometry.covered, (geometry.rows, geometry.columns), strict=True
        )
    )
    row, column = divmod(cell, geometry.columns)
    region = np.s_[row * height_px :, column * width_px :]
    painted[region][:height_px, :width_px] = 255 - painted[region][:height_px, :width_px]
    return painted


def assert_only_this_cell_differs(
    one: NDArray[np.float32], other: NDArray[np.float32], geometry: Geometry, cell: int
) -> None:
    """Two frames as the vision tower gets them, [3, height, width]; the whole cell differs."""
    differs = (one != other).any(axis=0).astype(np.float32)
    expected = np.zeros(geometry.cells, np.float32)
    expected[cell] = 1
    np.testing.assert_array_equal(geometry.cell_means(differs), expected)
    height_px, width_px = geometry.covered
    assert differs.sum() == height_px * width_px / geometry.cells


def pictures_of(geometry: Geometry, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames as the pictures of samples, [samples, frames * height_px, width_px, 3]."""
    fitted = np.stack([geometry.apply(frame) for frame in frames])
    return fitted.reshape(-1, *geometry.picture_shape)


def features_changed_by(
    family: Family, frame: NDArray[np.uint8], geometry: Geometry, cell: int
) -> Tensor:
    """How far painting one cell of a frame moves the features of each cell, [cells]."""
    pair = np.stack([frame, paint_cell(frame, geometry, cell)])
    with torch.inference_mode():
        one, other = family.features(pair, geometry)
    return (one - other).norm(dim=-1)


def assert_ids_and_positions_are(family: Family, footage: Footage, expected: Reference) -> None:
    """The cut into prefix and question changes no token and no position."""
    layout = family.layout(footage)
    asked = family.question_ids(QUESTION)
    assert [*layout.token_ids, *asked] == expected.token_ids.tolist()
    behind = np.arange(len(asked))[:, None] + np.array(layout.next_position)
    np.testing.assert_array_equal(np.vstack([layout.positions, behind]), expected.positions)


def scores(
    folder: Path,
    pictures: NDArray[np.uint8],
    geometry: Geometry,
    *,
    tier: NDArray[np.uint8] | None = None,
    source: list[int] | None = None,
    pointers: Pointers = "nothing",
    block_samples: int = 2,
) -> Tensor:
    """Scores of the first answer token from a cache that was written in blocks."""
    family, path = loaded(folder), folder / "x.safetensors"
    manifest = make_manifest(pictures, geometry, tier=tier, source=source)
    work = plan_cache(
        manifest,
        family,
        dtype="float32",
        raw_dtype="F32",
        settings=CacheSettings(
            positions="original", pointers=pointers, block_samples=block_samples
        ),
    )
    prefill(work, family, path)
    with CacheFile.open(path) as cache:
        return Answerer(cache, family).next_token_scores(QUESTION)


def assert_scores_are_transformers_own(
    folder: Path, frames: NDArray[np.uint8], geometry: Geometry, expected: Reference
) -> None:
    """With nothing pruned; and other frames score otherwise."""
    got = scores(folder, pictures_of(geometry, frames), geometry)
    own = torch.from_numpy(expected.logits[-1])
    torch.testing.assert_close(got, own, atol=1e-4, rtol=1e-4)
    others = scores(folder, pictures_of(geometry, 255 - frames), geometry)
    assert (others - own).abs().max() > 1e-2


def assert_compressed_scores_are_those_of_masked_slots(
    folder: Path, pictures: NDArray[np.uint8], geometry: Geometry, source: list[int]
) -> None:
    """With pointers, and half of the other cells pruned; which scores otherwise than all cells."""
    rng = np.random.default_rng(5)
    tier = rng.choice([Tier.FP16, Tier.PRUNE], (len(pictures), geometry.cells)).astype(np.uint8)
    got = scores(folder, pictures, geometry, tier=tier, source=source)
    expected = masked_scores(folder, pictures, geometry, tier=tier, source=source)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert (got - scores(folder, pictures, geometry)).abs().max() > 1e-2


def masked_scores(
    folder: Path,
    pictures: NDArray[np.uint8],
    geometry: Geometry,
    *,
    tier: NDArray[np.uint8],
    source: list[int],
) -> Tensor:
    """The same scores by transformers' decoder over all slots, the dropped ones masked."""
    family = loaded(folder)
    family.language_model.set_attn_implementation("sdpa")
    layout = family.layout(Footage.steady(geometry, len(pictures)))
    asked = family.question_ids(QUESTION)
    kept = np.array(source) == np.arange(len(source))
    is_cell = layout.cell >= 0
    dropped = (layout.sample >= 0) & ~kept[layout.sample]
    dropped[is_cell] |= tier[layout.sample[is_cell], layout.cell[is_cell]] == Tier.PRUNE
    with torch.inference_mode():
        ids = torch.from_numpy(np.append(layout.token_ids, asked)).long()
        embedded = family.text_embeddings(ids)
        features = family.features(pictures, geometry)
        embedded[np.flatnonzero(is_cell)] = features.flatten(0, 1)
        behind = np.arange(len(asked))[:, None] + np.array(layout.next_position)
        positions = torch.from_numpy(np.vstack([layout.positions, behind]).T).long()
        sees = torch.ones(len(ids), len(ids)).tril()
        sees[:, np.flatnonzero(dropped)] = 0
        sees.fill_diagonal_(1)  # no softmax over nothing; nobody sees a dropped row's result
        hidden = family.language_model(
            inputs_embeds=embedded[None],
            position_ids=positions if len(positions) == 1 else positions[:, None],
            attention_mask=sees.log()[None, None],
        ).last_hidden_state
        return family.logits(hidden[0, -1])
