"""The demo world: short drawn films with a ground truth, and `batch demo`, which shows them."""
