"""What is measured of a video, as it is decoded: a row a sample. Knows no decoder and no file."""

from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from batch.analysis.pictures import PictureSpool, encode_png
from batch.analysis.saliency import cell_saliency
from batch.analysis.signals import Signals
from batch.analysis.temporal import TemporalSettings, compare
from batch.video import Geometry, Sample


def _floats() -> "array[float]":
    """Of all cells so far, one after the other, with nothing between them in memory."""
    return array("f")


@dataclass(kw_only=True)
class SampleRows:
    """Grows by one row a sample. The pictures of those that are kept go to a spool."""

    geometry: Geometry
    temporal: TemporalSettings
    pointers: bool
    """Whether a redundant sample becomes a pointer."""
    pictures: PictureSpool
    frame: list[int] = field(default_factory=list)
    pts_s: list[float] = field(default_factory=list)
    last_pts_s: list[float] = field(default_factory=list)
    flow_px: "array[float]" = field(default_factory=_floats)
    difference: "array[float]" = field(default_factory=_floats)
    saliency: "array[float]" = field(default_factory=_floats)
    redundancy: list[float] = field(default_factory=list)
    source: list[int] = field(default_factory=list)
    still: int = 0
    """Samples since the one that changed last, which counts too."""

    def add(self, sample: Sample, reference: NDArray[np.uint8] | None) -> bool:
        """Measure a sample against its reference; whether it is the next one's reference."""
        pointable = False
        self.frame.append(sample.frame)
        self.pts_s.append(sample.pts_s)
        self.last_pts_s.append(sample.last_pts_s)
        self.saliency.frombytes(cell_saliency(sample.rgb, self.geometry).tobytes())
        if reference is None:
            self.flow_px.extend([0.0] * self.geometry.cells)
            self.difference.extend([0.0] * self.geometry.cells)
            self.redundancy.append(0.0)
        else:
            change = compare(sample.rgb, reference, self.geometry, self.temporal)
            self.flow_px.frombytes(change.flow_px.tobytes())
            self.difference.frombytes(change.difference.tobytes())
            self.redundancy.append(change.redundancy)
            redundant = self.temporal.is_redundant(change.redundancy, change.difference)
            pointable = self.pointers and redundant
        self.still = self.still + 1 if pointable else 1
        kept = self.still <= self.temporal.still_samples
        self.source.append(sample.index if kept else self.source[-1])
        self.pictures.add(encode_png(sample.rgb) if kept else None)
        return not pointable or self.temporal.reference == "previous"

    def signals(self) -> Signals:
        """Those of all samples so far, over the memory of these rows."""
        flow_px, difference, saliency = (
            np.frombuffer(cells, np.float32).reshape(len(self.frame), -1)
            for cells in (self.flow_px, self.difference, self.saliency)
        )
        static = self.temporal.is_static(flow_px, difference)
        static[0] = False
        return Signals(
            flow_px=flow_px,
            difference=difference,
            saliency=saliency,
            static=static,
            redundancy=np.array(self.redundancy, np.float32),
            source=np.array(self.source, np.int32),
        )
