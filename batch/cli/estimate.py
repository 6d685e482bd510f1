"""What `batch index --dry-run` prints of an estimate."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from batch.cli.progress import in_line, in_words

if TYPE_CHECKING:
    from batch.archive.estimating import Amount, Estimate
    from batch.archive.request import Request


def lines_of(found: "Estimate", request: "Request") -> list[str]:
    """An estimate for people; a range is from the least to the most that one of the sample says."""
    from batch.report.rendering import in_bytes

    reasons = Counter(reason.value for _, reason, _ in found.failing)
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    models = len(request.devices)
    lines = [
        f"files      {found.files:,}: {found.new:,} videos to do, {found.done:,} done, "
        f"{found.others:,} others; copies among the new count once when they are read",
        f"will fail  {len(found.failing):,}{f' ({counted})' if counted else ''}",
        *(f"  {in_line(message or path)}" for path, _, message in found.failing),
        f"video      {in_words(found.video_s)}, as the files declare",
        f"sample     {found.sampled} of them, {in_words(found.sampled_s)}, analysed whole",
    ]
    if found.sampled:
        lines += [
            f"caches     {_words(found.cache_bytes, in_bytes)}",
            f"manifests  {_words(found.manifest_bytes, in_bytes)}",
            f"analysis   {_words(found.analyze_s, in_words)} in {request.jobs} processes",
            f"prefill    {_words(found.prefill_s, in_words)} in {models} with the model"
            if found.prefill_s
            else "prefill    not measured: the weights are not on this machine",
        ]
    return lines


def _words(amount: "Amount | None", say: Callable[[float], str]) -> str:
    if amount is None:
        return "unknown"
    return f"about {say(amount.about)} ({say(amount.least)} to {say(amount.most)})"
