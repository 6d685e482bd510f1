"""Rows of cells that did not change, which never enter the language model.

In each layer a reused cell gets the key and the value of its source: the cell at the same place of
an earlier sample that was computed last, the key turned from the source's position to its own. What
such a row knows of the video is what its source knew: all that came before the source.

The way of such a row. The plan says of which token it is made (`Plan.origin`). Of a block only the
other tokens are embedded and enter the model. As each layer makes their keys and values, and before
it attends, `TieredCache.update` lets `ReusedRows.complete` put the reused rows between them, in the
order of slots: so every token sees all that stand before it, reused or not, whether they are of its
own block or of an earlier one, and blocks of any size come out the same. From there on, for tiers
and files, rows are rows. For sources in earlier blocks, `Sources` keeps what was computed last of
each place as it was computed, before any tier: rows of one sample, however long the video.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from batch.kv.rotation import Rotation, rotate

if TYPE_CHECKING:
    from transformers import Cache

Rows = tuple[Tensor, Tensor]
"""Keys, turned to their positions, and values: [kv_heads, rows, head_dim] each."""


class Sources:
    """Exact rows of the cell that was computed last at each place, layer by layer."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._layers: list[Rows] = []

    @property
    def layers(self) -> list[Rows]:
        """Of each layer a row a place; none before the first `keep`."""
        return self._layers

    def keep(self, suffixes: Sequence[Rows], place: Tensor, row: Tensor) -> None:
        """Take rows, int64 [n], of a block for places int64 [n], which differ.

        Args:
            suffixes: of each layer the rows of the block, [1, kv_heads, rows, head_dim] each.
        """
        if not self._layers:
            for key, _ in suffixes:
                heads, _, head_dim = key.shape[1:]
                room = key.new_zeros(2, heads, self.places, head_dim)
                self._layers.append((room[0], room[1]))
        for held, suffix in zip(self._layers, suffixes, strict=True):
            for rows, new in zip(held, suffix, strict=True):
                at = row.to(new.device)
                rows.index_copy_(1, place.to(rows.device), new[0].index_select(1, at))


class _Ways(NamedTuple):
    """Where the rows of a block come from, on one device."""

    computed: Tensor
    reused: Tensor
    origin: Tensor
    rotation: Rotation
    hidden: Tensor


@dataclass(frozen=True, kw_only=True)
class ReusedRows:
    """The rows of a block of which some are made of others.

    - computed, reused: int64, the rows of the block that are of either kind; rising.
    - origin: int64 [reused], of what each is made: a place of `sources`, or behind all places the
      number of one of the computed rows.
    - rotation: from the position of each origin to that of the reused row; [reused, ...].
    """

    sources: Sources
    computed: Tensor
    reused: Tensor
    origin: Tensor
    rotation: Rotation
    _ways: dict[torch.device, _Ways] = field(default_factory=dict)

    def complete(self, layer: int, key: Tensor, value: Tensor) -> Rows:
        """All rows of the block in the order of slots.

        Args:
            key, value: of the computed rows, [1, kv_heads, computed, head_dim].

        Returns:
            [1, kv_heads, computed + reused, head_dim] each.
        """
        ways = self._on(key.device)
        held = self.sources.layers[layer] if self.sources.layers else None
        found = []
        for kind, own in enumerate((key, value)):
            room = own.new_empty(own.shape[1], self.sources.places, own.shape[3])
            known = torch.cat([room if held is None else held[kind], own[0]], 1)
            made = known.index_select(1, ways.origin)
            if kind == 0:
                made = rotate(made.transpose(0, 1), ways.rotation).transpose(0, 1)
            rows = own.new_empty(
                1, own.shape[1], len(self.computed) + len(self.reused), own.shape[3]
            )
            rows[0].index_copy_(1, ways.computed, own[0])
            rows[0].index_copy_(1, ways.reused, made)
            found.append(rows)
        return found[0], found[1]

    def hidden(self, device: torch.device) -> Tensor:
        """Float32 [1, 1, computed, rows], -inf where a row comes after the token, else 0."""
        return self._on(device).hidden

    def fill(self, cache: "Cache") -> None:
        """Put the rows of a block without computed ones into an empty suffix."""
        for layer, (key, value) in enumerate(self.sources.layers):
            cache.update(key[None, :, :0], value[None, :, :0], layer)

    def _on(self, device: torch.device) -> _Ways:
        """What layers on this device need, copied there once."""
        if device not in self._ways:
            rows = torch.arange(len(self.computed) + len(self.reused))
            later = rows > self.computed[:, None]
            hidden = torch.zeros(later.shape).masked_fill_(later, -torch.inf)[None, None]
            self._ways[device] = _Ways(
                computed=self.computed.to(device),
                reused=self.reused.to(device),
                origin=self.origin.to(device),
                rotation=self.rotation.to(device),
                hidden=hidden.to(device),
            )
        return self._ways[device]
