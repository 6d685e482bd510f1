"""The cache file: format, codecs, reader and writer.

Knows nothing of videos, models or clusters. Importing it imports no torch; only
`cachefmt.codecs` and `cachefmt.tensors` do. The format is described in FORMAT.md.
"""

from cachefmt.files import CacheFileError
from cachefmt.header import (
    WHOLE_VIDEO,
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
from cachefmt.key_bounds import SampleIndex
from cachefmt.layout import file_size, tensor_specs
from cachefmt.reader import CacheFile, read_cost
from cachefmt.segments import open_segments, verify_segments
from cachefmt.tiers import STORED_TIERS, Tier, token_counts
from cachefmt.writer import CacheWriter

__all__ = [
    "STORED_TIERS",
    "WHOLE_VIDEO",
    "CacheFile",
    "CacheFileError",
    "CacheWriter",
    "FormatVersion",
    "Header",
    "Layout",
    "ManifestIdentity",
    "ModelIdentity",
    "PolicyIdentity",
    "PromptIdentity",
    "SampleIndex",
    "Segment",
    "Shape",
    "Tier",
    "VideoIdentity",
    "file_size",
    "open_segments",
    "read_cost",
    "tensor_specs",
    "token_counts",
    "verify_segments",
]
