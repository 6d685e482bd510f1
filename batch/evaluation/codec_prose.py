"""Judge "prose" of `--suite codec`: a real language model's rows of text through the same codec.

Text has no places and no samples, so nothing is predicted; and no file is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from batch.evaluation.codec_rows import CALIBRATION_SHARE, CodecRow, Setup, codec_row
from batch.evaluation.data import QuestionSet
from batch.evaluation.judges.prose import ProseJudge
from batch.evaluation.judges.schemes import Scheme
from batch.evaluation.judges.schemes.tiers import Tiers
from batch.evaluation.judges.schemes.transform import CalibratedTransform, Transform
from batch.evaluation.running import Report
from batch.evaluation.summary import Figure, Row, tabulate
from batch.making.codec import STEPS
from cachefmt.tiers import Tier

JUDGE = "prose"


def prose_schemes() -> dict[Setup, Scheme]:
    """What stores the text: tiers as they are, and every quality with either basis."""
    found: dict[Setup, Scheme] = {
        setup: Tiers(label=setup.label, shares={Tier[setup.rows]: 1.0})
        for setup in (
            Setup(quality="lossless", calibrated=False, rows="FP16"),
            Setup(quality="lossless", calibrated=False, rows="INT4"),
        )
    }
    for kind in (Transform, CalibratedTransform):
        for quality, step in STEPS.items():
            setup = Setup(quality=quality, calibrated=kind.is_fitted, rows="FP16")
            found[setup] = kind(label=setup.label, step=step)
    return found


def prose_rows(
    judge: ProseJudge,
    schemes: Mapping[Setup, Scheme],
    sets: Sequence[QuestionSet],
    report: Report,
) -> list[CodecRow]:
    """A row a scheme, over the texts of `ProseJudge.sets`."""
    runs = judge.run_all(sets, list(schemes.values()), report=report)
    found = {row.label: row for row in tabulate(list(runs), JUDGE)}
    return [
        _row(setup, found[setup.label], judge.fitted(scheme)) for setup, scheme in schemes.items()
    ]


def _row(setup: Setup, row: Row, scheme: Scheme) -> CodecRow:
    calibration = scheme.calibration_bytes if isinstance(scheme, Transform) else 0
    share = 1 + calibration / CALIBRATION_SHARE / (row.figures["bytes"].value or 1)
    alone = row.figures["compression_kv"]
    whole = Figure(**{name: value and value / share for name, value in asdict(alone).items()})
    return codec_row(JUDGE, setup, {**row.figures, "compression_fp16": whole}, row.questions)
