"""What a run over an archive is asked to do. Light to import, for the command line."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.shards import Shard

if TYPE_CHECKING:
    from batch.archive.identity import IndexSettings


class Phase(StrEnum):
    """The part of the whole that a run does; parts can run on different machines."""

    ALL = "all"
    IDENTIFY = "identify"
    """Walk the archive and look at new files; shards by the digest of the path."""
    ANALYZE = "analyze"
    """Write manifests of the videos found; shards by the digest of the content."""
    PREFILL = "prefill"
    """Write caches of the manifests there; shards by the digest of the content."""

    @property
    def analyzes(self) -> bool:
        return self in (Phase.ALL, Phase.ANALYZE)

    @property
    def prefills(self) -> bool:
        return self in (Phase.ALL, Phase.PREFILL)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is to do, and with what.

    - jobs: processes that open videos, one thread each.
    - devices: one for each process with a model; None is the best there is.
    - threads: of the processor, for each process with a model.
    - rehash: distrust size, time and inode.
    """

    archive: Path
    out: Path
    settings: "IndexSettings"
    phase: Phase
    shard: Shard
    jobs: int
    devices: tuple[str | None, ...]
    threads: int
    rehash: bool
    retry_failed: bool
    max_bytes: int | None
