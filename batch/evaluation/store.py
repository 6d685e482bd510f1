"""Run one method on one video, up to the point where questions can be asked."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from batch.analysis.manifest import Manifest
from batch.answering import PrefixAnswerer
from batch.evaluation.budgets import Limit, kv_bytes, prices
from batch.evaluation.evict import evict
from batch.evaluation.methods import Budget, CellPolicy, Policy, RowPolicy
from batch.evaluation.stored import Stored
from batch.evaluation.uncompressed import Uncompressed
from batch.evaluation.viewing import Viewing
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import CachePlan, plan_cache
from batch.settings import CacheSettings
from cachefmt import CacheFile, Tier, token_counts


def store_uncompressed(viewing: Viewing) -> Stored:
    """Transformers' own forward over every slot."""
    everything = viewing.everything
    full = Uncompressed(viewing.family, viewing.pictures, viewing.footage)
    whole = everything.header.fp16_kv_bytes
    return Stored(
        answerer=full,
        size_bytes=whole,
        kv_bytes=whole,
        tokens=token_counts({Tier.FP16: everything.plan.slots}),
        seconds=viewing.seconds(encode=full.encode_seconds, prefill=full.forward_seconds),
    )


def store(policy: Policy, viewing: Viewing, limit: Limit | None, folder: Path) -> Stored:
    """Run a method within a budget.

    Args:
        limit: None stores what the method wants.
        folder: where a cache file may be written; an older one is replaced.

    Raises:
        BatchError: the budget does not even hold the text.
    """
    budget = None if limit is None else limit.of(viewing.everything)
    if isinstance(policy, RowPolicy):
        return evict(policy, viewing, budget)
    return _prefill(policy, viewing, budget, folder / "evaluated.safetensors")


def _prefill(policy: CellPolicy, viewing: Viewing, budget: Budget | None, path: Path) -> Stored:
    manifest = viewing.manifest(policy.temporal, policy.thresholds)
    work = _fit(budget, viewing.everything, lambda tight: _plan(policy, viewing, manifest, tight))
    viewing.family.attend_over_tiers()
    took = prefill(work, viewing.family, path)
    analyse = manifest.analyze_seconds - viewing.decode_seconds if policy.reads_signals else 0.0
    with closing(CacheFile.open(path)) as cache:
        prefix = Prefix.load(cache, viewing.family.layer_devices)
    tokens = dict(work.header.shape.tokens)
    return Stored(
        answerer=PrefixAnswerer(
            prefix,
            viewing.family,
            next_position=work.plan.next_position,
            name=viewing.path.name,
        ),
        size_bytes=work.size_bytes,
        kv_bytes=kv_bytes(tokens, work),
        tokens=tokens,
        seconds=viewing.seconds(
            analyse=max(0.0, analyse),
            encode=took.encode,
            prefill=took.forward,
            quantise=took.quantise,
            write=took.write,
        ),
        work=work,
    )


def _plan(
    policy: CellPolicy, viewing: Viewing, manifest: Manifest, budget: Budget | None
) -> CachePlan:
    unit = "tokens" if budget is None else budget.unit
    chosen = policy.choose(manifest, viewing.png, prices(viewing.everything, unit), budget)
    return plan_cache(
        chosen,
        viewing.family,
        dtype=viewing.dtype,
        settings=CacheSettings(positions=policy.positions, pointers=policy.pointers),
    )


def _fit(
    budget: Budget | None, everything: CachePlan, plan: Callable[[Budget | None], CachePlan]
) -> CachePlan:
    """The fullest plan within a budget, though a plan's header is known only when it is made."""
    work = plan(budget)
    if budget is None or budget.unit == "tokens":
        return work
    digits = 0
    while work.size_bytes > budget.amount:
        digits += work.size_bytes - budget.amount
        work = plan(Budget(amount=budget.amount - digits, unit="bytes"))
    return work
