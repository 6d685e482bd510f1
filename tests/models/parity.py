"""What every family is held to: transformers' own processor and forward on the same frames."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batch.answering import Answerer
from batch.models import Family, open_family
from batch.prefill import plan_cache, prefill
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
    """Run tests/models/reference.py; frames are RGB [frames, height, width, 3]."""
    job, out = folder / "job.npz", folder / "reference.npz"
    np.savez(job, frames=frames, kind=kind, fps=fps, question=QUESTION)
    subprocess.run(
        [sys.executable, "-m", "tests.models.reference", str(folder), str(job), str(out)],
        check=True,
        capture_output=True,
    )
    return Reference(**np.load(out))


def loaded(folder: Path) -> Family:
    """The family of a checkpoint with its weights, float32 on the CPU."""
    family = open_family(str(folder))
    family.load(device="cpu", dtype=torch.float32)
    return family


def pictures_of(geometry: Geometry, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames as the pictures of samples, [samples, frames * height_px, width_px, 3]."""
    fitted = np.stack([geometry.apply(frame) for frame in frames])
    return fitted.reshape(-1, *geometry.picture_shape)


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
) -> Tensor:
    """Scores of the first answer token from a cache that was written, in blocks of two samples."""
    family, path = loaded(folder), folder / "x.safetensors"
    manifest = make_manifest(pictures, geometry, tier=tier, source=source)
    work = plan_cache(
        manifest,
        family,
        dtype="float32",
        raw_dtype="F32",
        block_samples=2,
        positions="original",
        pointers="nothing",
    )
    prefill(work, family, path)
    with CacheFile.open(path) as cache:
        return Answerer(cache, family).next_token_scores(QUESTION)


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
