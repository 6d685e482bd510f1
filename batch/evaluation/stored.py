"""What a method holds of a video, whichever it is."""

from dataclasses import dataclass

from batch.answering import PrefixAnswerer
from batch.evaluation.uncompressed import Uncompressed
from batch.making.cache_plan import CachePlan


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a method holds of a video, ready for questions."""

    answerer: PrefixAnswerer | Uncompressed
    size_bytes: int
    """All that is stored: of methods with a file the file, of others as if it were in one."""
    kv_bytes: int
    """K and V alone, scales and minima included."""
    tokens: dict[str, int]
    """Stored tokens by tier."""
    seconds: dict[str, float]
    """By the names of `PARTS`; a part that the method lacks is 0."""
    work: CachePlan | None = None
    """What was written, of methods that choose cells."""
