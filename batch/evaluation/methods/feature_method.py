"""Methods that choose and merge cells by what the vision tower makes of them, before the decoder.

The author of a method ranks cells and says what a dropped one is averaged into; budgets,
separators and means are settled here.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from batch.evaluation.methods.cell_method import Budget, Prices, Ranking, best_first, fill
from batch.evaluation.methods.row_method import Kind
from cachefmt.tiers import Tier


class Order(NamedTuple):
    """What a method says of cells.

    - score: [samples, cells], the highest stays.
    - parent: int64 [samples, cells], the number (sample * cells + cell) of the cell that a dropped
      one is averaged into, or if that is dropped into its parent; -1: it is lost. None: all are.
    """

    score: Tensor
    parent: Tensor | None = None


class Kept(NamedTuple):
    """The cells that enter the decoder.

    - is_kept: bool [samples, cells]. features: float32 [samples, cells, hidden], means where
      others were averaged in. times: how often each counts, [samples, cells]; 0: it is dropped.
    """

    is_kept: Tensor
    features: Tensor
    times: Tensor


@dataclass(frozen=True, kw_only=True)
class FeatureMethod(ABC):
    """A method that sees features, as the decoder gets them, and no question.

    Departure common to all: those that look at attention inside the tower do without, because
    towers are run whole and by attention that has no weights. Positions stay those of the prompt;
    samples of which nothing stays lose their separators.

    - counts: whether a cell counts as often as others were averaged into it (multiplicity, which
      a file can hold); else once.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind] = "before"
    needs_budget: ClassVar[bool] = True
    takes_budget: ClassVar[bool] = True
    in_file: ClassVar[bool] = True
    counts: ClassVar[bool] = False

    profile: str | None = None

    @abstractmethod
    def order(self, features: Tensor) -> Order:
        """Rank cells of float32 [samples, cells, hidden]."""

    def keep(self, features: Tensor, prices: Prices, budget: Budget) -> Kept:
        """Spend the budget in order, and average what is dropped into what stays.

        Raises:
            BatchError: not even the text fits.
        """
        order = self.order(features)
        samples, cells, hidden = features.shape
        ranking = Ranking(Tier.FP16, best_first(order.score.double().numpy()))
        tier = torch.from_numpy(fill([ranking], (samples, cells), prices, budget))
        is_kept = tier != Tier.PRUNE
        goes_to = torch.arange(samples * cells)
        parent = torch.full_like(goes_to, -1) if order.parent is None else order.parent.flatten()
        goes_to = torch.where(is_kept.flatten(), goes_to, parent)
        for _ in range((samples * cells).bit_length()):  # each step doubles how far one looks
            goes_to = torch.where(goes_to < 0, -1, goes_to[goes_to])
        goes_to[~is_kept.flatten()[goes_to]] = -1  # the parents of some dropped ones are a circle
        lands = goes_to >= 0
        times = goes_to[lands].bincount(minlength=samples * cells).float()
        sums = torch.zeros(samples * cells, hidden)
        sums.index_add_(0, goes_to[lands], features.flatten(0, 1)[lands])
        mean = sums / times.clamp(min=1)[:, None]
        times = times.view(samples, cells)
        return Kept(is_kept, mean.view_as(features), times if self.counts else times.clamp(max=1))


def likeness_to_last(features: Tensor) -> Tensor:
    """Cosine of each cell with the same one of the sample before, [samples, cells]; first 0."""
    alike = functional.cosine_similarity(features[1:], features[:-1], dim=-1)
    return functional.pad(alike, (0, 0, 1, 0))


def rank_in_sample(score: Tensor) -> Tensor:
    """0 for the cell of the highest score of its sample, and so on; float32 [samples, cells]."""
    order = score.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1).float()


class Peaks(NamedTuple):
    """Of the cells of one sample: how much each is the centre of others like it, and of whom.

    - score: [cells], 0..1. parent: int64 [cells], the nearest cell of more density; its own number
      for the densest.
    """

    score: Tensor
    parent: Tensor


_NEIGHBOURS = 5


def density_peaks(features: Tensor) -> Peaks:
    """Cluster the cells [cells, hidden] of a sample.

    Source: density peaks by k nearest neighbours (DPC-KNN, Du et al. 2016), as HoliTom, FastVID
    and StreamingTOM name it; its form is from memory.
    """
    distance = torch.cdist(features, features) / features.shape[-1] ** 0.5
    nearest = distance.topk(min(_NEIGHBOURS, len(features)), largest=False).values
    density = torch.exp(-nearest.square().mean(-1))
    # Ties go by place, so that only one cell has no denser one.
    place = torch.arange(len(features))
    is_denser = density[None] > density[:, None]
    is_denser |= (density[None] == density[:, None]) & (place[None] < place[:, None])
    reach, parent = distance.masked_fill(~is_denser, torch.inf).min(-1)
    top = ~is_denser.any(-1)
    parent = torch.where(top, place, parent)
    reach = torch.where(top, distance.max(), reach)
    score = density * reach
    return Peaks(score / score.max().clamp(min=1e-12), parent)


def segments(features: Tensor, threshold: float) -> Tensor:
    """The segment of each sample, from 0 on, int64 [samples]: a new one where samples differ.

    threshold: cosine of the mean features of successive samples below which one begins.
    """
    frame = features.mean(1)
    alike = functional.cosine_similarity(frame[1:], frame[:-1], dim=-1)
    return functional.pad((alike < threshold).long().cumsum(0), (1, 0))


def first_of(segment: Tensor) -> Tensor:
    """The number of the first sample of each one's segment, int64 [samples]."""
    return torch.searchsorted(segment, segment)
