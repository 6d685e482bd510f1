"""The cache file: format, codecs, reader and writer.

Knows nothing of videos, models or clusters. Importing it imports no torch; only
`cachefmt.codecs` and `cachefmt.tensors` do. The format is described in FORMAT.md.
"""

from cachefmt.files import CacheFileError
from cachefmt.header import (
    WHOLE_VIDEO,
    Codec,
    Fidelity,
    FormatVersion,
    Header,
    Layout,
    ManifestIdentity,
    ModelIdentity,
    PolicyIdentity,
    PromptIdentity,
    Segment,
    Shape,
    VideoIdentity,
)
from cachefmt.key_bounds import KeyBounds
from cachefmt.layout import file_size
from cachefmt.reader import CacheFile
from cachefmt.segments import open_segments, verify_segments
from cachefmt.tables import Tables
from cachefmt.tiers import STORED_TIERS, Tier, token_counts
from cachefmt.writer import CacheWriter

__all__ = [
    "STORED_TIERS",
    "WHOLE_VIDEO",
    "CacheFile",
    "CacheFileError",
    "CacheWriter",
    "Codec",
    "Fidelity",
    "FormatVersion",
    "Header",
    "KeyBounds",
    "Layout",
    "ManifestIdentity",
    "ModelIdentity",
    "PolicyIdentity",
    "PromptIdentity",
    "Segment",
    "Shape",
    "Tables",
    "Tier",
    "VideoIdentity",
    "file_size",
    "open_segments",
    "token_counts",
    "verify_segments",
]
