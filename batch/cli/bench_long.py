"""What `batch bench --suite long` prints."""

from typing import Any

SCOPES = {
    "retrieve": "what a question is about, of the whole video",
    "bound": "the right segment, all of it",
    "bound_retrieve": "the right segment, what the question is about",
    "all": "every segment; the likeliest answer",
    "elsewhere": "a segment that does not show it: what guessing gives",
    "uniform": "samples evenly over the video, uncompressed",
}


def report_long(long: dict[str, Any]) -> list[str]:
    """Lines for people, of what `run_long` has under "long"."""
    figures = long["figures"]
    quarters, video = figures["accuracy_by_quarter"], figures["videos"][0]
    lines = [
        f"{len(figures['videos'])} videos of {video['samples']} samples, {figures['questions']} "
        f"questions; the first: {video['tokens']:,} tokens in {video['segments']} segment(s), "
        f"{video['size_bytes']:,} bytes",
        "",
        f"{'accuracy':16}{'all':>8}" + "".join(f"{f'quarter {n + 1}':>11}" for n in range(4)),
    ]
    for scope, meaning in SCOPES.items():
        by_quarter = "".join(f"{_number(right.get(scope)):>11}" for right in quarters)
        lines.append(f"{scope:16}{_number(long[f'accuracy_{scope}']):>8}{by_quarter}  {meaning}")
    retrieved, read = figures["retrieved"], figures["read"]
    lines += [
        "",
        f"retrieved: {retrieved['samples_mean']:.0f} samples, {retrieved['tokens_mean']:.0f} "
        f"tokens a question; {retrieved['found']:.3f} with some of the moment, of which "
        f"{_number(retrieved['right_if_found'])} right, of the others "
        f"{_number(retrieved['right_if_not'])}",
        f"read for a question: {_span(read['share_of_file'])} of the file, at most "
        f"{long['read_over_budget']:+.1%} beyond the budget of {figures['budget_tokens']} tokens, "
        f"{_span(read['over_loaded_rows'])} beyond the rows loaded; "
        f"from the disk, in whole pages, {_span(read['from_disk'])}",
        "",
        f"{'peak, MB':20}{'short':>8}{'long':>8}{'growth':>8}",
    ]
    for phase, growth in figures["growth"].items():
        short, long_ = (_peak(videos, phase) for videos in ([figures["short"]], figures["videos"]))
        lines.append(f"{phase:20}{_number(short, 1):>8}{_number(long_, 1):>8}{_number(growth):>8}")
    lines += ["", "evidence, of right answers: some of the moment named, share of it, of the video"]
    for kind, found in figures["evidence"].items():
        keys = ("touched", "recall", "share_named")
        named = ", ".join(_number(found.get(key)) for key in keys)
        lines.append(f"{kind:16}{named}  ({found['right']} of {found['questions']} right)")
    seconds = ", ".join(f"{phase} {took:.1f}" for phase, took in video["seconds"].items())
    return [*lines, "", f"seconds, the first video: {seconds}"]


def _peak(videos: list[dict[str, Any]], phase: str) -> float | None:
    """Megabytes, the most of some videos."""
    peaks = [video["peak_bytes"][phase] for video in videos]
    return None if None in peaks else max(peaks) / 1e6


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _span(shares: list[float]) -> str:
    return f"{min(shares):.1%} to {max(shares):.1%}"
