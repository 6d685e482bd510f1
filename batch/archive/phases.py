"""The parts of indexing that can run on different machines, one after the other."""

from enum import StrEnum


class Phase(StrEnum):
    """What a run does of the whole."""

    ALL = "all"
    IDENTIFY = "identify"
    """Walk the archive and look at new files; shards by the digest of the path."""
    ANALYZE = "analyze"
    """Write manifests of the videos found; shards by the digest of the content."""
    PREFILL = "prefill"
    """Write caches of the manifests there; shards by the digest of the content."""

    @property
    def identifies(self) -> bool:
        """Whether the archive is walked."""
        return self in (Phase.ALL, Phase.IDENTIFY)

    @property
    def analyzes(self) -> bool:
        """Whether manifests are written."""
        return self in (Phase.ALL, Phase.ANALYZE)

    @property
    def prefills(self) -> bool:
        """Whether caches are written."""
        return self in (Phase.ALL, Phase.PREFILL)
