"""What `batch bench` prints of its suites for people."""

from collections.abc import Iterator
from typing import Any

SCOPES = {
    "retrieve": "what a question is about, of the whole video",
    "bound": "the right segment, all of it",
    "bound_retrieve": "the right segment, what the question is about",
    "all": "every segment; the likeliest answer",
    "elsewhere": "a segment that does not show it: what guessing gives",
    "uniform": "samples evenly over the video, uncompressed",
}

MEASUREMENTS = {
    "timing": {
        "prefill_time": "time of analysis, prefill and writing / decoding and uncompressed forward",
        "first_answer_speedup": "first answer from the video, uncompressed / from the file",
    },
    "timing64": {
        "prefill_time_64": "prefill_time of a film of 64 samples",
        "first_answer_speedup_64": "first_answer_speedup of a film of 64 samples",
    },
    "memory": {
        "prefill_peak_memory": "peak of K, V and activations, as of prefill_time",
    },
    "lengths": {
        "prefill_memory_growth": "prefill peak beyond stored bytes, longest / shortest and buffers",
    },
    "questions": {
        "first_answer_overhead": "first answer from the file / the same with its rows in memory",
        "question_steps": "a question of 4 tokens / one decode step",
    },
    "batch": {
        "batch64_speedup": "64 questions one by one / in one batch",
    },
    "loading": {
        "load_rate": "raw read of a long cache into new memory / opening it, touching all rows",
        "load_rate_reused_buffer": "the same, read into a buffer that is there already",
        "decode_rate": "raw read of a film's rows at INT4 / decoding them from its file",
    },
    "attention": {
        "attention_block": "a block's attention over INT4 rows / torch's own over decoded rows",
    },
    "launches": {
        "launches_per_layer": "of a decode step, beside the model's own; counted, not measured",
    },
    "decoding": {
        "decode_step": "a step on INT8 or INT4 rows, the slower / on as many rows in bfloat16",
        "decode_step_uncompressed": "a step on a film's tiers / on all its slots in bfloat16",
    },
}
"""The measurements of the suite `tiers`, and what each of their ratios divides by what."""

RATIOS = {name: meaning for ratios in MEASUREMENTS.values() for name, meaning in ratios.items()}

PARTS = {
    "analyze_seconds": "analysis",
    "encode_seconds": "vision tower",
    "forward_seconds": "language model",
    "quantise_seconds": "quantising",
    "write_seconds": "waiting for the file",
    "measure_seconds": "measuring its error",
}
"""Where the time of `prefill_time` goes; what is written behind the model, nobody waits for."""

NOISY_SHARE = 0.05
"""Of all cores: where other work took more meanwhile, a time is called noisy."""


def report(found: dict[str, Any]) -> Iterator[str]:
    """Lines for people, of what a suite returned."""
    machine, versions = found["machine"], found["versions"]
    memory = "" if machine["memory_bytes"] is None else f", {machine['memory_bytes'] >> 30} GiB"
    gpu = "" if machine["gpu"] is None else f", {machine['gpu']}"
    yield (
        f"{machine['processor']} ({machine['processor_dtype']}), "
        f"{machine['cores']} cores{memory}{gpu}; "
        f"load before {machine['load_1min']:.1f}"
    )
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"{packages}; load after {found['load_after_1min']:.1f}"
    suites = {"tiers": _tiers, "archive": _archive, "long": _long}
    yield from suites[found["suite"]](found)


def is_noisy(share: float | None) -> bool:
    """Whether other work took so much of a machine that a time is not to be called quiet."""
    return share is None or share > NOISY_SHARE


def _tiers(found: dict[str, Any]) -> Iterator[str]:
    yield f"profile {found['profile']}, median of at most {found['repeats']} in turn"
    yield ""
    yield f"{'':26}" + "".join(f"{size:>11}" for size in found["ratios"])
    for name, meaning in RATIOS.items():
        values = [_measured(found, size, name) for size in found["ratios"]]
        if any(value.strip(" -") for value in values):
            yield f"{name:26}{''.join(values)}  {meaning}"
    yield from _noise(found)
    yield ""
    for size, figures in found["figures"].items():
        yield (
            f"{size}: {figures['about']}; {figures['dtype']} on {figures['device']}; "
            f"{figures['films']} film(s) of {figures['samples']} samples; the first: "
            f"{sum(figures['tokens'].values())} of {figures['slots']} slots stored, "
            f"{figures['cache_bytes']:,} bytes"
        )
        for name in ("timing", "timing64"):
            if name in figures:
                yield f"  {name}: " + ", ".join(_parts(figures[name]))
        yield from _few_queries(figures.get("attention", {}).get("few_queries", []))


def _parts(taken: dict[str, list[float]]) -> Iterator[str]:
    """Shares of analysis and prefill, of all repeats together."""
    for name, meaning in PARTS.items():
        yield f"{meaning} {sum(taken[name]) / sum(taken['compressed_seconds']):.1%}"


def _measured(found: dict[str, Any], size: str, name: str) -> str:
    """A ratio in ten columns and its mark in one."""
    value = found["ratios"][size].get(name)
    if value is None:
        return f"{'-':>10} "
    return f"{value:10.3f}{'~' if is_noisy(found['figures'][size]['other_work'][name]) else ' '}"


def _noise(found: dict[str, Any]) -> Iterator[str]:
    shares = [
        share for figures in found["figures"].values() for share in figures["other_work"].values()
    ]
    noisy = [share for share in shares if is_noisy(share)]
    if None in noisy:
        yield "~ it is not known here whether other work ran meanwhile"
    elif noisy:
        yield f"~ noisy: other work took up to {max(noisy):.0%} of the machine meanwhile"


def _few_queries(rows: list[dict[str, Any]]) -> Iterator[str]:
    if rows:
        yield f"{'attention alone':>18}{'queries':>9}{'rows':>9}{'ms':>8}{'SDPA ms':>9}{'GB/s':>7}"
    for row in rows:
        yield (
            f"{row['tier']:>18}{row['queries']:9}{row['rows']:9,}{row['tiered_ms']:8.3f}"
            f"{row['sdpa_ms']:9.3f}{row['gb_per_s']:7.0f}"
        )


def _archive(found: dict[str, Any]) -> Iterator[str]:
    workers = found["workers"]
    yield (
        f"{found['films'] * found['variants']} films of {found['samples']} samples, "
        f"median of {found['repeats']}"
    )
    yield ""
    yield (
        f"analysis       {workers['analyze_seconds_1']:.1f} s by one worker, "
        f"{workers['analyze_seconds_2']:.1f} s by two: {workers['speedup']:.2f}x"
    )
    yield f"model idle     {workers['idle_share']:.1%} of its time although a manifest was ready"
    yield ""
    commands = next(iter(found["growth"].values()))
    yield f"{'records':>10}" + "".join(f"{name:>20}" for name in commands)
    for count, costs in found["growth"].items():
        yield f"{int(count):10,}" + "".join(
            f"{cost['seconds']:9.1f} s {cost['peak_bytes'] / 1e6:5.0f} MB"
            for cost in costs.values()
        )


def _long(found: dict[str, Any]) -> Iterator[str]:
    long = found["long"]
    figures = long["figures"]
    quarters, video = figures["accuracy_by_quarter"], figures["videos"][0]
    yield (
        f"{len(figures['videos'])} videos of {video['samples']} samples, {figures['questions']} "
        f"questions; the first: {video['tokens']:,} tokens in {video['segments']} segment(s), "
        f"{video['size_bytes']:,} bytes"
    )
    yield ""
    yield f"{'accuracy':16}{'all':>8}" + "".join(f"{f'quarter {n + 1}':>11}" for n in range(4))
    for scope, meaning in SCOPES.items():
        by_quarter = "".join(f"{_number(right.get(scope)):>11}" for right in quarters)
        yield f"{scope:16}{_number(long[f'accuracy_{scope}']):>8}{by_quarter}  {meaning}"
    retrieved, read = figures["retrieved"], figures["read"]
    yield ""
    yield (
        f"retrieved: {retrieved['samples_mean']:.0f} samples, {retrieved['tokens_mean']:.0f} "
        f"tokens a question; {retrieved['found']:.3f} with some of the moment, of which "
        f"{_number(retrieved['right_if_found'])} right, of the others "
        f"{_number(retrieved['right_if_not'])}"
    )
    yield (
        f"read for a question: {_range(read['share_of_file'])} of the file, at most "
        f"{long['read_over_budget']:+.1%} beyond the budget of {figures['budget_tokens']} tokens, "
        f"{_range(read['over_loaded_rows'])} beyond the rows loaded; "
        f"from the disk, in whole pages, {_range(read['from_disk'])}"
    )
    yield ""
    yield from _peaks(figures)
    yield ""
    yield from _evidence(figures)


def _peaks(figures: dict[str, Any]) -> Iterator[str]:
    yield f"{'peak, MB':20}{'short':>8}{'long':>8}{'growth':>8}"
    for phase, growth in figures["growth"].items():
        line = f"{phase:20}"
        for videos in ([figures["short"]], figures["videos"]):
            peaks = [video["peak_bytes"][phase] for video in videos]
            line += f"{_number(None if None in peaks else max(peaks) / 1e6, 1):>8}"
        yield f"{line}{_number(growth):>8}"


def _evidence(figures: dict[str, Any]) -> Iterator[str]:
    yield "evidence, of right answers: some of the moment named, share of it, of the video"
    for kind, found in figures["evidence"].items():
        keys = ("touched", "recall", "share_named")
        named = ", ".join(_number(found.get(key)) for key in keys)
        yield f"{kind:16}{named}  ({found['right']} of {found['questions']} right)"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _range(shares: list[float]) -> str:
    return f"{min(shares):.1%} to {max(shares):.1%}"
