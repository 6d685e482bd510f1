"""A folder of segments is one cache, or refused by the name of the file that does not fit."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachefmt import CacheFileError, Header, Segment, open_segments, verify_segments
from tests.cachefmt.files import KLT, SHAPE, make_header, make_tables, write_file


def header(number: int, count: int = 3, **changes: Any) -> Header:
    segment = Segment(number=number, count=count, first_sample=number * SHAPE.samples)
    return replace(make_header(), **{"segment": segment, **changes})


def write(folder: Path, number: int, found: Header | None = None, start_s: float = 0.0) -> Path:
    tables = make_tables(SHAPE, seed=number)
    tables = replace(tables, time_s=tables.time_s + start_s)
    return write_file(folder / f"{number:05}.safetensors", found or header(number), tables=tables)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "clip.segments"
    folder.mkdir()
    for number in range(3):
        write(folder, number, start_s=10.0 * number)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(CacheFileError) as error:
        open_segments(folder)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_a_folder_opens_as_its_segments_in_order(folder: Path) -> None:
    (folder / ".00001.safetensors.7.tmp").write_bytes(b"left by a killed writer")
    segments = open_segments(folder)
    assert [segment.header.segment.number for segment in segments] == [0, 1, 2]
    verify_segments(segments)


def test_a_file_opens_as_one_segment_also_out_of_a_folder(folder: Path) -> None:
    (alone,) = open_segments(folder / "00001.safetensors")
    assert alone.header.segment.number == 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_segment_is_named(folder: Path, number: int) -> None:
    (folder / f"{number:05}.safetensors").unlink()
    assert f"{number:05}.safetensors: is missing: 2 of 3 segments" in refused(folder)


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.segments"
    empty.mkdir()
    assert "holds no segments" in refused(empty)
    assert "No such file" in refused(tmp_path / "gone.segments")


@pytest.mark.parametrize("name", ["notes.txt", "0.safetensors", "000001.safetensors", "00003"])
def test_anything_else_in_the_folder_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    assert f"{name}: is no segment" in refused(folder)


def test_a_segment_beyond_the_last_is_refused(folder: Path) -> None:
    shutil.copy(folder / "00002.safetensors", folder / "00003.safetensors")
    assert "00003.safetensors: is segment 2, its name is another's" in refused(folder)


OTHER = "9" * 64


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("video", {"video": replace(make_header().video, sha256=OTHER)}),
        ("manifest", {"manifest": replace(make_header().manifest, sha256=OTHER)}),
        ("model", {"model": replace(make_header().model, weights_sha256=OTHER)}),
        ("prompt", {"prompt": replace(make_header().prompt, processor_sha256=OTHER)}),
        ("policy", {"policy": replace(make_header().policy, name="other")}),
        ("quality", {"codec": KLT}),
        ("number of segments", {"segment": Segment(number=1, count=4, first_sample=3)}),
        ("numbering", {"layout": replace(make_header().layout, positions="compact")}),
    ],
)
def test_a_segment_of_something_else_is_refused(
    folder: Path, what: str, changes: dict[str, Any]
) -> None:
    write(folder, 1, header(1, **changes))
    assert f"00001.safetensors: does not belong to 00000.safetensors: another {what}" in refused(
        folder
    )


def test_segments_of_a_video_that_was_renamed_meanwhile_belong_together(folder: Path) -> None:
    write(folder, 1, header(1, video=replace(make_header().video, name="moved.mp4")), start_s=10.0)
    assert len(open_segments(folder)) == 3


def test_steps_may_differ_between_segments_of_one_quality(folder: Path) -> None:
    custom = replace(KLT, quality="custom")
    for number in range(3):
        write(folder, number, header(number, codec=replace(custom, step=0.5 + number)))
    assert len(open_segments(folder)) == 3


@pytest.mark.parametrize("first_sample", [2, 4, 10**12])
def test_a_gap_or_an_overlap_of_samples_is_refused(folder: Path, first_sample: int) -> None:
    write(folder, 1, header(1, segment=Segment(number=1, count=3, first_sample=first_sample)))
    assert f"begins with sample {first_sample}, the segments before have 3" in refused(folder)


def test_a_count_that_no_disk_could_hold_is_refused_at_once(folder: Path) -> None:
    for number in range(3):
        write(folder, number, header(number, count=10**12))
    assert f"00003.safetensors: is missing: 3 of {10**12} segments" in refused(folder)


def test_time_that_goes_back_between_segments_is_found_by_verify(folder: Path) -> None:
    write(folder, 1, start_s=-1.0)
    with pytest.raises(CacheFileError, match=r"00001.*begins at -1.0 s, .* ends at 1.0 s"):
        verify_segments(open_segments(folder))
