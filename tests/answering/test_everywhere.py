"""Every segment of a video answers for itself: one at a time, whatever it holds."""

import json
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from batch.answering import ChosenReply, VideoAnswerer
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.making.segments import cut
from batch.models import Family, open_family
from cachefmt import CacheFile, Tier
from tests import tiny
from tests.manifests import make_manifest, random_pictures

QUESTIONS = ["what is the red star doing ?", "a b c"]


def ask_all(
    family: Family, folder: Path, tier: Callable[[int], NDArray[np.uint8]] | None = None
) -> list[ChosenReply]:
    """Ask each segment of a video of eight samples; `tier` gives those of so many cells."""
    geometry = family.geometry.for_video(64, 64, 16)
    tiers = None if tier is None else tier(geometry.cells)
    manifest = make_manifest(random_pictures(8, geometry), geometry, tier=tiers)
    with ExitStack() as opened:
        segments = []
        for part in cut(manifest, family.layout, context=256 + 25, positions="compact"):
            path = folder / f"{part.segment.number:05}.safetensors"
            prefill(plan_cache(manifest, family, dtype="float32", span=part), family, path)
            segments.append(opened.enter_context(CacheFile.open(path)))
        assert len(segments) > 1
        replies = list(
            VideoAnswerer(segments, family, folder, scope="all").ask(QUESTIONS, max_new_tokens=2)
        )
    chosen = [reply for reply in replies if isinstance(reply, ChosenReply)]
    assert [len(reply.candidates) for reply in chosen] == [len(segments)] * len(QUESTIONS)
    return chosen


def test_a_segment_that_stores_no_cell_answers_from_its_text(llava: Family, tmp_path: Path) -> None:
    def only_the_first(cells: int) -> NDArray[np.uint8]:
        tiers = np.full((8, cells), Tier.PRUNE, np.uint8)
        tiers[0] = Tier.FP16
        return tiers

    for reply in ask_all(llava, tmp_path, only_the_first):
        assert all(np.isfinite(candidate.likelihood) for candidate in reply.candidates)


def test_of_segments_that_cannot_be_searched_one_is_in_memory_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny.llava_next(tmp_path / "model") / "config.json"
    config = json.loads(file.read_text())
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    config["text_config"]["rope_parameters"] = scaling
    file.write_text(json.dumps(config))
    family = open_family(str(file.parent))
    family.load(device="cpu", dtype=torch.float32)
    loads: list[weakref.ref[Prefix]] = []
    take = Prefix.load

    def counted(*what: object) -> Prefix:
        assert [prefix() for prefix in loads if prefix() is not None] == []
        prefix = take(*what)  # type: ignore[arg-type]
        loads.append(weakref.ref(prefix))
        return prefix

    monkeypatch.setattr(Prefix, "load", counted)
    (reply, _) = ask_all(family, tmp_path)
    assert len(loads) == len(reply.candidates)
