"""The time of each sample, written before it where a family's prompt has room."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from batch.answering import Answerer
from batch.errors import ModelError
from batch.models import open_family
from batch.models.family import pixel_values
from batch.prefill import plan_cache, prefill, same_work
from batch.video import Footage
from cachefmt import CacheFile
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.models import parity
from tests.tiny import internvl, llava, smolvlm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return internvl.internvl(tmp_path_factory.mktemp("internvl"))


def test_a_kept_sample_has_its_own_time_whatever_was_left_out_before_it(folder: Path) -> None:
    family = open_family(str(folder))
    family.use_timestamps()
    footage = Footage.steady(geometry_of(family), 4, interval_s=1.5)
    layout = family.layout(footage.select(np.array([True, False, False, True])))
    words = family.checkpoint.tokenizer
    texts = [words.decode(layout.token_ids[layout.sample == sample]) for sample in (-1, 0, 1)]
    cells = "<IMG_CONTEXT>" * 4 + "</img>"
    assert texts == [
        "<|im_start|>user\nFrame1: <0.0 seconds><img>",
        cells,
        f"\nFrame2: <4.5 seconds><img>{cells}",
    ]


@pytest.mark.parametrize(("write", "slots"), [(llava.llava, 4), (tiny.llava_next, 5)])
def test_a_time_stands_right_before_its_picture(
    write: Callable[[Path], Path], slots: int, tmp_path: Path
) -> None:
    family = open_family(str(write(tmp_path)))
    family.use_timestamps()
    before, between, _ = family.conversation_text([{"type": "image"}] * 2).split("<image>")
    text = f"{before}<0.0 seconds><image>{between}<1.0 seconds><image>"
    ids = family.token_ids(text.replace("<image>", "<image>" * slots))
    layout = family.layout(Footage.steady(geometry_of(family), 2))
    np.testing.assert_array_equal(layout.token_ids, ids)


@pytest.mark.parametrize(
    ("write", "reason"),
    [(llava.llava_onevision, "one block of cells"), (smolvlm.smolvlm, "already")],
)
def test_a_family_without_room_for_times_says_why(
    write: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    family = open_family(str(write(tmp_path)))
    with pytest.raises(ModelError, match=rf"takes no timestamps: .*{reason}"):
        family.use_timestamps()


def test_a_cache_with_times_scores_as_transformers_with_the_times_in_its_input(
    folder: Path, tmp_path: Path
) -> None:
    family = parity.loaded(folder)
    geometry = geometry_of(family)
    pictures = random_pictures(3, geometry)
    manifest = make_manifest(pictures, geometry)
    plain = plan_cache(manifest, family, dtype="float32", raw_dtype="F32")
    family.use_timestamps()
    timed = plan_cache(manifest, family, dtype="float32", raw_dtype="F32")
    assert not same_work(timed.header, plain.header)
    prefill(timed, family, tmp_path / "x.safetensors")
    with CacheFile.open(tmp_path / "x.safetensors") as cache:
        got = Answerer(cache, family).next_token_scores(parity.QUESTION)
    asked = family.question_ids(parity.QUESTION)
    pixels = family.checkpoint.pictures("video") | {"rescale_factor": 1 / 255}
    family.language_model.set_attn_implementation("sdpa")
    distance = {}
    for name, work in (("timed", timed), ("plain", plain)):
        ids = torch.tensor([[*work.plan.token_ids, *asked]])
        with torch.inference_mode():
            values = pixel_values(pictures, pixels, family.model)
            expected = family.model(input_ids=ids, pixel_values=values).logits[0, -1]
        distance[name] = float((got - expected).abs().max())
    assert distance["timed"] < 1e-4
    assert distance["plain"] > 1e-2
