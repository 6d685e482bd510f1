"""Sali-Cache: turn a video into a small key-value cache once, then answer many questions."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sali-cache")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0.0.0"
