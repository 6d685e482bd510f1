"""The time of each sample, written before it where a family's prompt has room."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from batch.analysis.manifest import Manifest
from batch.answering import PrefixAnswerer, Retriever
from batch.answering.gathering import arrange, load
from batch.answering.samples import StoredSample, StoredVideo
from batch.errors import ModelError
from batch.kv import Prefix
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.making.header import same_work
from batch.making.segments import Span, cut
from batch.models import Family, open_family
from batch.models.pictures import pixel_values
from batch.settings import CacheSettings
from batch.video import Footage
from cachefmt import CacheFile, Tier
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.models import parity
from tests.tiny import internvl, llava, smolvlm
from tests.tiny.families import TINY

EXACT = CacheSettings(quality="lossless")


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
        "<|im_start|>user\n",
        f"Frame1: <0.0 seconds><img>{cells}",
        f"\nFrame2: <4.5 seconds><img>{cells}",
    ]


@pytest.mark.parametrize("name", ["internvl", "qwen3_vl", "smolvlm"])
def test_samples_of_a_segment_tell_their_time_in_the_whole_video(name: str, tmp_path: Path) -> None:
    family = open_family(str(TINY[name](tmp_path)))
    if family.no_timestamps is None:
        family.use_timestamps()
    geometry = family.geometry.for_video(64, 64, 16)
    manifest = make_manifest(random_pictures(8, geometry), geometry)
    manifest = replace(manifest, pts_s=manifest.pts_s + 9, last_pts_s=manifest.last_pts_s + 9)
    whole = times_told(family, manifest)
    assert len(set(whole)) == 8
    parts = [slice(0, 3), slice(3, 5), slice(5, 8)]
    assert [time for part in parts for time in times_told(family, manifest.part(part))] == whole
    of_a_part = manifest.part(slice(2, 8)).part(slice(3, 6))
    assert times_told(family, of_a_part) == whole[5:]


def times_told(family: Family, manifest: Manifest) -> list[str]:
    """The time in the text of each sample; text that is no sample's tells none."""
    layout, words = family.layout(manifest.footage), family.checkpoint.tokenizer
    texts = [
        words.decode(layout.token_ids[(layout.sample == sample) & (layout.cell < 0)])
        for sample in range(-1, len(manifest.pts_s))
    ]
    nowhere, *found = [re.findall(r"<[\d.]+ seconds>|from \d\d:\d\d:", text) for text in texts]
    assert nowhere == []
    return [time for (time,) in found]


def test_a_retrieved_sample_tells_its_time_though_it_was_the_first_of_its_segment(
    folder: Path, tmp_path: Path
) -> None:
    family = parity.loaded(folder)
    family.use_timestamps()
    geometry = geometry_of(family)
    manifest = make_manifest(random_pictures(8, geometry), geometry)
    spans = cut(manifest, family.layout, context=256 + 120, positions="compact")
    with ExitStack() as opened:
        segments = []
        for span in spans:
            path = tmp_path / f"{span.segment.number:05}.safetensors"
            write(manifest, family, path, span)
            segments.append(opened.enter_context(CacheFile.open(path)))
        video = StoredVideo(segments, family.rotation)
        rows = arrange(video, [StoredSample(1, 0)], family)
        found = load(video, rows, family).layer(0)[Tier.FP16].key[0]
    first = spans[1].segment.first_sample
    # Keys of the first layer know no other token, so they are those of this sample alone.
    keys = {}
    part = manifest.part(slice(first, first + 1))
    for name, alone in (("video", part), ("segment", replace(part, start_s=float(first)))):
        write(alone, family, tmp_path / name)
        with CacheFile.open(tmp_path / name) as cache:
            keys[name] = Prefix.load(cache, "cpu").layer(0)[Tier.FP16].key[0]
    torch.testing.assert_close(found, keys["video"], atol=1e-4, rtol=1e-4)
    assert (found - keys["segment"]).abs().max() > 1e-2


def test_samples_that_are_loaded_make_room_for_a_longer_answer(tmp_path: Path) -> None:
    folder = internvl.internvl(tmp_path / "model")
    writer, reader = parity.loaded(folder), parity.loaded(folder)
    writer.use_timestamps()  # a reader's layout has no times, what is stored takes more room
    geometry = geometry_of(writer)
    manifest = make_manifest(random_pictures(8, geometry), geometry)
    write(manifest, writer, tmp_path / "x")
    with CacheFile.open(tmp_path / "x") as cache:
        retriever = Retriever([cache], reader, shares=(1.0,), name="x")
        (short,) = retriever.ask_all(["what ?"], max_new_tokens=2)
        chosen = [StoredSample(0, sample) for sample in short.samples]
        end = arrange(StoredVideo([cache], reader.rotation), chosen, reader).end
        room = reader.decoder.context - end - len(reader.question_ids("what ?"))
        (longer,) = retriever.ask_all(["what ?"], max_new_tokens=room + 1)
    assert set(longer.samples) < set(short.samples)


def write(manifest: Manifest, family: Family, path: Path, span: Span | None = None) -> None:
    work = plan_cache(manifest, family, EXACT, dtype="float32", raw_dtype="F32", span=span)
    prefill(work, family, path)


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
    is_time = (layout.cell < 0) & (layout.token_ids != family.config.image_token_id)
    times = [layout.token_ids[is_time & (layout.sample == sample)] for sample in (0, 1)]
    assert len(times[0]) == len(family.token_ids("<0.0 seconds>"))
    assert times[1].tolist()[-len(times[0]) :] == times[0].tolist()


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
    plain = plan_cache(manifest, family, EXACT, dtype="float32", raw_dtype="F32")
    family.use_timestamps()
    timed = plan_cache(manifest, family, EXACT, dtype="float32", raw_dtype="F32")
    assert not same_work(timed.header, plain.header)
    prefill(timed, family, tmp_path / "x.safetensors")
    with CacheFile.open(tmp_path / "x.safetensors") as cache:
        got = PrefixAnswerer.of_cache(cache, family).next_token_scores(parity.QUESTION)
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
