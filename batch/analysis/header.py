"""What a manifest says of its video and settings, as one JSON object. Knows no arrays."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from batch.analysis.temporal import TemporalSettings
from batch.analysis.tiers import TierThresholds, profile_name
from batch.video import Geometry, Sampling, VideoInfo
from cachefmt.strict_json import dump_canonical, load_strict

VERSION = 2
_KEYS = {"version", "tool", "video", "sampling", "geometry", "temporal", "tiers"}
_NETWORK = "saliency_sha256"
"""Key that is there only if a network told the saliency."""
_VIDEO_FACTS = {field.name for field in fields(VideoInfo)} - {"path"}
_READ = ("broken_frames", "clock_repairs", "decoded_s")
"""What reading the video's samples found out."""
_SAMPLING = {field.name for field in fields(Sampling)}


@dataclass(frozen=True, kw_only=True)
class ManifestHeader:
    """The video and how it was analysed.

    `tool` is the version of the writer; `broken_frames` counts what of the video could not be
    decoded whole, `clock_repairs` the frames whose time in the file was not believed; `decoded_s`
    is the length of what could be read; `interval_s` is the time from one sampled frame to the
    next; `saliency_sha256` is the digest of the network that told the saliency, None if it is of
    edges and colours. Of the video's path only the name is stored.
    """

    tool: str
    video: VideoInfo
    broken_frames: int
    clock_repairs: int
    decoded_s: float
    interval_s: float
    sampling: Sampling
    geometry: Geometry
    temporal: TemporalSettings
    thresholds: TierThresholds
    saliency_sha256: str | None = None

    @property
    def warning(self) -> str | None:
        """What is missing from the samples, or not as a player shows it; None: nothing.

        A truncated WebM file ends without an error (av 18), so what was read is held against the
        declared duration, with some room: it often is that of the sound. A hole in the middle of
        a WebM file is not found: it looks like a frame that stays on screen.
        """
        declared_s = self.video.duration_s or 0.0
        parts = []
        if self.broken_frames:
            parts.append(f"{self.broken_frames} broken frames")
        if declared_s - self.decoded_s > max(1.0, 0.02 * declared_s):
            parts.append(f"only {self.decoded_s:.1f} s of {declared_s:.1f} s could be read")
        if self.clock_repairs:
            parts.append(f"its clock is wrong: {self.clock_repairs} times were set right")
        if self.video.caveat is not None:
            parts.append(self.video.caveat)
        return f"{self.video.name}: {'; '.join(parts)}" if parts else None

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII."""
        read = {name: getattr(self, name) for name in _READ}
        video = {**asdict(self.video), "name": self.video.name, **read}
        del video["path"]
        data = {
            "version": VERSION,
            "tool": self.tool,
            "video": video,
            "sampling": {**self.sampling.to_dict(), "interval_s": self.interval_s},
            "geometry": self.geometry.to_dict(),
            "temporal": self.temporal.to_dict(),
            "tiers": {
                "profile": profile_name(self.thresholds),
                "thresholds": self.thresholds.to_dict(),
            },
        }
        if self.saliency_sha256 is not None:
            data[_NETWORK] = self.saliency_sha256
        return dump_canonical(data)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json` back.

        Raises:
            ValueError: no JSON, another version, an unknown or missing key, or a refused value.
        """
        data = load_strict(text)
        version = data.get("version") if isinstance(data, dict) else None
        if version != VERSION:
            raise ValueError(f"got version {version}, this tool reads {VERSION}")
        _check_keys("header", data, _KEYS | ({_NETWORK} & data.keys()))
        _check_keys("tiers", data["tiers"], {"profile", "thresholds"})
        _check_keys("video", data["video"], _VIDEO_FACTS | {"name", *_READ})
        sampling = data["sampling"]
        _check_keys("sampling", sampling, _SAMPLING | {"interval_s"})
        facts = {key: data["video"][key] for key in _VIDEO_FACTS}
        return cls(
            tool=data["tool"],
            video=VideoInfo(path=Path(data["video"]["name"]), **facts),
            **{name: data["video"][name] for name in _READ},
            interval_s=sampling["interval_s"],
            sampling=Sampling.from_dict({key: sampling[key] for key in _SAMPLING}),
            geometry=Geometry.from_dict(data["geometry"]),
            temporal=TemporalSettings.from_dict(data["temporal"]),
            thresholds=TierThresholds.from_dict(data["tiers"]["thresholds"]),
            saliency_sha256=data.get(_NETWORK),
        )


def _check_keys(what: str, data: dict[str, Any], known: set[str]) -> None:
    if not isinstance(data, dict) or set(data) != known:
        got = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{what}: got keys {got}, expected {sorted(known)}")
