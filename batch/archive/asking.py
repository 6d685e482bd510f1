"""The same questions to every video of an archive, with the model loaded once."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from typing import Any

import torch

from batch.answering import Scope, VideoAnswerer
from batch.answering.retrieval import BUDGET_TOKENS
from batch.answering.video import open_checked
from batch.archive.catalogue import catalogue_rows
from batch.archive.store import ProductFolder, Store
from batch.errors import BatchError
from batch.kv import Kernel
from batch.models import Family, open_family
from batch.models.placement import Device
from cachefmt import CacheFileError


def choose_caches(store: Store, id: str | None) -> ProductFolder:
    """The caches of an ID, or those that were asked for last.

    Raises:
        BatchError: there is none.
    """
    found = [caches for caches in store.all_caches() if id in (None, caches.id)]
    if not found:
        what = "no caches" if id is None else f"no work {id}"
        raise BatchError(
            f"{store.root}: {what} here; batch index writes them, batch status lists them"
        )
    return found[-1]


def load_model(
    caches: ProductFolder,
    *,
    model: str | None,
    device: Device,
    dtype: str | None,
    attention: Kernel,
    offline: bool,
) -> Family:
    """Load the model that wrote caches, from `model` if it lies elsewhere now.

    Raises:
        ModelError: it is not there, or cannot be loaded.
    """
    settings = caches.read_settings()
    revision = None if model else settings["revision"]
    family = open_family(model or settings["model"], revision=revision, offline=offline)
    family.load(
        device=device, dtype=getattr(torch, dtype or settings["dtype"]), attention=attention
    )
    return family


def check_has_videos(store: Store, caches: ProductFolder, match: Sequence[str]) -> None:
    """See that there is a video to ask, before a model is loaded for it.

    Raises:
        BatchError: no video is done, or none of those that are fits the patterns.
    """
    rows = catalogue_rows(store, caches, ["status", "paths"])
    done = [row["paths"] for row in rows if row["status"] == "done"]
    if any(_is_chosen(paths, match) for paths in done):
        return
    if not done:
        raise BatchError(
            f"{store.root}: no video of work {caches.id} is done; batch index goes on with it, "
            "batch status shows how far it is"
        )
    patterns = " ".join(f"--match '{pattern}'" for pattern in match)
    raise BatchError(
        f"{store.root}: of {len(done):,} videos that are done in work {caches.id} none has a path "
        f"that fits {patterns}; a pattern is of the whole path, as in the catalogue: '*/2024/*.mp4'"
    )


def ask_archive(
    store: Store,
    caches: ProductFolder,
    family: Family,
    questions: Sequence[str],
    *,
    match: Sequence[str] = (),
    scope: Scope = "auto",
    budget_tokens: int = BUDGET_TOKENS,
    max_new_tokens: int = 64,
    batch_size: int = 16,
) -> Iterator[dict[str, Any]]:
    """Ask all videos that are done; yields plain values of one video after the other.

    A cache that cannot be used gives an "error" in place of "answers", and the others go on.

    Args:
        match: patterns of paths, as *.mkv; a video is asked if any fits; none: all are.
        scope: what of a video in segments answers.
        budget_tokens: loaded for a question at most where samples are retrieved.
    """
    for row in catalogue_rows(store, caches):
        if row["status"] != "done" or not _is_chosen(row["paths"], match):
            continue
        found = {name: row[name] for name in ("video", "path", "cache")}
        try:
            path = store.root / row["cache"]
            segments = open_checked(path, scope)
            with VideoAnswerer(
                segments, family, path, scope=scope, budget_tokens=budget_tokens
            ) as video:
                replies = video.ask(questions, max_new_tokens=max_new_tokens, batch_size=batch_size)
                yield {**found, "answers": [asdict(reply) for reply in replies]}
        except (BatchError, CacheFileError) as error:
            yield {**found, "error": str(error)}


def _is_chosen(paths: Sequence[str], patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch(path, pattern) for path in paths for pattern in patterns)
