"""What a person chooses of a model and of its caches. Knows no torch, so that all may know it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Attention = Literal["auto", "torch", "triton"]
Dtype = Literal["float32", "bfloat16", "float16"]
Reference = Literal["kept", "previous", "cells"]
"""What redundancy is measured against: the last kept sample, the one before, or of each cell the
kept sample in which it changed last."""
Saliency = Literal["classical", "neural"]
"""What tells how salient a cell is: edges and colours, or a network."""
Positions = Literal["compact", "original"]
Reuse = Literal["cells", "samples", "none"]
"""What is done with what did not change:

- "cells": a static cell with no changed one beside it is not computed; its keys and values are
  those of the cell that was last computed at its place, turned to its own position;
- "samples": a redundant sample is no part of the prompt; the cells of its source count once more;
- "none": nothing stands for a redundant sample.
"""
Unit = Literal["tokens", "bytes"]
"""What budgets are of."""
Quality = Literal["lossless", "high", "standard", "small"]
"""How much a cache file may lose against the rows that were computed."""
Leftover = Literal["old", "gone", "runs"]
"""What a folder of caches holds for nobody: works of another model or other settings than the last,
videos that no file of the archive holds any more, what killed runs left."""
Scope = Literal["auto", "whole", "retrieve", "each-segment"]
"""What of a video answers a question:

- "whole": all that is stored of it, which must be one segment;
- "retrieve": the samples of all segments that the question is about, loaded together;
- "each-segment": every segment by itself; of their answers the likeliest is the video's;
- "auto": whole, or of several segments retrieve (each-segment, where there is no index).
"""


def checkpoint_folder(name: str) -> Path | None:
    """Where a checkpoint lies on this machine; None: its name is an id on the hub."""
    if name == "demo":
        return Path(__file__).parent / "models" / "demo"
    return Path(name).resolve() if Path(name).is_dir() else None


def check_choice(what: str, got: str, choices: Any) -> None:
    """Refuse what is none of the words of a Literal.

    Raises:
        ValueError: names both.
    """
    if got not in get_args(choices):
        raise ValueError(f"{what}: got {got!r}, supported are {', '.join(get_args(choices))}")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which checkpoint, and how it runs.

    - name: "demo", a folder, or an id on the Hugging Face hub; revision: branch, tag or commit
      there; offline: use only what is on this machine.
    - device: as torch names it, or "auto" to spread the model over all there are; None: cuda if
      there is one, else cpu.
    - dtype: "float32", "bfloat16" or "float16", to compute in; None: that of quantised weights,
      else bfloat16 on a GPU or a processor with instructions for it, float32 on others.
    - attention: what attends to the tiers; "auto" is Triton's kernel on CUDA, torch elsewhere.
    """

    name: str = "demo"
    revision: str | None = None
    offline: bool = False
    device: str | None = None
    dtype: str | None = None
    attention: Attention = "auto"

    def __post_init__(self) -> None:
        check_choice("attention", self.attention, Attention)
        if self.dtype is not None:
            check_choice("dtype", self.dtype, Dtype)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A budget for every video: an amount, or a share of all there is of it."""

    unit: Unit
    amount: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if not 0 < (self.amount or self.share or 0) < math.inf:
            raise ValueError(f"limit: got {self}, expected more than 0")

    @classmethod
    def parse(cls, text: str, unit: Unit) -> "Limit":
        """Read "784" or "25%"."""
        try:
            if text.endswith("%"):
                return cls(unit=unit, share=float(text[:-1]) / 100)
            return cls(unit=unit, amount=int(text))
        except ValueError as error:
            raise ValueError(
                f"got {text!r}, expected a number like 784 or a share like 25%"
            ) from error

    def __str__(self) -> str:
        """As it is typed."""
        return f"{100 * self.share:.12g}%" if self.share else str(self.amount)

    def of(self, whole: int) -> int:
        """What it allows where there is so much of the unit."""
        return self.amount or int((self.share or 0) * whole)


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What of a manifest goes into a cache, and where it stands there.

    - positions: "original" keeps the positions of the layout of all samples; "compact" lays out
      the kept samples as if pointers had never been sampled. With reuse of cells both are the same.
    - reuse: see `Reuse`.
    - timestamps: write its time before each sample, where the model's prompt has room.
    - block_samples: stored samples prefilled together; None: what suits model and device.
    - quality: "lossless" keeps all that memory holds; the others make files many times smaller
      where the model and the video allow it, each coarser than the one before.
    - max_kl: instead of a quality, the most that answers of a file may differ from those of what
      was computed, a mean KL in nats a token, as measured while it is written.
    - budget_tokens: the most tokens of a video that enter the language model, a share is of its
      slots; where more would, cells beside those that changed are reused, too, and thresholds of
      what changed are raised, the least that will do.
    - budget_bytes_per_minute: instead of a quality, the most bytes of a file for each minute of
      video: the finest step that is within; of rows kept as computed, thresholds are raised until
      they are.
    """

    positions: Positions = "compact"
    reuse: Reuse = "samples"
    timestamps: bool = False
    block_samples: int | None = None
    quality: Quality = "standard"
    max_kl: float | None = None
    budget_tokens: Limit | None = None
    budget_bytes_per_minute: int | None = None

    def __post_init__(self) -> None:
        check_choice("quality", self.quality, Quality)
        if self.max_kl is not None and not 0 < self.max_kl < math.inf:
            raise ValueError(f"max_kl: got {self.max_kl}, expected a number above 0")
        if self.budget_tokens is not None and self.budget_tokens.unit != "tokens":
            raise ValueError(f"budget_tokens: got {self.budget_tokens.unit}, expected tokens")
        if self.budget_bytes_per_minute is not None:
            if self.budget_bytes_per_minute < 1:
                got = self.budget_bytes_per_minute
                raise ValueError(f"budget_bytes_per_minute: got {got}, expected 1 or more")
            if self.max_kl is not None:
                raise ValueError("budget_bytes_per_minute and max_kl: each decides the step")
        check_choice("positions", self.positions, Positions)
        check_choice("reuse", self.reuse, Reuse)
        if self.block_samples is not None and self.block_samples < 1:
            raise ValueError(f"block_samples: got {self.block_samples}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class WriterSettings:
    """Where the model is now that wrote caches, and how it runs; see `ModelSettings`.

    - model: folder or id; None: where it was.
    - dtype: None: the one of the caches.
    """

    model: str | None = None
    offline: bool = False
    device: str | None = None
    dtype: str | None = None
    attention: Attention = "auto"

    def of(self, *, name: str, revision: str | None, dtype: str) -> ModelSettings:
        """Of the model that caches name.

        Raises:
            ValueError: it cannot run as is said here, or there.
        """
        return ModelSettings(
            name=self.model or name,
            revision=None if self.model else revision,
            offline=self.offline,
            device=self.device,
            dtype=self.dtype or dtype,
            attention=self.attention,
        )


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """What of a video answers, and how long an answer may be.

    - budget_tokens: loaded for a question at most where samples are retrieved; of scope
      "each-segment" in each.
    - max_new_tokens: of an answer.
    - batch_size: questions answered together over one copy of the cache; retrieving answers one by
      one.
    """

    scope: Scope = "auto"
    budget_tokens: int = 4096
    max_new_tokens: int = 64
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_choice("scope", self.scope, Scope)
        for name in ("budget_tokens", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 1")
