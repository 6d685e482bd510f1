"""The version of the tool, as it was installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sali-cache")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0.0.0"
