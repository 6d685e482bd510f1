"""What a video's cache is refused for before anything is asked, and its shortest videos."""

from dataclasses import replace
from pathlib import Path

import pytest

from batch.answering import Scope, VideoAnswerer
from batch.answering.video import open_checked
from batch.errors import BatchError, ModelError
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family
from cachefmt import CacheFile, CacheFileError, CacheWriter, tensor_specs
from tests.answering.damage import flip
from tests.manifests import geometry_of, make_manifest, random_pictures

QUESTION = "what is the red star doing ?"


def test_a_whole_file_with_more_cells_than_its_model_gives_is_refused(
    family: Family, cache: Path, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.safetensors"
    with CacheFile.open(cache) as honest:
        shape = replace(honest.header.shape, rows=2_000_000, columns=2_000_000)
        layout = replace(honest.header.layout, slots=10**14)  # fewer are no whole file
        unsigned = replace(honest.header, checksums=None, header_sha256=None)
        header = replace(unsigned, shape=shape, layout=layout)
        with CacheWriter(path, header) as writer:
            for name in honest.names:
                writer.write(name, 0, honest.array(name))
            writer.finish()
    with CacheFile.open(path) as hostile:
        hostile.verify()
        with pytest.raises(ModelError, match=r"hostile\.safetensors: samples of 2000000x2000000"):
            list(VideoAnswerer([hostile], family, path, scope="retrieve").ask([QUESTION]))


@pytest.mark.parametrize("scope", ["auto", "retrieve", "all"])
def test_a_whole_file_of_text_alone_is_refused(cache: Path, tmp_path: Path, scope: Scope) -> None:
    path = tmp_path / "text.safetensors"
    with CacheFile.open(cache) as honest:
        tokens = {"FP16": 2, "INT8": 0, "INT4": 0}
        shape = replace(honest.header.shape, samples=0, stored_samples=0, tokens=tokens)
        header = replace(honest.header, shape=shape, checksums=None, header_sha256=None)
        with CacheWriter(path, header) as writer:
            for name, spec in tensor_specs(shape).items():
                writer.write(name, 0, honest.array(name, 0, spec.shape[0]))
            writer.finish()
    with CacheFile.open(path) as text:
        text.verify()
    with pytest.raises(CacheFileError, match=r"text\.safetensors: holds no samples"):
        open_checked(path, scope)


def test_what_a_cache_cost_is_checked_before_it_is_told(
    llava: Family, segments: list[CacheFile]
) -> None:
    damaged = [segments[0], flip(segments[1], "cost.seconds", 7)]
    with pytest.raises(CacheFileError, match=r"damaged\.safetensors: cost\.seconds does not match"):
        VideoAnswerer(damaged, llava, Path("x.segments"), scope="retrieve")


def test_several_segments_cannot_answer_as_one(llava: Family, segments: list[CacheFile]) -> None:
    with pytest.raises(BatchError, match=r"x\.segments: 2 segments fit no context.*\"retrieve\""):
        VideoAnswerer(segments, llava, Path("x.segments"), scope="everything")


@pytest.mark.parametrize("scope", ["everything", "retrieve"])
def test_a_video_of_one_sample_has_a_time_that_is_not_empty(
    family: Family, tmp_path: Path, scope: Scope
) -> None:
    geometry = geometry_of(family)
    path = tmp_path / "one.safetensors"
    manifest = make_manifest(random_pictures(1, geometry), geometry)
    prefill(plan_cache(manifest, family, dtype="float32"), family, path)
    with VideoAnswerer([CacheFile.open(path)], family, path, scope=scope) as video:
        (reply,) = video.ask([QUESTION], max_new_tokens=2)
    (time,) = reply.evidence
    assert time.start_s < time.stop_s
