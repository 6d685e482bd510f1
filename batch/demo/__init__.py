"""The demo world: short drawn films with a ground truth, and `batch demo`, which shows them.

Knows nothing of how the bundled model was trained nor of what is measured on these films:
that is `batch/evaluation`.
"""
