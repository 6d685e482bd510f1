"""What every family is held to: transformers' own processor and forward on the same frames."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.answering import PrefixAnswerer
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family, open_family
from batch.settings import CacheSettings, Reuse
from batch.video import Footage, Geometry
from cachefmt import CacheFile, Tier
from tests.manifests import make_manifest
from tests.models.cases import CASES, Case, Clip
from tests.tiny.files import loaded

ROOT = Path(__file__).parents[2]
QUESTION = "what is the red star doing ?"
PAINTED = "painted"


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


def run_references(folder: Path) -> None:
    """Write each family's checkpoint, and let transformers see its clips, in one process for all.

    FAMILY/checkpoint, FAMILY/CLIP.job.npz and FAMILY/CLIP.result.npz.
    """
    for name, case in CASES.items():
        checkpoint = case.write(folder / name / "checkpoint")
        family = open_family(str(checkpoint))
        for clip_name, clip in {**case.clips, PAINTED: _painted(family, case)}.items():
            job = {"frames": clip.frames, "fps": clip.fps, "kind": case.kind, "question": QUESTION}
            np.savez(folder / name / f"{clip_name}.job.npz", **job)
    program = [sys.executable, "-m", "tests.models.reference", folder]
    subprocess.run(program, cwd=ROOT, check=True)


def _painted(family: Family, case: Case) -> Clip:
    """A frame, and the same with every pixel of the last cell but one changed."""
    frame = next(iter(case.clips.values())).frames[0]
    geometry = family.geometry.for_video(*frame.shape[:2], 2)
    fitted = geometry.apply(frame)
    return Clip(frames=np.stack([fitted, paint_cell(fitted, geometry, geometry.cells - 2)]))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A clip as we see it, and as transformers does."""

    case: Case
    folder: Path
    frames: NDArray[np.uint8]
    fps: float
    expected: Reference

    @classmethod
    def read(cls, references: Path, family: str, clip: str) -> Self:
        """What `run_references` left."""
        job = np.load(references / family / f"{clip}.job.npz")
        return cls(
            case=CASES[family],
            folder=references / family / "checkpoint",
            frames=job["frames"],
            fps=float(job["fps"]),
            expected=Reference(**np.load(references / family / f"{clip}.result.npz")),
        )

    @cached_property
    def geometry(self) -> Geometry:
        rule = open_family(str(self.folder)).geometry
        return rule.for_video(*self.frames.shape[1:3], len(self.frames))

    @property
    def samples(self) -> int:
        return -(-len(self.frames) // self.geometry.frames)

    @property
    def pictures(self) -> NDArray[np.uint8]:
        """Pictures of the samples as phase 1 makes them."""
        return pictures_of(self.geometry, self.frames)

    @property
    def footage(self) -> Footage:
        """As analysis finds it: a lacking frame has the time of the one in its place."""
        steady = Footage.steady(self.geometry, self.samples, 1 / self.fps)
        last_s = (len(self.frames) - 1) / self.fps
        return replace(steady, last_pts_s=np.minimum(steady.last_pts_s, last_s))

    @property
    def seen(self) -> NDArray[np.float64]:
        """What the processor hands to the vision tower, as pictures of grey levels."""
        pixels = self.expected.pixels
        if self.case.cell_px is None:
            pixels = pixels.reshape(-1, *pixels.shape[-3:]).transpose(0, 2, 3, 1)
        else:
            pixels = self._patches_in_place(pixels, self.case.cell_px // 2)
        levels: NDArray[np.float64] = (pixels * self.case.deviation + self.case.mean) * 255
        return levels.round().reshape(-1, *self.geometry.picture_shape)

    def _patches_in_place(self, pixels: NDArray[np.float32], patch_px: int) -> NDArray[np.float32]:
        """Qwen's patches, four of each cell after each other, as pictures of samples."""
        grid = (-1, self.geometry.rows, self.geometry.columns)
        patches = pixels.reshape(*grid, 2, 2, 3, self.geometry.frames, patch_px, patch_px)
        return patches.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)


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


def pictures_of(geometry: Geometry, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames as the pictures of samples; the last one twice where a sample lacks one."""
    fitted = [geometry.apply(frame) for frame in frames]
    fitted += fitted[-1:] * (-len(frames) % geometry.frames)
    return np.stack(fitted).reshape(-1, *geometry.picture_shape)


def features_changed_by(
    family: Family, frame: NDArray[np.uint8], geometry: Geometry, cell: int
) -> Tensor:
    """How far painting one cell of a frame moves the features of each cell, [cells]."""
    pair = np.stack([frame, paint_cell(frame, geometry, cell)])
    with torch.inference_mode():
        one, other = family.features(pair, geometry)
    return (one - other).norm(dim=-1)


def scores(
    folder: Path,
    pictures: NDArray[np.uint8],
    geometry: Geometry,
    *,
    tier: NDArray[np.uint8] | None = None,
    source: list[int] | None = None,
    reuse: Reuse = "none",
    block_samples: int = 2,
) -> Tensor:
    """Scores of the first answer token from a cache that was written in blocks."""
    family = loaded(folder)
    manifest = make_manifest(pictures, geometry, tier=tier, source=source)
    work = plan_cache(
        manifest,
        family,
        dtype="float32",
        raw_dtype="F32",
        settings=CacheSettings(
            positions="original",
            reuse=reuse,
            block_samples=block_samples,
            quality="lossless",
        ),
    )
    with tempfile.TemporaryDirectory() as out:
        path = Path(out, "x.safetensors")
        prefill(work, family, path)
        with CacheFile.open(path) as cache:
            return PrefixAnswerer.of_cache(cache, family).next_token_scores(QUESTION)


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
