"""Ways to choose what is stored of a video, one file each: ours, its baselines and its rivals.

`CellMethod` decides by pixels before the model runs, `FeatureMethod` by what the vision tower makes
of them, `RowMethod` when the model has read everything. A new method is a file with one class and a
line in `METHODS`.
"""

from dataclasses import replace
from typing import Any

from batch.analysis.temporal import TEMPORAL_PROFILES
from batch.analysis.tiers import PROFILES
from batch.evaluation.methods.bitmod import BitMoD
from batch.evaluation.methods.cell_method import Budget, CellMethod, Prices, Ranking, fill
from batch.evaluation.methods.centred_keys import CentredKeys
from batch.evaluation.methods.curve_stream import CurveStream
from batch.evaluation.methods.dapq import DapQ
from batch.evaluation.methods.dtd import DTD
from batch.evaluation.methods.fastvid import FastVID
from batch.evaluation.methods.feature_method import FeatureMethod
from batch.evaluation.methods.full import Full
from batch.evaluation.methods.h2o import H2O
from batch.evaluation.methods.holitom import HoliTom
from batch.evaluation.methods.infinipot_v import InfiniPotV
from batch.evaluation.methods.keydiff import KeyDiff
from batch.evaluation.methods.klt import Klt
from batch.evaluation.methods.kvmerger import KVMerger
from batch.evaluation.methods.kvzip import KVzip
from batch.evaluation.methods.low_bits import LowBits
from batch.evaluation.methods.prefixkv import PrefixKV
from batch.evaluation.methods.random_tokens import RandomTokens
from batch.evaluation.methods.razor_attention import RazorAttention
from batch.evaluation.methods.row_method import RowMethod
from batch.evaluation.methods.sali_cache import SaliCache
from batch.evaluation.methods.salient_cells import SalientCells
from batch.evaluation.methods.scissorhands import Scissorhands
from batch.evaluation.methods.sliding_window import SlidingWindow
from batch.evaluation.methods.snapkv import SnapKV
from batch.evaluation.methods.soft_prune import SoftPrune
from batch.evaluation.methods.sparse_frames import SparseFrames
from batch.evaluation.methods.streaming_llm import StreamingLLM
from batch.evaluation.methods.streaming_tom import StreamingTOM
from batch.evaluation.methods.think import ThinK
from batch.evaluation.methods.token_drop import TokenDrop
from batch.evaluation.methods.tome import ToMe
from batch.evaluation.methods.uniform_bits import UniformBits
from batch.evaluation.methods.vidcom2 import VidCom2
from batch.evaluation.methods.video_scan import VideoScan
from batch.evaluation.methods.vidkv import VidKV
from batch.evaluation.methods.zipcache import ZipCache
from cachefmt.tiers import Tier

Method = CellMethod | FeatureMethod | RowMethod


_OURS = tuple(
    SaliCache(profile=name, temporal=TEMPORAL_PROFILES[name], thresholds=PROFILES[name])
    for name in ("paper", "default")
)
METHODS: tuple[Method, ...] = (
    Full(),
    *_OURS,
    Klt(profile="standard"),
    Klt(profile="small", quality="small"),
    UniformBits(tier=Tier.INT8, profile="int8"),
    UniformBits(tier=Tier.INT4, profile="int4"),
    CentredKeys(),
    LowBits(profile="KIVI, 2 bits", per_channel=("key",)),
    LowBits(profile="VidKV, 2 bits", per_channel=("key", "value"), tokens=32),
    VidKV(profile="1.5 and 1.58 bits"),
    BitMoD(profile="3 bits"),
    ZipCache(profile="4 and 2 bits"),
    ThinK(profile="60 % of key channels"),
    TokenDrop(),
    SparseFrames(),
    DTD(),
    StreamingTOM(),
    HoliTom(),
    FastVID(),
    VidCom2(),
    CurveStream(),
    ToMe(),
    SlidingWindow(),
    StreamingLLM(),
    VideoScan(),
    KeyDiff(),
    InfiniPotV(),
    SoftPrune(),
    H2O(),
    H2O(profile="normalised", normalised=True),
    SnapKV(),
    Scissorhands(),
    DapQ(),
    DapQ(profile="one ranking", shared=True),
    PrefixKV(),
    KVMerger(),
    KVMerger(profile="one ranking", shared=True),
    KVMerger(profile="through time", through_time=True),
    KVMerger(profile="through time, one ranking", through_time=True, shared=True),
    KVzip(),
    KVzip(profile="one ranking", shared=True),
    RazorAttention(),
    SalientCells(),
    RandomTokens(),
)
"""What can be compared, ours first; those that observe the same stand together."""

DEFAULT = _OURS[-1]


def _thresholds(**changed: Any) -> SaliCache:
    return replace(DEFAULT, thresholds=replace(DEFAULT.thresholds, **changed))


def _temporal(**changed: Any) -> SaliCache:
    return replace(DEFAULT, temporal=replace(DEFAULT.temporal, **changed))


def _scaled(factor: float) -> SaliCache:
    names = ("still_threshold", "difference_threshold", "change_threshold")
    return _temporal(**{name: factor * getattr(DEFAULT.temporal, name) for name in names})


_CHANGED = {
    "no temporal signal": _thresholds(static=None, changed=None, pointers=False),
    "no saliency": _thresholds(fp16=2.0, int8=2.0, int4=0.0),
    "no pointers": _thresholds(pointers=False),
    "pointers as nothing": replace(DEFAULT, reuse="none"),
    "positions original": replace(DEFAULT, positions="original"),
    "reference previous": _temporal(reference="previous"),
    "paper's rule for pointers": _temporal(change_threshold=None),
    "one sample of a still stretch": _temporal(still_samples=1),
    "three samples of a still stretch": _temporal(still_samples=3),
    "half the change thresholds": _scaled(0.5),
    "twice the change thresholds": _scaled(2.0),
}
ABLATIONS: tuple[SaliCache, ...] = (
    DEFAULT,
    *(replace(method, profile=f"default, {what}") for what, method in _CHANGED.items()),
)
"""The default profile with one part of it taken away or changed."""

__all__ = [
    "ABLATIONS",
    "DEFAULT",
    "METHODS",
    "Budget",
    "CellMethod",
    "FeatureMethod",
    "Method",
    "Prices",
    "Ranking",
    "RowMethod",
    "fill",
]
