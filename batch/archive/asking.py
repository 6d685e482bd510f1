"""The same questions to every video of an archive, with the model loaded once."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import Any

from batch.answering import AnswerSettings, open_cache
from batch.archive.catalogue import catalogue_rows
from batch.archive.store import ProductFolder, Store
from batch.errors import BatchError
from batch.models import Family, open_model
from batch.settings import Attention, ModelSettings
from cachefmt import CacheFileError


def choose_caches(store: Store, id: str | None) -> ProductFolder:
    """The caches of an ID, or those that were asked for last; a BatchError if there are none."""
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
    device: str | None,
    dtype: str | None,
    attention: Attention,
    offline: bool,
) -> Family:
    """Load the model that wrote caches, from where it was unless `model` says where it is now."""
    settings = caches.read_settings()
    chosen = ModelSettings(
        name=model or settings["model"],
        revision=None if model else settings["revision"],
        offline=offline,
        device=device,
        dtype=dtype or settings["dtype"],
        attention=attention,
    )
    return open_model(chosen).load()


def check_has_videos(store: Store, caches: ProductFolder, match: Sequence[str]) -> None:
    """Raise a BatchError if no video is to be asked, before a model is loaded for it."""
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
    settings: AnswerSettings,
) -> Iterator[dict[str, Any]]:
    """Ask all videos that are done; yields plain values of one video after the other.

    A cache that cannot be used gives an "error" in place of "answers", and the others go on. A
    video is asked if one of its paths fits one of the patterns in `match`, or if there are none.
    """
    for row in catalogue_rows(store, caches):
        if row["status"] != "done" or not _is_chosen(row["paths"], match):
            continue
        found = {name: row[name] for name in ("video", "path", "cache")}
        try:
            with open_cache(store.root / row["cache"], model=family, settings=settings) as video:
                found["answers"] = [answer.to_dict() for answer in video.ask_all(questions)]
        except (BatchError, CacheFileError) as error:
            found["error"] = str(error)
        yield found


def _is_chosen(paths: Sequence[str], patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch(path, pattern) for path in paths for pattern in patterns)
