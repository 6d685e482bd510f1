"""A cache as transformers' own: its model goes on from there just as ours does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from batch.answering import PrefixAnswerer, to_dynamic_cache
from batch.errors import BatchError
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.settings import CacheSettings, Quality
from cachefmt import CacheFile
from tests.answering.caches import loaded
from tests.manifests import make_manifest, random_pictures
from tests.models.test_families import TINY

QUESTION = "what is the red star doing ?"


@pytest.mark.parametrize("quality", ["lossless", "standard"])
@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl"])
def test_transformers_own_model_continues_the_same(
    tmp_path: Path, name: str, quality: Quality
) -> None:
    folder, path = TINY[name](tmp_path / "model"), tmp_path / "x.safetensors"
    family = loaded(folder)
    geometry = family.geometry.for_video(64, 64, 16)
    tiers = np.random.default_rng(1).integers(0, 4, (6, geometry.cells), dtype=np.uint8)
    pictures = random_pictures(6, geometry)
    manifest = make_manifest(pictures, geometry, tier=tiers, source=[0, 0, 2, 3, 3, 5])
    settings = CacheSettings(quality=quality)
    prefill(plan_cache(manifest, family, settings, dtype="float32"), family, path)
    with CacheFile.open(path) as cache:
        assert cache.header.codec.quality == quality
        answerer = PrefixAnswerer.of_cache(cache, family)

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        scores = model(**to_dynamic_cache(path, QUESTION)).logits[0, -1]
        others = model(**to_dynamic_cache(path, "a b c")).logits[0, -1]
    expected = answerer.next_token_scores(QUESTION)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    assert (others - expected).abs().max() > 1e-2

    inputs = to_dynamic_cache(path, QUESTION, model=str(folder), dtype="float32")
    output = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :].tolist()
    assert answer == answerer.generate([family.question_ids(QUESTION)], 6)[0]


def test_what_has_no_one_context_or_no_question_is_refused(cache: Path, folder: Path) -> None:
    with pytest.raises(BatchError, match="2 segments fit no context together"):
        to_dynamic_cache(folder, QUESTION)
    with pytest.raises(BatchError, match="a question is empty"):
        to_dynamic_cache(cache, " ")
