"""Ways to store keys and values, whatever they are of; a new one is a class and a line here."""

from batch.evaluation.judges.schemes.evictions import Eviction, Nothing, RandomRows
from batch.evaluation.judges.schemes.low_bits import LowBits
from batch.evaluation.judges.schemes.quantized_cache import Quantized
from batch.evaluation.judges.schemes.scheme import Rows, Scheme, Stored
from batch.evaluation.judges.schemes.tiers import Tiers
from batch.evaluation.judges.schemes.transform import CalibratedTransform, Transform
from batch.evaluation.methods.h2o import H2O
from batch.evaluation.methods.sliding_window import SlidingWindow
from batch.evaluation.methods.snapkv import SnapKV
from batch.evaluation.methods.streaming_llm import StreamingLLM
from cachefmt.tiers import Tier

BOTH = ("key", "value")

SCHEMES: tuple[Scheme, ...] = (
    Tiers(name="FP16", shares={Tier.FP16: 1.0}),
    Tiers(name="INT8", shares={Tier.INT8: 1.0}),
    # Tiers of stored cells in films: batch/evaluation/RESULTS.md, "no pointers".
    Tiers(
        name="tiers of profile default, drawn",
        shares={Tier.FP16: 0.001, Tier.INT8: 0.021, Tier.INT4: 0.978},
    ),
    Tiers(name="INT4, groups of 64", shares={Tier.INT4: 1.0}),
    Tiers(name="INT4, groups of 32", shares={Tier.INT4: 1.0}, group_size=32),
    LowBits(name="4 bits, keys per channel", bits=4, per_channel=("key",)),
    LowBits(name="3 bits", bits=3),
    LowBits(name="3 bits, keys per channel", bits=3, per_channel=("key",)),
    LowBits(name="2 bits", bits=2),
    LowBits(name="2 bits, keys per channel", bits=2, per_channel=("key",)),
    LowBits(name="2 bits, both per channel", bits=2, per_channel=BOTH),
    CalibratedTransform(name="klt, calibrated, step 0.7", step=0.7),
    CalibratedTransform(name="klt, calibrated, step 1", step=1.0),
    CalibratedTransform(name="klt, calibrated, step 1.4", step=1.4),
    Transform(name="klt, basis of the context, step 1", step=1.0),
    Quantized(name="QuantizedCache hqq 8 bits", backend="hqq", bits=8),
    Quantized(name="QuantizedCache hqq 4 bits", backend="hqq", bits=4),
    Quantized(name="QuantizedCache hqq 2 bits", backend="hqq", bits=2),
    Quantized(name="QuantizedCache quanto 4 bits", backend="quanto", bits=4),
    Quantized(name="QuantizedCache quanto 2 bits", backend="quanto", bits=2),
    Eviction(name="h2o, 50% of rows", method=H2O(), share=0.5),
    Eviction(name="snapkv, 50% of rows", method=SnapKV(), share=0.5),
    Eviction(name="h2o, 25% of rows", method=H2O(), share=0.25),
    Eviction(name="snapkv, 25% of rows", method=SnapKV(), share=0.25),
    Eviction(name="streaming-llm, 25% of rows", method=StreamingLLM(), share=0.25),
    Eviction(name="sliding-window, 25% of rows", method=SlidingWindow(), share=0.25),
    Eviction(name="random, 25% of rows", method=RandomRows(), share=0.25),
    Nothing(name="nothing"),
)
"""What is compared, ours first."""

__all__ = ["SCHEMES", "Rows", "Scheme", "Stored"]
