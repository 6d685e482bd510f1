"""Suites of measurements on this machine: what is compared runs side by side in one process."""

from batch.evaluation.bench.sizes import SIZES, Size
from batch.evaluation.bench.tiers import Measured, measure_tiers, run_tiers

__all__ = ["SIZES", "Measured", "Size", "measure_tiers", "run_tiers"]
