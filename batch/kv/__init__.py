"""Keys and values in tiers: in memory, under attention, behind a language model.

Knows tensors and transformers' attention interface; knows nothing of videos, policies or files
other than through `cachefmt`.
"""

from batch.kv.attention import attend, attend_own, merge
from batch.kv.cache import ATTENTION, TieredCache, forward, install, refuse_unsupported
from batch.kv.evidence import Evidence
from batch.kv.prefix import Prefix, load

__all__ = [
    "ATTENTION",
    "Evidence",
    "Prefix",
    "TieredCache",
    "attend",
    "attend_own",
    "forward",
    "install",
    "load",
    "merge",
    "refuse_unsupported",
]
