"""What workers are told and what they answer: small values that cross between processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.analysis.analyze import AnalysisSettings
from batch.archive.identity import IndexSettings
from batch.archive.inventory import FileRow
from batch.video import GeometryRule
from jobs.disk_space import Allowance


@dataclass(frozen=True, kw_only=True)
class Describe:
    """Look at the model of an index; the answer is ModelFacts.

    Without `weights` they need not be on this machine.
    """

    settings: IndexSettings
    device: str | None
    weights: bool


@dataclass(frozen=True, kw_only=True)
class Probe:
    """See what a file is; the answer is its row."""

    row: FileRow


@dataclass(frozen=True, kw_only=True)
class Analyze:
    """Write the manifest of a video; the answer is Staged, or None if the file is not the same."""

    row: FileRow
    rule: GeometryRule
    settings: AnalysisSettings
    staged: Path
    allowance: Allowance


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Write the cache of a video; the answer is Staged.

    `ready_s` is the time of the monotonic clock since which it could be done. A cache of one file
    waits at `staged` to be named `target`. Of a video in segments, each finished one is moved from
    there to the folder `segments` at once, where a later run finds it.
    """

    row: FileRow
    ready_s: float
    manifest: Path
    staged: Path
    target: Path
    segments: Path
    allowance: Allowance


@dataclass(frozen=True, kw_only=True)
class Load:
    """Load the model, so that the first prefill need not wait for it; the answer is None."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A finished file that waits to be given its name, and what its record will say.

    `began_s` and `ended_s` are times of the monotonic clock, which all processes share.
    """

    facts: Mapping[str, Any]
    began_s: float
    ended_s: float
