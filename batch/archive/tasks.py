"""What workers are told and what they give back: small values that cross between processes."""

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
    """Look at a model, which without `weights` needs none here; gives ModelFacts."""

    settings: IndexSettings
    device: str | None
    weights: bool


@dataclass(frozen=True, kw_only=True)
class Probe:
    """See what a file is; gives its row."""

    row: FileRow


@dataclass(frozen=True, kw_only=True)
class Analyze:
    """Write the manifest of a video; gives Staged, or None if the file is not the same any more."""

    row: FileRow
    rule: GeometryRule
    settings: AnalysisSettings
    staged: Path
    allowance: Allowance


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """Write the cache of a video, which could be done since `ready_s` (monotonic); gives Staged.

    A cache of one file waits at `staged` to be named `target`. Of a video in segments, each
    finished one is moved from there to the folder `segments` at once, where a later run finds it.
    """

    row: FileRow
    ready_s: float
    manifest: Path
    staged: Path
    target: Path
    segments: Path
    calibrations: Path
    """Folder in which a calibration of the model may lie."""
    allowance: Allowance


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Make the model's calibration in a folder, from these manifests, if none is there.

    It waits at `staged` to be named. Gives None, whether there is one now or not.
    """

    folder: Path
    manifests: tuple[Path, ...]
    staged: Path
    allowance: Allowance


@dataclass(frozen=True, kw_only=True)
class Load:
    """Load the model, so that the first prefill need not wait for it; gives None."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A finished file that waits to be given its name, and what its record will say.

    Times are of the monotonic clock, which all processes share.
    """

    facts: Mapping[str, Any]
    began_s: float
    ended_s: float
