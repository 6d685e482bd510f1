"""Keys and values in tiers: in memory, under attention, behind a language model.

Knows tensors and transformers' attention interface; knows nothing of videos, policies or files
other than through `cachefmt`.
"""

from batch.kv.attention import Block, Kernel, check_kernel, merge
from batch.kv.cache import TieredCache
from batch.kv.evidence import Evidence, Observer
from batch.kv.prefix import Prefix
from batch.kv.tiered_attention import (
    ATTENTION,
    ATTENTIONS,
    fill,
    forward,
    install,
    refuse_unsupported,
)

__all__ = [
    "ATTENTION",
    "ATTENTIONS",
    "Block",
    "Evidence",
    "Kernel",
    "Observer",
    "Prefix",
    "TieredCache",
    "check_kernel",
    "fill",
    "forward",
    "install",
    "merge",
    "refuse_unsupported",
]
