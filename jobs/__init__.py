"""Work on many videos: items, shards, records of what was done, and where it runs.

Knows command lines and files, not videos, models or caches; imports neither torch nor `batch`.
"""
