"""Ways to store keys and values, whatever they are of; a new one is a class and a line here."""

from collections.abc import Sequence

from batch.errors import BatchError
from batch.evaluation.judges.schemes.controls import Nothing, RandomRows
from batch.evaluation.judges.schemes.quantized_cache import QUANTIZED, Quantized
from batch.evaluation.judges.schemes.scheme import ByMethod, Scheme
from batch.evaluation.judges.schemes.tiers import Tiers
from batch.evaluation.judges.schemes.transform import CalibratedTransform, Transform
from batch.evaluation.methods import RowMethod
from batch.evaluation.methods.low_bits import LowBits
from batch.evaluation.runs import Entry, Label
from batch.making.codec import STEPS
from batch.settings import Limit
from cachefmt.tiers import Tier


def _label(method: str, profile: str | None = None) -> Label:
    return Label(method=method, profile=profile)


SCHEMES: tuple[Scheme, ...] = (
    Tiers(label=_label("full"), kind="whole", shares={Tier.FP16: 1.0}),
    # Tiers of stored cells in films: batch/evaluation/RESULTS.md, "no pointers".
    Tiers(
        label=_label("sali-cache", "tiers of default, drawn"),
        shares={Tier.FP16: 0.001, Tier.INT8: 0.021, Tier.INT4: 0.978},
    ),
    *(
        CalibratedTransform(label=_label("klt", f"{quality}, calibrated"), step=step)
        for quality, step in STEPS.items()
    ),
    Transform(label=_label("klt", "small"), step=STEPS["small"]),
    Tiers(label=_label("uniform", "int8"), shares={Tier.INT8: 1.0}),
    Tiers(label=_label("uniform", "int4"), shares={Tier.INT4: 1.0}),
    Tiers(label=_label("uniform", "int4, groups of 32"), shares={Tier.INT4: 1.0}, group_size=32),
    ByMethod.of(LowBits(profile="4 bits, keys per channel", bits=4, per_channel=("key",))),
    ByMethod.of(LowBits(profile="3 bits", bits=3)),
    ByMethod.of(LowBits(profile="3 bits, keys per channel", bits=3, per_channel=("key",))),
    ByMethod.of(LowBits(profile="2 bits", bits=2)),
    *(
        Quantized(
            label=_label("QuantizedCache", f"{backend} {bits} bits"), backend=backend, bits=bits
        )
        for backend, bits in QUANTIZED
    ),
    Nothing(label=_label("nothing")),
)
"""What is compared beside the methods of films that work on rows, ours first."""


def choose_schemes(
    entries: Sequence[Entry], names: Sequence[str], limits: Sequence[Limit]
) -> list[Scheme]:
    """What of a comparison of films can store text, and SCHEMES; of some methods, if any is named.

    Raises:
        BatchError: that is nothing.
    """
    methods = [
        ByMethod.of(entry.method, entry.limit)
        for entry in entries
        if isinstance(entry.method, RowMethod) and not entry.method.needs_samples
    ]
    controls = [ByMethod.of(RandomRows(), limit) for limit in limits]
    found = [
        scheme
        for scheme in (*SCHEMES, *methods, *controls)
        if not names or scheme.label.method in names
    ]
    if not found:
        raise BatchError(f"--method: no way to store text among {', '.join(names)}")
    return found


__all__ = ["SCHEMES", "Scheme", "choose_schemes"]
