"""One maker of manifests and caches, for the command line, archives, Python and benches.

- `manifests`: videos to manifests, each in a process that may die of it (no torch).
- `cache_plan`: what of a manifest goes into a cache, in which files, of how many bytes at most;
  made of `plan` (slots), `segments` (where long videos are cut) and `header`. `memory`: what it
  will take.
- `destination`: where a cache goes, and what becomes of what is there.
- `computing`: the prefill, block by block; `blocks`: its file, and what it will be searched by.
- `calibrating`: what the caches of a model share, fitted to some videos.
- `maker`: all of this for one model and any number of videos.

Nothing is imported here: who makes manifests needs no torch.
"""
