"""Ways to store keys and values, whatever they are of; a new one is a class and a line here."""

from batch.evaluation.judges.schemes.controls import Nothing, RandomRows
from batch.evaluation.judges.schemes.quantized_cache import Quantized
from batch.evaluation.judges.schemes.scheme import ByMethod, Scheme
from batch.evaluation.judges.schemes.tiers import Tiers
from batch.evaluation.judges.schemes.transform import CalibratedTransform, Transform
from batch.evaluation.methods.bitmod import BitMoD
from batch.evaluation.methods.centred_keys import CentredKeys
from batch.evaluation.methods.dapq import DapQ
from batch.evaluation.methods.h2o import H2O
from batch.evaluation.methods.keydiff import KeyDiff
from batch.evaluation.methods.kvmerger import KVMerger
from batch.evaluation.methods.kvzip import KVzip
from batch.evaluation.methods.low_bits import LowBits
from batch.evaluation.methods.prefixkv import PrefixKV
from batch.evaluation.methods.razor_attention import RazorAttention
from batch.evaluation.methods.scissorhands import Scissorhands
from batch.evaluation.methods.sliding_window import SlidingWindow
from batch.evaluation.methods.snapkv import SnapKV
from batch.evaluation.methods.streaming_llm import StreamingLLM
from batch.evaluation.methods.think import ThinK
from batch.evaluation.methods.vidkv import VidKV
from batch.evaluation.methods.zipcache import ZipCache
from batch.making.codec import STEPS
from cachefmt.tiers import Tier

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
    ByMethod(name="INT4, keys less their mean", method=CentredKeys()),
    ByMethod(name="4 bits, keys per channel", method=LowBits(bits=4, per_channel=("key",))),
    ByMethod(name="3 bits", method=LowBits(bits=3)),
    ByMethod(name="3 bits, keys per channel", method=LowBits(bits=3, per_channel=("key",))),
    ByMethod(name="2 bits", method=LowBits(bits=2)),
    ByMethod(name="2 bits, keys per channel", method=LowBits(bits=2, per_channel=("key",))),
    ByMethod(name="2 bits, both per channel", method=LowBits(bits=2, per_channel=("key", "value"))),
    ByMethod(name="vidkv, 1.5 and 1.58 bits", method=VidKV()),
    ByMethod(name="bitmod, 3 bits", method=BitMoD()),
    ByMethod(name="zipcache, 4 and 2 bits", method=ZipCache()),
    ByMethod(name="think, 60% of key channels", method=ThinK()),
    *(
        CalibratedTransform(name=f"klt, calibrated, {quality}", step=step)
        for quality, step in STEPS.items()
    ),
    Transform(name="klt, basis of the context, standard", step=STEPS["standard"]),
    Quantized(name="QuantizedCache hqq 8 bits", backend="hqq", bits=8),
    Quantized(name="QuantizedCache hqq 4 bits", backend="hqq", bits=4),
    Quantized(name="QuantizedCache hqq 2 bits", backend="hqq", bits=2),
    Quantized(name="QuantizedCache quanto 4 bits", backend="quanto", bits=4),
    Quantized(name="QuantizedCache quanto 2 bits", backend="quanto", bits=2),
    ByMethod(name="h2o, 50% of rows", method=H2O(), share=0.5),
    ByMethod(name="snapkv, 50% of rows", method=SnapKV(), share=0.5),
    ByMethod(name="h2o, 25% of rows", method=H2O(), share=0.25),
    ByMethod(name="snapkv, 25% of rows", method=SnapKV(), share=0.25),
    ByMethod(name="h2o normalised, 25% of rows", method=H2O(normalised=True), share=0.25),
    ByMethod(name="scissorhands, 25% of rows", method=Scissorhands(), share=0.25),
    ByMethod(name="dapq, 25% of rows", method=DapQ(), share=0.25),
    ByMethod(name="prefixkv, 25% of rows", method=PrefixKV(), share=0.25),
    ByMethod(name="kvmerger, 25% of rows", method=KVMerger(), share=0.25),
    ByMethod(name="keydiff, 25% of rows", method=KeyDiff(), share=0.25),
    ByMethod(name="kvzip, 25% of rows", method=KVzip(), share=0.25),
    ByMethod(name="razor-attention, 25% of rows", method=RazorAttention(), share=0.25),
    ByMethod(name="streaming-llm, 25% of rows", method=StreamingLLM(), share=0.25),
    ByMethod(name="sliding-window, 25% of rows", method=SlidingWindow(), share=0.25),
    ByMethod(name="random, 25% of rows", method=RandomRows(), share=0.25),
    Nothing(name="nothing"),
)
"""What is compared, ours first."""

__all__ = ["SCHEMES", "Scheme"]
