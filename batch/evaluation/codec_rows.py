"""The table of `--suite codec`: what a quality of the file costs and what it keeps, by judge.

Knows runs and figures; runs nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from batch.evaluation.runs import Label, Run
from batch.evaluation.summary import Figure, by_label, intervals, measure
from batch.evaluation.tables import Table, with_interval
from batch.settings import Quality

CALIBRATION_SHARE = 100
"""Files that a calibration is divided among where its bytes are counted: one serves an archive."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How keys and values are stored.

    - quality: as of `batch prefill`; lossless is the codec plain, others are klt.
    - calibrated: whether its basis is in a calibration, or in the file itself.
    - rows: what is stored: the profile of the analysis, "none" being every slot; of prose the tier
      of all rows.
    """

    quality: Quality
    calibrated: bool
    rows: str

    @property
    def codec(self) -> str:
        return "plain" if self.quality == "lossless" else "klt"

    @property
    def label(self) -> Label:
        basis = {"plain": "", "klt": ", calibrated" if self.calibrated else ", own basis"}
        return Label(method=f"{self.codec} {self.quality}{basis[self.codec]}", profile=self.rows)


@dataclass(kw_only=True)
class Loads:
    """What was seen when files of a setup were read back; a number a file."""

    row_bytes: list[int] = field(default_factory=list)
    """FP16 K and V of all stored tokens."""
    seconds: list[float] = field(default_factory=list)
    neutral_kl: list[float] = field(default_factory=list)
    """The error that the file promises, in its header."""


@dataclass(frozen=True, kw_only=True)
class CodecRow:
    """A setup's figures by one judge; None where it has none.

    - n: questions; of prose hidden numbers that were asked for.
    - retained: right answers, divided by those of exact rows. agreement, kl: against exact rows;
      of answers and of their first token, of prose of the next tokens.
    - compression_file: FP16 K and V of all slots divided by all bytes of the files, and of a
      calibration CALIBRATION_SHARE's part for each. Of prose, which writes no file, by K and V.
    - compression_kv: the same by keys, values and bases in the file alone.
    - decode_mb_s: FP16 K and V of stored tokens, in MB, a second of reading a file to rows.
    - neutral_kl: mean error that the files promise, as measured when they were written.
    """

    judge: str
    codec: str
    quality: str
    calibrated: bool
    rows: str
    n: int
    retained: float | None
    agreement: float
    kl: float
    compression_file: float
    compression_kv: float
    decode_mb_s: float | None
    neutral_kl: float | None
    intervals: dict[str, list[float]]
    """Of those figures that have one."""


def film_rows(judge: str, runs: Iterable[Run], loads: dict[Setup, Loads]) -> list[CodecRow]:
    """A row a setup; intervals by bootstrap over worlds, each of which several films may show."""
    by_setup = by_label(runs)
    return [
        codec_row(
            judge,
            setup,
            measure(by_world(by_setup[setup.label])),
            sum(len(run.answers) for run in by_setup[setup.label]),
            found,
        )
        for setup, found in loads.items()
    ]


def codec_row(
    judge: str, setup: Setup, figures: Mapping[str, Figure], n: int, loads: Loads | None = None
) -> CodecRow:
    """The row of a setup from its figures; loads: of text None, there is no file."""
    named = {
        "retained": figures["retained"],
        "agreement": figures["agreement_em"],
        "kl": figures["kl"],
        "compression_file": figures["compression_fp16"],
        "compression_kv": figures["compression_kv"],
    }
    return CodecRow(
        judge=judge,
        codec=setup.codec,
        **asdict(setup),
        n=n,
        retained=named["retained"].value,
        agreement=_known(named["agreement"]),
        kl=_known(named["kl"]),
        compression_file=_known(named["compression_file"]),
        compression_kv=_known(named["compression_kv"]),
        decode_mb_s=None if loads is None else sum(loads.row_bytes) / 1e6 / sum(loads.seconds),
        neutral_kl=None if loads is None else _mean(loads.neutral_kl),
        intervals=intervals(named),
    )


def by_world(runs: Sequence[Run]) -> list[Run]:
    """Films of one world as one run: variants of a number and seed are drawn of the same one.

    Their questions are much the same, so they are one draw. The name of a drawn film ends in its
    seed and number.
    """
    worlds: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        worlds["-".join(run.video.rsplit("-", 2)[1:])].append(run)
    return [
        replace(
            own[0],
            answers=tuple(one for run in own for one in run.answers),
            **{
                name: sum(getattr(run, name) for run in own)
                for name in ("samples", "fp16_bytes", "size_bytes", "kv_bytes", "seconds")
            },
        )
        for own in worlds.values()
    ]


def codec_table(rows: Sequence[CodecRow]) -> Table:
    """The rows as a table for people."""
    return Table(
        title="Codecs",
        note=(
            "x FP16: keys and values of all slots against the whole file, with a calibration's "
            f"share of 1/{CALIBRATION_SHARE}, and against keys, values and bases alone. retained: "
            "right answers against those of exact rows, 95 % interval by bootstrap over worlds, "
            "of prose over texts."
        ),
        head=[
            *("judge", "rows", "codec", "quality", "basis", "n", "retained", "agreement", "KL"),
            *("x FP16, file", "x FP16, K and V", "rows MB/s", "KL promised"),
        ],
        rows=[_cells(row) for row in rows],
        texts=5,
    )


def _cells(row: CodecRow) -> list[str]:
    basis = "" if row.codec == "plain" else "calibrated" if row.calibrated else "own"
    retained = with_interval(row.retained, row.intervals.get("retained"))
    return [
        *(row.judge, row.rows, row.codec, row.quality, basis, str(row.n), retained),
        *(f"{row.agreement:.3f}", f"{row.kl:.4f}"),
        *(f"{row.compression_file:.1f}", f"{row.compression_kv:.1f}"),
        "" if row.decode_mb_s is None else f"{row.decode_mb_s:.0f}",
        "" if row.neutral_kl is None else f"{row.neutral_kl:.4f}",
    ]


def _known(figure: Figure) -> float:
    if figure.value is None:
        raise ValueError("a figure of an own run is not known")
    return figure.value


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
