"""Training batches of the demo model: pictures, packed questions, and dense labels of cells.

All questions of a video stand behind one shared prefix; a question sees the prefix and
itself. The token layout is the product's: <s> user, then 64 cells and a newline a sample.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from batch.demo.drawing import Draw, add_noise, draw
from batch.demo.questions import KINDS, Question, questions_about
from batch.demo.world import COLOURS, GROUNDS, SHAPES, Scene, World, random_world
from batch.evaluation.training.checkpoint import CELLS, PATCH_PX, SIZE_PX
from jobs.workers import usable_cores

IGNORED = -100
THINGS = ("nothing", *SHAPES, *"0123456789", "bead", "dots", "spark")
"""What a cell can show; the classes of the dense labels."""
_SIDE = SIZE_PX // PATCH_PX


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the curriculum: `steps` batches of videos of [shortest, longest] samples."""

    name: str
    steps: int = 1 << 30
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
    dots: Tensor
    """int64 [videos, samples], how many the scene has"""
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


class Prompts(Protocol):
    """By which tokens a model expects a video, a question and an answer."""

    def prefix_ids(self, samples: int) -> list[int]:
        """Token ids of the prefix of a video, behind which questions begin."""

    def question_ids(self, question: str) -> list[int]:
        """Token ids from behind the prefix to where the answer begins."""

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer and its end."""


class TrainingExamples(Dataset[Batch]):
    """Batches of videos of one length; the same stage, seed and index give the same batch."""

    def __init__(
        self,
        stage: Stage,
        seed: int,
        prompts: Prompts,
        *,
        kinds: Collection[str] = KINDS,
        drawn: Draw = draw,
    ) -> None:
        """Ask questions of some kinds about worlds as `drawn` draws them."""
        self.stage, self.seed, self.prompts = stage, seed, prompts
        self.kinds, self.drawn = kinds, drawn

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, index: int) -> Batch:
        cv2.setNumThreads(1)
        name = int.from_bytes(self.stage.name.encode()[:8], "big")
        rng = np.random.default_rng([self.seed, name, index])
        samples = int(rng.integers(self.stage.shortest, self.stage.longest + 1))
        videos = max(1, self.stage.slots // (samples * (CELLS + 1)))
        worlds = [random_world(rng, samples) for _ in range(videos)]
        seen = [[_sample(world, k, self.drawn, rng) for k in range(samples)] for world in worlds]
        asked = [
            [one for one in questions_about(world, rng) if one.kind in self.kinds]
            for world in worlds
        ]
        packed = [_pack(questions, samples, self.prompts) for questions in asked]
        of_samples = {
            part: torch.from_numpy(np.array([[one[part] for one in video] for video in seen]))
            for part in seen[0][0]
        }
        fillers = {"tokens": 0, "positions": 0, "owners": -1, "targets": IGNORED, "kinds": -1}
        of_questions = {
            part: _pad([rows[part] for rows in packed], filler) for part, filler in fillers.items()
        }
        return Batch(**of_samples, **of_questions)


def batches(examples: TrainingExamples, first: int, device: torch.device) -> Iterator[Batch]:
    """Batches from a number on, on a device, made by processes of their own meanwhile."""
    loader = DataLoader(
        examples,
        batch_size=None,
        sampler=range(first, examples.stage.steps),
        num_workers=usable_cores() if device.type == "cuda" else 1,
        prefetch_factor=4,
    )
    for batch in loader:
        yield replace(batch, **{part: it.to(device) for part, it in vars(batch).items()})


class DemoPrompts:
    """The demo model's: <s> user, then 64 cells and a newline a sample, then the question."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def prefix_ids(self, samples: int) -> list[int]:
        words = ["<s>", "user", *["<image>"] * (samples * (CELLS + 1))]
        vocabulary = self._tokenizer.get_vocab()
        return [vocabulary[word] for word in words]

    def question_ids(self, question: str) -> list[int]:
        return self._ids(f"{question} assistant")

    def answer_ids(self, answer: str) -> list[int]:
        return self._ids(f"{answer} </s>")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids


def _sample(world: World, sample: int, drawn: Draw, rng: np.random.Generator) -> dict[str, Any]:
    """One sample's share of the parts of a batch that have samples."""
    scene = world.scene_at(sample)
    large = drawn(world, sample, 2 * SIZE_PX)
    picture = cv2.resize(large, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
    picture = np.clip(picture * rng.uniform(0.92, 1.08), 0, 255).astype(np.uint8)
    picture = add_noise(picture, world.noise, rng)
    things, colours = _cell_labels(scene, sample)
    return {
        "pictures": picture,
        "things": things,
        "colours": colours,
        "grounds": GROUNDS.index(scene.ground),
        "dots": scene.dots or 0,
    }


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

    if scene.dots_place is not None:
        mark(scene.dots_place.xy, 0.1, "dots", None)
    if scene.bead_place is not None:
        mark(scene.bead_place.xy, 0.0, "bead", scene.bead_colour)
    if scene.digit_place is not None:
        mark(scene.digit_place.xy, 0.0, str(scene.digit), None)
    for thing in scene.things:
        mark(thing.xy(time_s), thing.radius, thing.shape, thing.colour)
    if scene.spark is not None and scene.spark.seen(time_s):
        mark(scene.spark.place.xy, 0.08, "spark", scene.spark.colour)
    return things.ravel(), colours.ravel()


def _pack(questions: list[Question], samples: int, prompts: Prompts) -> dict[str, list[int]]:
    """A video's share of the parts of a batch that have questions."""
    start = len(prompts.prefix_ids(samples))
    packed: dict[str, list[int]] = {
        part: [] for part in ("tokens", "positions", "owners", "targets", "kinds")
    }
    for number, question in enumerate(questions):
        asked = prompts.question_ids(question.text)
        answer = prompts.answer_ids(question.answer)
        length = len(asked) + len(answer) - 1
        packed["tokens"] += [*asked, *answer[:-1]]
        packed["targets"] += [*[IGNORED] * (len(asked) - 1), *answer]
        packed["positions"] += range(start, start + length)
        packed["owners"] += [number] * length
        packed["kinds"].append(KINDS.index(question.kind))
    return packed


def _pad(rows: list[list[int]], filler: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
