"""Judge "prose" of `--suite codec`: a real language model's rows of text through the same codec.

Text has no places and no samples, so nothing is predicted; and no file is written.
"""

from collections.abc import Callable
from dataclasses import asdict

from batch.evaluation.codec_rows import CALIBRATION_SHARE, CodecRow, Setup
from batch.evaluation.judges.prose import LanguageModel, ProseJudge, ProseRow
from batch.evaluation.judges.schemes import Scheme
from batch.evaluation.judges.schemes.tiers import Tiers
from batch.evaluation.judges.schemes.transform import CalibratedTransform, Transform
from batch.making.codec import STEPS
from cachefmt.tiers import Tier

JUDGE = "prose"
_EXACT = Setup(quality="lossless", calibrated=False, rows="FP16")


def prose_schemes() -> dict[Setup, Scheme]:
    """What stores the text: tiers as they are, and every quality with either basis."""
    found: dict[Setup, Scheme] = {
        _EXACT: Tiers(name="FP16", shares={Tier.FP16: 1.0}),
        Setup(quality="lossless", calibrated=False, rows="INT4"): Tiers(
            name="INT4", shares={Tier.INT4: 1.0}
        ),
    }
    for kind in (Transform, CalibratedTransform):
        for quality, step in STEPS.items():
            setup = Setup(quality=quality, calibrated=kind.is_fitted, rows="FP16")
            found[setup] = kind(name=str(setup.label), step=step)
    return found


def prose_rows(
    model: LanguageModel,
    schemes: dict[Setup, Scheme],
    tokens: int,
    count: int,
    report: Callable[[int], object],
) -> list[CodecRow]:
    """A row a scheme, over `count` contexts of `tokens` tokens.

    Raises:
        BatchError: as of `ProseJudge.rows`.
    """
    judge = ProseJudge(model, list(schemes.values()))
    found = dict(zip(schemes, judge.rows(tokens, count, report), strict=True))
    fitted = dict(zip(schemes, judge.schemes, strict=True))
    return [_row(setup, row, found[_EXACT], fitted[setup]) for setup, row in found.items()]


def _row(setup: Setup, row: ProseRow, exact: ProseRow, scheme: Scheme) -> CodecRow:
    calibration = scheme.calibration_bytes if isinstance(scheme, Transform) else 0
    share = 1 + calibration / CALIBRATION_SHARE / row.bytes
    return CodecRow(
        judge=JUDGE,
        codec=setup.codec,
        **asdict(setup),
        n=row.needles_asked,
        retained=row.needles / exact.needles if exact.needles else None,
        agreement=row.agreement,
        kl=row.kl,
        compression_file=row.compression_fp16 / share,
        compression_kv=row.compression_fp16,
        decode_mb_s=None,
        neutral_kl=None,
        intervals={},
    )
