"""The samples of one video as a prompt needs to know them: how many, when, in which geometry."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from batch.video.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class Footage:
    """When the samples of a video were taken.

    - pts_s, last_pts_s: float64 [samples], times of each sample's first and last frame.
    - start_s: time of the video's first frame, also where its samples are left out.
    - index: int64 [samples], number of each among all samples of the video.
    - interval_s: time from one sampled frame to the next, before any sample was left out.
    - duration_s: length of the video.
    """

    geometry: Geometry
    start_s: float
    index: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    last_pts_s: NDArray[np.float64]
    interval_s: float
    duration_s: float

    @classmethod
    def steady(cls, geometry: Geometry, samples: int, interval_s: float = 1.0) -> Self:
        """So many samples of a video whose frames come exactly at the sampling rate."""
        first = np.arange(samples, dtype=np.float64) * (geometry.frames * interval_s)
        return cls(
            geometry=geometry,
            start_s=0.0,
            index=np.arange(samples),
            pts_s=first,
            last_pts_s=first + (geometry.frames - 1) * interval_s,
            interval_s=interval_s,
            duration_s=samples * geometry.frames * interval_s,
        )

    def __len__(self) -> int:
        return len(self.pts_s)

    def select(self, samples: NDArray[np.bool_]) -> Self:
        return replace(
            self,
            index=self.index[samples],
            pts_s=self.pts_s[samples],
            last_pts_s=self.last_pts_s[samples],
        )
