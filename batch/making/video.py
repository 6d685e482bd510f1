"""The cache of a whole video: a file if what is kept fits the model's context, else segments."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from batch.analysis.manifest import Manifest
from batch.making.plan import Pointers, Positions
from batch.making.run import BLOCK_SAMPLES, Prefill, check_geometry, plan_cache
from batch.making.segments import Stretch, cut
from batch.models import Family
from cachefmt import Header
from cachefmt.layout import file_size
from cachefmt.segments import FILE_SUFFIX, FOLDER_SUFFIX, segment_path


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """The cache of a video about to be written, a segment at a time.

    Of each segment only the header is kept, which fixes its size: the plans of all together
    would grow with the video.
    """

    manifest: Manifest
    stretches: tuple[Stretch, ...]
    headers: tuple[Header, ...]
    """Of each segment; a video that fits the context is one."""
    plan: Callable[[Stretch], Prefill]

    @property
    def is_cut(self) -> bool:
        """Whether the cache is a folder of segments."""
        return len(self.headers) > 1

    @property
    def size_bytes(self) -> int:
        """Size of all files, exact."""
        return sum(map(file_size, self.headers))

    @property
    def slots(self) -> int:
        """Slots of all layouts, before anything was dropped."""
        return sum(header.layout.slots for header in self.headers)

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens stored in each tier."""
        counts = [header.shape.tokens for header in self.headers]
        return {tier: sum(count[tier] for count in counts) for tier in counts[0]}

    @property
    def suffix(self) -> str:
        """End of the cache's name."""
        return FOLDER_SUFFIX if self.is_cut else FILE_SUFFIX

    def segment(self, number: int) -> Prefill:
        """Plan a segment."""
        return self.plan(self.stretches[number])

    def path(self, cache: Path, number: int) -> Path:
        """Where a segment goes, in a cache of this name."""
        return segment_path(cache, number) if self.is_cut else cache

    def kept(self, number: int) -> int:
        """Samples of a segment that are no pointers."""
        return int(self.manifest.kept[self.stretches[number].rows].sum())


def plan_video(
    manifest: Manifest,
    family: Family,
    *,
    dtype: str,
    positions: Positions = "compact",
    pointers: Pointers = "multiplicity",
    block_samples: int = BLOCK_SAMPLES,
    identify_weights: bool = True,
) -> VideoPlan:
    """Plan the cache of a video, in as few segments as the model's context asks for.

    Arguments as of `plan_cache`.

    Raises:
        ManifestError: the manifest was made for pictures of another geometry.
        ContextError: a single sample does not fit the model's context.
    """
    check_geometry(manifest, family)
    context = family.decoder.context
    stretches = cut(manifest, family.layout, context=context, positions=positions)
    plan = partial(
        plan_cache,
        manifest,
        family,
        dtype=dtype,
        positions=positions,
        pointers=pointers,
        block_samples=block_samples,
        identify_weights=identify_weights,
    )
    return VideoPlan(
        manifest=manifest,
        stretches=tuple(stretches),
        headers=tuple(plan(stretch=stretch).header for stretch in stretches),
        plan=lambda stretch: plan(stretch=stretch),
    )
