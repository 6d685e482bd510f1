"""Stages as Slurm array jobs that depend on each other.

`index.sh` is what `batch index --engine slurm --print` prints for an example, to be copied.
"""
