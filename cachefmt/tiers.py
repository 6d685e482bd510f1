"""The tiers a token can be stored in; knows neither files nor tensors."""

import enum


class Tier(enum.IntEnum):
    """What is stored of a token. The order is the order of the rows in a file."""

    FP16 = 0
    """The raw numbers of the model run: F16, BF16 or, for exact runs, F32."""
    INT8 = 1
    INT4 = 2
    PRUNE = 3
    """Nothing is stored."""


STORED_TIERS = (Tier.FP16, Tier.INT8, Tier.INT4)
