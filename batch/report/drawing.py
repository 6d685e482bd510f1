"""A video as a page draws it: its time line and the strip of its samples. Knows no templates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from batch.report import charts
from batch.report.pictures import (
    MOST_PICTURES,
    aspect,
    choose,
    picture_data,
    tiers_data,
    weights_data,
    width_px,
)
from batch.report.tiers import tier_shares
from batch.report.videos import VideoReport


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What one answer rests on.

    - evidence: ranges of time, s, half-open.
    - cells: of samples, how much each cell counts, [cells].
    """

    evidence: Sequence[tuple[float, float]]
    cells: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What lies over a picture: tiers, or the cells that an answer, by its number, rests on."""

    kind: str
    picture: str
    answer: int | None = None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A sample of the strip; `hidden` says what follows it and is not shown."""

    kind: str
    picture: str
    layers: Sequence[Layer]
    time: str
    note: str
    said: str
    scene: int | None
    answers: Sequence[int]
    hidden: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A stretch of a time line: a scene, a segment, kept samples, evidence of some answers."""

    kind: str
    bar: charts.Bar
    said: str
    answers: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Stretches of one kind, and in words what there are."""

    name: str
    said: str
    rows: Sequence[Row]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A time on the axis."""

    x: float
    text: str


@dataclass(frozen=True, kw_only=True)
class DrawnVideo:
    """Pictures by the name of their class, frames, bars and areas over one axis."""

    pictures: Mapping[str, str]
    frames: Sequence[Frame]
    bars: Sequence[Bars]
    areas: Sequence[charts.Area]
    ticks: Sequence[Tick]
    wide_px: int
    aspect: float
    across: float
    down: float
    shown: str


def draw(
    video: VideoReport,
    rests: Sequence[Rest] = (),
    *,
    name: str = "",
    most: int = MOST_PICTURES,
    with_tiers: bool = True,
) -> DrawnVideo:
    """Draw a video, and if there are answers what each rests on.

    Args:
        name: begins the names of its pictures, which differ from those of other videos on a page.
        most: pictures.

    Raises:
        ManifestError: a picture is damaged.
    """
    manifest = video.manifest
    geometry, kept = manifest.geometry, manifest.kept
    answers_of = _answers_of(video, rests)
    important = {int(manifest.source[sample]) for sample in answers_of}
    several = video.scenes if len(video.scenes) > 1 else []
    scenes = {span.first_sample: number for number, span in enumerate(several, 1)}
    scene_starts = {int(manifest.source[sample]) for sample in scenes}
    shown = choose(kept, important, scene_starts, most)
    listed = list(range(len(kept))) if len(kept) <= most else shown
    width = width_px(len(shown))
    pictures = {f"{name}p{sample}": picture_data(manifest, sample, width) for sample in shown}
    layers: dict[int, list[Layer]] = {sample: [] for sample in shown}
    for sample, layer, data in _layers(video, rests, shown, name, with_tiers=with_tiers):
        pictures[layer.picture] = data
        layers[sample].append(layer)
    frames = [
        _frame(video, sample, following, answers_of, scenes, layers, name)
        for sample, following in pairwise([*listed, len(kept)])
    ]
    axis = charts.Axis(start_s=float(video.edges_s[0]), stop_s=float(video.edges_s[-1]))
    height_px, covered_px = geometry.covered
    return DrawnVideo(
        pictures=pictures,
        frames=frames,
        bars=[*_bars(video, axis), *_evidence_bars(rests, axis)],
        areas=_areas(video, axis),
        ticks=[Tick(x=axis.x(time_s), text=clock(time_s)) for time_s in axis.ticks_s()],
        wide_px=min(168, max(96, width * 5 // 8)),
        aspect=round(aspect(manifest), 4),
        across=round(100 * covered_px / geometry.width_px, 3),
        down=round(100 * height_px / geometry.height_px, 3),
        shown=_shown(video, len(listed)),
    )


def clock(seconds: float) -> str:
    """A time as players show it: 1:02, 1:02:03; with tenths where it is no whole second."""
    tenths = round(seconds * 10)
    whole, part = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return f"{text}.{part}" if part else text


def _shown(video: VideoReport, listed: int) -> str:
    samples = len(video.manifest.kept)
    if listed < samples:
        return f"{listed:,} of {samples:,} samples, the beginnings of scenes among them."
    if video.manifest.kept.all():
        return f"All {samples:,} samples."
    pale = "pointers, which store nothing"
    if video.reuses_cells:
        pale = "redundant: all their cells are reused"
    return f"All {samples:,} samples; pale ones are {pale}."


def _answers_of(video: VideoReport, rests: Sequence[Rest]) -> dict[int, list[int]]:
    """The numbers, from 1, of the answers that rest on a sample; a pointer is on screen too."""
    found: dict[int, list[int]] = {}
    for number, rest in enumerate(rests, 1):
        samples: set[int] = set()
        for start_s, stop_s in rest.evidence:
            samples.update(video.samples_within(start_s, stop_s))
        for sample in sorted(samples):
            found.setdefault(sample, []).append(number)
    return found


def _layers(
    video: VideoReport,
    rests: Sequence[Rest],
    shown: Sequence[int],
    name: str,
    *,
    with_tiers: bool,
) -> Iterator[tuple[int, Layer, str]]:
    """What lies over the samples that are shown, and its picture."""
    grid = video.manifest.geometry.rows, video.manifest.geometry.columns
    for sample in shown if with_tiers else ():
        data = tiers_data(video.states[sample].reshape(grid))
        yield sample, Layer(kind="tiers", picture=f"{name}t{sample}"), data
    for number, rest in enumerate(rests, 1):
        for sample in sorted(rest.cells.keys() & set(shown)):
            layer = Layer(kind="cells", picture=f"{name}c{number}s{sample}", answer=number)
            yield sample, layer, weights_data(rest.cells[sample].reshape(grid))


def _frame(
    video: VideoReport,
    sample: int,
    following: int,
    answers_of: Mapping[int, list[int]],
    scenes: Mapping[int, int],
    layers: Mapping[int, list[Layer]],
    name: str,
) -> Frame:
    manifest = video.manifest
    source, kept = int(manifest.source[sample]), bool(manifest.kept[sample])
    hidden = manifest.kept[sample + 1 : following]
    parts = [
        f"{count:,} {what}"
        for count, what in ((hidden.sum(), "kept"), ((~hidden).sum(), "redundant"))
        if count
    ]
    copies = int(manifest.multiplicity[sample])
    note = "" if kept else "reused" if video.reuses_cells else "pointer"
    if copies > 1 and not video.reuses_cells:
        note = f"{copies}×"
    return Frame(
        kind="kept" if kept else "pointer",
        picture=f"{name}p{source}",
        layers=layers.get(source, []),
        time=clock(float(video.edges_s[sample])),
        note=note,
        said=_said(video, sample),
        scene=scenes.get(sample),
        answers=answers_of.get(sample, ()),
        hidden=" and ".join(parts),
    )


def _said(video: VideoReport, sample: int) -> str:
    """A sample in a line: when it is, what is stored of it, how much changed."""
    manifest = video.manifest
    signals, time = manifest.signals, clock(float(video.edges_s[sample]))
    if not manifest.kept[sample]:
        what = "redundant, as" if video.reuses_cells else "a pointer to"
        return f"sample {sample} at {time}: {what} sample {manifest.source[sample]}"
    shares = tier_shares(video.states[sample])
    tiers = ", ".join(f"{tier} {share:.0%}" for tier, share in shares.items() if share)
    copies = int(manifest.multiplicity[sample])
    counts = f", counts {copies} times" if copies > 1 and not video.reuses_cells else ""
    static = f"{signals.redundancy[sample]:.0%} static, " if sample else ""
    saliency = f"saliency {signals.saliency[sample].mean():.2f}"
    return f"sample {sample} at {time}{counts}: {tiers}; {static}{saliency}"


def _bars(video: VideoReport, axis: charts.Axis) -> list[Bars]:
    edges_s, kept = video.edges_s, video.manifest.kept
    samples = [
        Row(
            kind=kind,
            bar=charts.bar(axis, float(edges_s[start]), float(edges_s[stop])),
            said=f"{stop - start:,} {what} from {clock(float(edges_s[start]))}",
        )
        for kind, what, flags in (("kept", "kept", kept), ("pointer", "pointers", ~kept))
        for start, stop in charts.runs(flags)
    ]
    spans = {"scenes": video.scenes}
    if len(video.segments) > 1:
        spans["segments"] = [segment.span for segment in video.segments]
    rows = {
        name: [
            Row(
                kind="scene",
                bar=charts.bar(axis, span.start_s, span.stop_s),
                said=f"{name[:-1]} {number}: {clock(span.start_s)} to {clock(span.stop_s)}",
            )
            for number, span in enumerate(found, 1)
        ]
        for name, found in spans.items()
    }
    count = int(kept.sum())
    return [
        Bars(
            name="samples",
            said=f"{count:,} kept samples, dark, and {len(kept) - count:,} pointers, pale",
            rows=samples,
        ),
        *(Bars(name=name, said=f"{len(of):,} {name}", rows=of) for name, of in rows.items()),
    ]


def _evidence_bars(rests: Sequence[Rest], axis: charts.Axis) -> list[Bars]:
    rows = [
        Row(
            kind="mark on" if number == 1 else "mark",
            bar=charts.bar(axis, start_s, stop_s),
            said=f"answer {number}: {clock(start_s)} to {clock(stop_s)}",
            answers=[number],
        )
        for number, rest in enumerate(rests, 1)
        for start_s, stop_s in rest.evidence
    ]
    return [Bars(name="rests on", said="what answers rest on", rows=rows)] if rows else []


def _areas(video: VideoReport, axis: charts.Axis) -> list[charts.Area]:
    """Change, saliency and bytes over time; what is nowhere above zero is left out."""
    signals, edges_s = video.manifest.signals, video.edges_s
    found = []
    for name, cells in (("change", signals.difference), ("saliency", signals.saliency)):
        values = cells.mean(1, dtype=np.float64)
        found.append((name, edges_s, values, "{:.3f}"))
    blocks = [block for segment in video.segments for block in segment.blocks]
    if blocks:
        edges = np.array([*(span.start_s for span, _ in blocks), blocks[-1][0].stop_s])
        rates = np.array([size for _, size in blocks]) / np.maximum(np.diff(edges), 1e-9)
        found.append(("bytes a second", edges, rates, "{:,.0f}"))
    return [
        charts.Area(
            name=name,
            path=charts.area(axis, edges, values),
            highest=text.format(values.max()),
            mean=text.format(np.average(values, weights=np.maximum(np.diff(edges), 1e-9))),
        )
        for name, edges, values, text in found
        if values.max() > 0
    ]
