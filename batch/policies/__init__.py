"""Ways to choose what is stored of a video, one file each: ours, its baselines and its rivals.

`CellPolicy` decides before the model runs, `RowPolicy` after it. A new method is a file with one
class and a line in `METHODS`.
"""

from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import PROFILES
from batch.policies.budget import Budget, Prices, Unit, Wish, fill
from batch.policies.cells import CellPolicy
from batch.policies.full import Full
from batch.policies.h2o import H2O
from batch.policies.random_tokens import RandomTokens
from batch.policies.rows import RowPolicy
from batch.policies.sali_cache import SaliCache
from batch.policies.sliding_window import SlidingWindow
from batch.policies.snapkv import SnapKV
from batch.policies.sparse_frames import SparseFrames
from batch.policies.streaming_llm import StreamingLLM
from batch.policies.token_drop import TokenDrop
from batch.policies.uniform_bits import UniformBits
from cachefmt.tiers import Tier

Policy = CellPolicy | RowPolicy

_OURS = tuple(
    SaliCache(profile=name, temporal=TEMPORAL_PROFILES[name], thresholds=PROFILES[name])
    for name in ("paper", "default")
)
METHODS: tuple[Policy, ...] = (
    Full(),
    *_OURS,
    UniformBits(tier=Tier.INT8, profile="int8"),
    UniformBits(tier=Tier.INT4, profile="int4"),
    TokenDrop(),
    SparseFrames(),
    SlidingWindow(),
    StreamingLLM(),
    H2O(),
    SnapKV(),
    RandomTokens(),
)

__all__ = [
    "METHODS",
    "Budget",
    "CellPolicy",
    "Policy",
    "Prices",
    "RowPolicy",
    "Unit",
    "Wish",
    "fill",
]
