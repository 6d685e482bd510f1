"""Training batches of the demo model: pictures, packed questions, and dense labels of cells.

All questions of a video stand behind one shared prefix; a question sees the prefix and
itself. The token layout is the product's: <s> user, then 64 cells and a newline a sample.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from batch.demo.drawing import Rgb, add_noise, draw
from batch.demo.questions import KINDS, Question, questions_about
from batch.demo.world import COLOURS, GROUNDS, SHAPES, Place, Scene, World, random_world
from batch.evaluation.training.checkpoint import CELLS, PATCH_PX, SIZE_PX

IGNORED = -100
THINGS = ("nothing", *SHAPES, *"0123456789", "bead", "dots", "spark")
"""What a cell can show; the classes of the dense labels."""
_SIDE = SIZE_PX // PATCH_PX


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the curriculum: `steps` batches of videos of [shortest, longest] samples."""

    name: str
    steps: int
    shortest: int
    longest: int
    slots: int
    """Prefix slots of a batch, at most: longer videos come in smaller batches."""
    rates: tuple[float, float]
    """Learning rate at the first and at the last step."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tensors of one step; `slots` counts the prefix, `packed` the question tokens."""

    pictures: Tensor
    """uint8 [videos, samples, height, width, 3]"""
    things: Tensor
    """int64 [videos, samples, cells], index into THINGS"""
    colours: Tensor
    """int64 [videos, samples, cells], 0 is none"""
    grounds: Tensor
    """int64 [videos, samples]"""
    tokens: Tensor
    """int64 [videos, packed] question and answer tokens"""
    positions: Tensor
    """int64 [videos, packed]"""
    owners: Tensor
    """int64 [videos, packed], which question a token belongs to; -1 is padding"""
    targets: Tensor
    """int64 [videos, packed], the next token where it is part of an answer, else IGNORED"""
    kinds: Tensor
    """int64 [videos, questions], index into KINDS; -1 is padding"""


class TrainingExamples(Dataset[Batch]):
    """Batch number `index` of a stage; the same seed and index give the same batch."""

    def __init__(self, stage: Stage, seed: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.stage, self.seed, self.tokenizer = stage, seed, tokenizer

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, index: int) -> Batch:
        cv2.setNumThreads(1)
        name = int.from_bytes(self.stage.name.encode()[:8], "big")
        rng = np.random.default_rng([self.seed, name, index])
        samples = int(rng.integers(self.stage.shortest, self.stage.longest + 1))
        videos = max(1, self.stage.slots // (samples * (CELLS + 1)))
        worlds = [random_world(rng, samples) for _ in range(videos)]
        return make_batch(worlds, rng, self.tokenizer)


def make_batch(
    worlds: list[World], rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast
) -> Batch:
    """Draw worlds of equal length and pack the questions about each."""
    samples = worlds[0].samples
    seen = [[_sample(world, k, rng) for k in range(samples)] for world in worlds]
    packed = [_pack(questions_about(world, rng), samples, tokenizer) for world in worlds]
    return Batch(
        pictures=torch.from_numpy(np.array([[s[0] for s in video] for video in seen])),
        things=torch.from_numpy(np.array([[s[1] for s in video] for video in seen])),
        colours=torch.from_numpy(np.array([[s[2] for s in video] for video in seen])),
        grounds=torch.tensor([[s[3] for s in video] for video in seen]),
        tokens=_pad([p[0] for p in packed], 0),
        positions=_pad([p[1] for p in packed], 0),
        owners=_pad([p[2] for p in packed], -1),
        targets=_pad([p[3] for p in packed], IGNORED),
        kinds=_pad([p[4] for p in packed], -1),
    )


def prefix_ids(samples: int, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The product's prefix of a video: <s> user, then 64 cells and a newline a sample."""
    words = ["<s>", "user", *["<image>"] * (samples * (CELLS + 1))]
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[word] for word in words]


def _sample(
    world: World, sample: int, rng: np.random.Generator
) -> tuple[Rgb, NDArray[np.int64], NDArray[np.int64], int]:
    scene = world.scene_at(sample)
    large = draw(world, sample, 2 * SIZE_PX)
    picture = cv2.resize(large, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
    gain = rng.uniform(0.92, 1.08)
    picture = np.clip(picture * gain, 0, 255).astype(np.uint8)
    picture = add_noise(picture, world.noise, rng)
    things, colours = _cell_labels(scene, sample)
    return picture, things, colours, GROUNDS.index(scene.ground)


def _cell_labels(scene: Scene, time_s: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    things = np.zeros((_SIDE, _SIDE), np.int64)
    colours = np.zeros((_SIDE, _SIDE), np.int64)
    centres = (np.arange(_SIDE) + 0.5) / _SIDE

    def mark(xy: tuple[float, float], radius: float, thing: str, colour: str | None) -> None:
        dx, dy = np.abs(centres - xy[0]), np.abs(centres - xy[1])
        near = dy[:, None] ** 2 + dx[None] ** 2 <= radius**2
        near[min(int(xy[1] * _SIDE), _SIDE - 1), min(int(xy[0] * _SIDE), _SIDE - 1)] = True
        things[near] = THINGS.index(thing)
        colours[near] = COLOURS.index(colour) + 1 if colour else 0

    def small(place: Place | None, thing: str, colour: str | None, radius: float = 0.0) -> None:
        if place is not None:
            mark(place.xy, radius, thing, colour)

    small(scene.dots_place, "dots", None, 0.1)
    small(scene.bead_place, "bead", scene.bead_colour)
    small(scene.digit_place, str(scene.digit), None)
    for thing in scene.things:
        mark(thing.xy(time_s), thing.radius, thing.shape, thing.colour)
    if scene.spark is not None and scene.spark.seen(time_s):
        small(scene.spark.place, "spark", scene.spark.colour, 0.08)
    return things.ravel(), colours.ravel()


def _pack(
    questions: list[Question], samples: int, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    start = 2 + samples * (CELLS + 1)
    tokens: list[int] = []
    positions: list[int] = []
    owners: list[int] = []
    targets: list[int] = []
    for number, question in enumerate(questions):
        asked = tokenizer(f"{question.text} assistant", add_special_tokens=False).input_ids
        answer = tokenizer(f"{question.answer} </s>", add_special_tokens=False).input_ids
        tokens += [*asked, *answer[:-1]]
        targets += [*[IGNORED] * (len(asked) - 1), *answer]
        length = len(asked) + len(answer) - 1
        positions += range(start, start + length)
        owners += [number] * length
    return tokens, positions, owners, targets, [KINDS.index(q.kind) for q in questions]


def _pad(rows: list[list[int]], filler: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
