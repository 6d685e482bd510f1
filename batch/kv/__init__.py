"""Keys and values in tiers: in memory, under attention, behind a language model.

Knows tensors and transformers' attention interface; knows nothing of videos, policies or files
other than through `cachefmt`.
"""

from batch.kv.attention import Block, Kernel, check_kernel, merge
from batch.kv.cache import CACHE_KEYWORD, Columns, TieredCache
from batch.kv.evidence import LastQueries, Observer, Paid
from batch.kv.prefix import Prefix
from batch.kv.tiered_attention import (
    ATTENTION,
    ATTENTIONS,
    fill,
    forward,
    install,
    is_for_kernel,
    refuse_unsupported,
)

__all__ = [
    "ATTENTION",
    "ATTENTIONS",
    "CACHE_KEYWORD",
    "Block",
    "Columns",
    "Kernel",
    "LastQueries",
    "Observer",
    "Paid",
    "Prefix",
    "TieredCache",
    "check_kernel",
    "fill",
    "forward",
    "install",
    "is_for_kernel",
    "merge",
    "refuse_unsupported",
]
