"""What a person asks for, before anyone has looked at the model."""

from dataclasses import dataclass

from batch.analysis.analyze import AnalysisSettings
from batch.settings import CacheSettings, ModelSettings


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """All that decides what the cache of a given video holds.

    Of the model, `device` is each worker's own, and `attention` changes rounding only; neither is
    part of the identity. A cache that does not fit the memory is made of smaller blocks than
    asked for: its record says of which, and it counts as done, for its rows differ as little as
    between any two block sizes.
    """

    model: ModelSettings
    analysis: AnalysisSettings
    cache: CacheSettings
