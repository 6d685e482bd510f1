"""Sali-Cache: turn a video into a small key-value cache once, then answer many questions."""

import os
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sali-cache")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0.0.0"

# Arrow 26's own allocator keeps what is freed: after the pictures of an hour 68 MB, the system's 4.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
