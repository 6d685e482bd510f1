"""A process that answers holds the weights, the stored bytes and a buffer, not the whole cache."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from batch.kv.attention import CHUNK_NUMBERS
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family
from batch.settings import CacheSettings
from cachefmt import Tier
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.tiny.files import loaded

ROOT = Path(__file__).parents[2]
SHORT, LONG = 2, 64
BUFFERS = 2 * 4 * CHUNK_NUMBERS
"""Bytes of keys and of values that are decoded at a time."""
SLACK = 16 << 20
"""What allocators and libraries may take on the way."""


def write_cache(family: Family, samples: int, path: Path) -> Path:
    geometry = geometry_of(family)
    tiers = np.full((samples, geometry.cells), Tier.INT4, np.uint8)
    manifest = make_manifest(random_pictures(samples, geometry), geometry, tier=tiers)
    settings = CacheSettings(quality="lossless")
    prefill(plan_cache(manifest, family, settings, dtype="float32"), family, path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
def test_answering_does_not_expand_the_cache(tmp_path: Path) -> None:
    model = tiny.llava_next(tmp_path / "model", image_px=112, context=8192, head_dim=256)
    family = loaded(model)
    short, long = (
        write_cache(family, samples, tmp_path / f"{samples}.safetensors")
        for samples in (SHORT, LONG)
    )
    program = [sys.executable, "-m", "tests.end_to_end.resident", model, short, long]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    added = json.loads(done.stdout)
    bound = long.stat().st_size + BUFFERS + SLACK
    assert added["answering"] < bound
    assert added["expanding"] > 2 * bound  # the same measure sees what must not happen
