"""The tables of a file: what each sample and each stored token is, packed into one frame.

Knows numpy, no torch; the rules are those of FORMAT.md.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cachefmt import columns
from cachefmt.header import Shape
from cachefmt.tiers import STORED_TIERS, Tier

_DTYPES = {
    "time_s": "<f8",
    "source": "<i4",
    "tier": "u1",
    "sample": "<i4",
    "cell": "<i4",
    "multiplicity": "<i4",
    "position": "<i4",
}
"""In the order of the file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tables:
    """Columns over samples and over tokens, which are in order of their slots.

    - time_s: float64 [samples], when each is on screen; never falling.
    - source: int32 [samples], the sample that stands for it: itself, or an earlier one.
    - tier: uint8 [tokens], codes of `Tier`.
    - sample: int32 [tokens], -1 for text outside samples.
    - cell: int32 [tokens], -1 for text.
    - multiplicity: int32 [tokens], how many equal tokens each stands for.
    - position: int32 [tokens, position_axes].
    """

    time_s: NDArray[np.float64]
    source: NDArray[np.int32]
    tier: NDArray[np.uint8]
    sample: NDArray[np.int32]
    cell: NDArray[np.int32]
    multiplicity: NDArray[np.int32]
    position: NDArray[np.int32]

    @property
    def token_count(self) -> int:
        return len(self.tier)

    @cached_property
    def stored(self) -> NDArray[np.int64]:
        """The samples that are no pointers, [stored samples]."""
        return np.flatnonzero(self.source == np.arange(len(self.source)))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Row at which each stored sample begins, and where the last one ends; [stored + 1].

        Text outside samples goes with the sample before it; rows before the first sample's are
        the text before all samples.
        """
        first = np.searchsorted(np.maximum.accumulate(self.sample), self.stored)
        return np.append(first, self.token_count)

    def rows(self, tier: Tier) -> NDArray[np.int64]:
        """The rows of a tier, rising."""
        return np.flatnonzero(self.tier == tier)

    def counts(self, rows: range) -> dict[Tier, int]:
        """How many of a range of rows each stored tier has."""
        found = np.bincount(self.tier[rows.start : rows.stop], minlength=len(STORED_TIERS))
        return {tier: int(found[tier]) for tier in STORED_TIERS}

    def blocks(self, block_samples: int, text_tokens: int = 0) -> list[range]:
        """The rows of each block of so many stored samples; there is at least one block.

        The first one begins behind `text_tokens` rows, which are not in the file.
        """
        edges = self.starts[:-1][block_samples::block_samples].tolist()
        edges = [text_tokens, *edges, self.token_count]
        return [range(start, stop) for start, stop in itertools.pairwise(edges)]

    def places(self, shape: Shape) -> NDArray[np.int64]:
        """Place of each token in its sample, [tokens]: what `klt` predicts tokens by.

        A cell's is its number; text in a sample comes after all cells, in order; -1: text outside
        samples, which is kept exactly.
        """
        places = self.cell.astype(np.int64)
        text = np.flatnonzero((self.sample >= 0) & (self.cell < 0))
        sample = self.sample[text]
        first = np.searchsorted(sample, sample)  # samples never fall
        places[text] = shape.rows * shape.columns + np.arange(len(text)) - first
        return places

    def pack(self) -> bytes:
        """The bytes of the file's tensor `tables`."""
        return self._packed

    @cached_property
    def _packed(self) -> bytes:
        return columns.pack([getattr(self, name) for name in _DTYPES])

    @classmethod
    def unpack(cls, data: bytes, shape: Shape) -> Self:
        """Read what `pack` wrote about a file of this shape; `check` is not done.

        Raises:
            ValueError: it is no frame of exactly these columns.
        """
        shapes = _shapes(shape)
        found = columns.unpack(
            data, "tables", [(np.dtype(_DTYPES[name]), shapes[name]) for name in _DTYPES]
        )
        return cls(**dict(zip(_DTYPES, found, strict=True)))

    def check(self, shape: Shape) -> None:
        """Check the rules of FORMAT.md.

        Raises:
            ValueError: names the column and the first row that breaks a rule.
        """
        self._check_sizes(shape)
        self._check_samples(shape)
        self._check_tokens(shape)
        self._check_order(shape)

    def _check_sizes(self, shape: Shape) -> None:
        for name, expected in _shapes(shape).items():
            column = getattr(self, name)
            if column.shape != expected or column.dtype != _DTYPES[name]:
                raise ValueError(
                    f"{name}: got {column.dtype} {column.shape}, "
                    f"expected {np.dtype(_DTYPES[name])} {expected}"
                )

    def _check_samples(self, shape: Shape) -> None:
        time_s, source = self.time_s, self.source
        _refuse("time_s", ~np.isfinite(time_s), "is not finite")
        _refuse("time_s", _falls(time_s), "is before the sample above it")
        index = np.arange(len(source))
        _refuse("source", (source < 0) | (source > index), "is not the sample or an earlier one")
        _refuse("source", source[source] != source, "is a pointer to a pointer")
        if len(self.stored) != shape.stored_samples:
            raise ValueError(
                f"source: {len(self.stored)} samples are no pointers, the shape says "
                f"{shape.stored_samples}"
            )

    def _check_tokens(self, shape: Shape) -> None:
        sample, cell = self.sample, self.cell
        _refuse("tier", self.tier >= len(STORED_TIERS), "is not a stored tier")
        for tier, count in self.counts(range(self.token_count)).items():
            if count != shape.tokens[tier.name]:
                raise ValueError(
                    f"tier: {count} tokens are {tier.name}, the shape says "
                    f"{shape.tokens[tier.name]}"
                )
        _refuse("sample", (sample < -1) | (sample >= shape.samples), "is not a sample")
        _refuse("cell", (cell < -1) | (cell >= shape.rows * shape.columns), "is not a cell")
        _refuse("cell", (cell >= 0) & (sample < 0), "is a cell of no sample")
        if shape.samples:
            points = self.source != np.arange(shape.samples)
            _refuse("sample", (cell >= 0) & points[sample], "is a pointer, which has no cells")
        _refuse("multiplicity", self.multiplicity < 1, "is below 1")
        _refuse("position", np.any(self.position < 0, axis=-1), "is negative")

    def _check_order(self, shape: Shape) -> None:
        """Samples in order, a sample's cells in order, positions in order."""
        in_sample, is_cell = np.flatnonzero(self.sample >= 0), np.flatnonzero(self.cell >= 0)
        _refuse("sample", _falls(self.sample[in_sample]), "is out of order", in_sample)
        # In slots' order a cell's number rises until the next sample begins.
        same_sample = np.diff(self.sample[is_cell], prepend=-1) == 0
        falls = np.diff(self.cell[is_cell], prepend=-1) <= 0
        _refuse("cell", same_sample & falls, "is out of order", is_cell)
        if shape.position_axes == 1:  # with more axes, slots may share a position
            falls = np.diff(self.position[:, 0], prepend=-1) <= 0
            _refuse("position", falls, "is out of order")


def _shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    tokens = (shape.token_count,)
    of_tokens = dict.fromkeys(("tier", "sample", "cell", "multiplicity"), tokens)
    samples = {"time_s": (shape.samples,), "source": (shape.samples,)}
    return {**samples, **of_tokens, "position": (*tokens, shape.position_axes)}


def _falls(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.diff(values, prepend=values[:1]) < 0


def _refuse(
    name: str, is_bad: NDArray[np.bool_], problem: str, rows: NDArray[np.intp] | None = None
) -> None:
    """Raise for the first bad entry; rows are the entries' rows, if not all."""
    if is_bad.any():
        entry = int(is_bad.argmax())
        row = entry if rows is None else int(rows[entry])
        raise ValueError(f"{name}, row {row}: {problem}")
