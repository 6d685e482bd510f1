"""Reading videos: identity, facts, samples in a model's geometry. The only user of a decoder."""

from batch.video.dynamic import DynamicGeometry, GeometryRule, geometry_for
from batch.video.geometry import Geometry
from batch.video.open import is_named_as_video
from batch.video.probe import VideoInfo, glance, probe
from batch.video.samples import Footage, Sample, SampleReader, Sampling, read_samples
from batch.video.times import TimeRange, length_s, usual_gap_s

__all__ = [
    "DynamicGeometry",
    "Footage",
    "Geometry",
    "GeometryRule",
    "Sample",
    "SampleReader",
    "Sampling",
    "TimeRange",
    "VideoInfo",
    "geometry_for",
    "glance",
    "is_named_as_video",
    "length_s",
    "probe",
    "read_samples",
    "usual_gap_s",
]
