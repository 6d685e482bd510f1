"""What is known of a video and its cache, read for pages and exports. Knows no page; no torch."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from batch.analysis.finding import find_manifest
from batch.analysis.manifest import Manifest
from batch.analysis.signals import SCENE_SHARE, changed_shares
from batch.report.tiers import REUSED
from batch.video import usual_gap_s
from cachefmt import CacheFile, Header, open_segments
from cachefmt.layout import COST_SECONDS, block_name


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of a video, half-open in time, and the first of its samples."""

    first_sample: int
    start_s: float
    stop_s: float


@dataclass(frozen=True, kw_only=True)
class StoredSegment:
    """A segment of a cache: the bytes of its file, and of its blocks with the time of each."""

    header: Header
    size_bytes: int
    blocks: tuple[tuple[Span, int], ...]

    @property
    def span(self) -> Span:
        first, last = self.blocks[0][0], self.blocks[-1][0]
        return Span(first_sample=first.first_sample, start_s=first.start_s, stop_s=last.stop_s)


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """A manifest and, if there is one, what its cache says of itself; no rows of it.

    `cache` is what people call it: a path; `seconds` is what making it took, by phase.
    """

    manifest: Manifest
    cache: str | None = None
    segments: tuple[StoredSegment, ...] = ()
    seconds: dict[str, float]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Of a cache, file or folder of segments, or of a manifest.

        Raises:
            CacheFileError: it is damaged.
            ManifestError: the manifest of a cache is not where commands put it, or damaged.
        """
        if path.suffix == ".parquet":
            manifest = Manifest.read(path)
            return cls(manifest=manifest, seconds={"analyze": manifest.analyze_seconds})
        with ExitStack() as opened:
            segments = [opened.enter_context(segment) for segment in open_segments(path)]
            manifest = find_manifest(path, segments[0].header)
            return cls.of(manifest, segments, name=str(path))

    @classmethod
    def of(cls, manifest: Manifest, segments: Sequence[CacheFile], *, name: str) -> Self:
        """Of the open segments of a cache, which may be closed then."""
        seconds = np.sum([segment.cost_seconds for segment in segments], axis=0)
        starts = [segment.header.segment.first_sample for segment in segments]
        edges = [*starts, len(manifest.pts_s)]
        return cls(
            manifest=manifest,
            cache=name,
            segments=tuple(
                StoredSegment(
                    header=segment.header,
                    size_bytes=segment.size_bytes,
                    blocks=tuple(_blocks(segment, manifest, stop)),
                )
                for segment, stop in zip(segments, edges[1:], strict=True)
            ),
            seconds=dict(zip(COST_SECONDS, seconds.tolist(), strict=True)),
        )

    @property
    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self.segments)

    @property
    def fp16_kv_bytes(self) -> int:
        return sum(segment.header.fp16_kv_bytes for segment in self.segments)

    @property
    def reuses_cells(self) -> bool:
        """Whether samples in which nothing changed are in the cache, of cells that are reused."""
        policies = (segment.header.policy for segment in self.segments)
        return any(policy.parameters.get("reuse") == "cells" for policy in policies)

    @cached_property
    def states(self) -> NDArray[np.uint8]:
        """Of each cell, codes of `STATES`: its tier, or that it is reused, [samples, cells]."""
        manifest = self.manifest
        states = manifest.tier.copy()
        if not self.reuses_cells:
            return states
        from batch.making.plan import sources_of

        edges = [*(one.header.segment.first_sample for one in self.segments), len(states)]
        for start, stop in pairwise(edges):
            source = sources_of(manifest.part(slice(start, stop)))
            own = np.arange(stop - start)[:, None]
            states[start:stop][(source >= 0) & (source != own)] = REUSED
        return states

    @property
    def fidelity(self) -> Any:
        """Of the segment with the largest error; None where none was measured."""
        found = [one.header.fidelity for one in self.segments if one.header.fidelity is not None]
        return max(found, key=lambda one: one.kl, default=None)

    @cached_property
    def edges_s(self) -> NDArray[np.float64]:
        """When each sample begins, and the end of the last: [samples + 1]."""
        return edges_of(self.manifest)

    @cached_property
    def scenes(self) -> list[Span]:
        """Where more than half of the cells begin to show something else, from kept samples."""
        manifest = self.manifest
        kept = np.flatnonzero(manifest.kept)
        starts = kept[changed_shares(manifest.signals) > SCENE_SHARE].tolist()
        edges = [0, *(start for start in starts if start), len(manifest.pts_s)]
        return [
            Span(
                first_sample=start,
                start_s=float(self.edges_s[start]),
                stop_s=float(self.edges_s[stop]),
            )
            for start, stop in pairwise(edges)
        ]

    def samples_within(self, start_s: float, stop_s: float) -> list[int]:
        """The samples that are on screen in a half-open range of time, pointers among them."""
        edges = self.edges_s
        return np.flatnonzero((edges[:-1] < stop_s) & (edges[1:] > start_s)).tolist()


def edges_of(manifest: Manifest) -> NDArray[np.float64]:
    """As of `VideoReport.edges_s`; the last sample is on screen as long as others usually are."""
    pts_s = manifest.pts_s
    return np.append(pts_s, max(pts_s[-1] + usual_gap_s(pts_s), manifest.last_pts_s[-1]))


def _blocks(segment: CacheFile, manifest: Manifest, stop: int) -> Iterator[tuple[Span, int]]:
    """Each block of a segment that ends before sample `stop` of the video, with its bytes."""
    header, edges_s = segment.header, edges_of(manifest)
    first = header.segment.first_sample
    stored = first + segment.tables.stored[:: header.codec.block_samples]
    edges = [first, *stored[1:].tolist(), stop]
    for number, (start, end) in enumerate(pairwise(edges)):
        yield (
            Span(first_sample=start, start_s=float(edges_s[start]), stop_s=float(edges_s[end])),
            sum(
                segment.tensor_bytes(block_name(number, group))
                for group in range(header.group_count)
            ),
        )
