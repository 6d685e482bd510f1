"""Sali-Cache: videos become small key-value caches once, then answer many questions.

For Python, from a video to an answer; all else in this package is its own business:

- `make_manifest`: analyse a video; `make_cache`: run a model over it; `open_cache`: ask it.
- `CacheMaker`: caches of many videos with one model.
- `ModelSettings`, `AnalysisSettings`, `CacheSettings`, `AnswerSettings`: what may be chosen;
  `Answer`: what comes of it.
- `to_dynamic_cache`: a cache's rows for transformers' own `generate`.
- `BatchError`: what the others raise that a person can mend.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from batch.version import __version__ as __version__

if TYPE_CHECKING:
    from batch.analysis.analyze import AnalysisSettings
    from batch.answering import Answer, open_cache, to_dynamic_cache
    from batch.errors import BatchError
    from batch.making.maker import CacheMaker, make_cache
    from batch.making.manifests import make_manifest
    from batch.settings import AnswerSettings, CacheSettings, ModelSettings

# Arrow 26's own allocator keeps what is freed: after the pictures of an hour 68 MB, the system's 4.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

__all__ = [
    "AnalysisSettings",
    "Answer",
    "AnswerSettings",
    "BatchError",
    "CacheMaker",
    "CacheSettings",
    "ModelSettings",
    "make_cache",
    "make_manifest",
    "open_cache",
    "to_dynamic_cache",
]

_MODULES = {
    "AnalysisSettings": "batch.analysis.analyze",
    "Answer": "batch.answering",
    "AnswerSettings": "batch.settings",
    "BatchError": "batch.errors",
    "CacheMaker": "batch.making.maker",
    "CacheSettings": "batch.settings",
    "ModelSettings": "batch.settings",
    "make_cache": "batch.making.maker",
    "make_manifest": "batch.making.manifests",
    "open_cache": "batch.answering",
    "to_dynamic_cache": "batch.answering",
}
"""Imported when they are asked for: `batch --help` needs no torch."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'batch' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
