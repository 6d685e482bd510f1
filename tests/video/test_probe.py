import hashlib

import pytest

from batch.errors import VideoError
from batch.video import probe
from tests import clips


def test_a_video_is_known_by_its_content_and_facts(tmp_path):
    frames = clips.moving(15, height_px=96, width_px=130, step_px=2)
    path = clips.write_clip(tmp_path / "a.mp4", frames)
    info = probe(path)
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.size_bytes == path.stat().st_size
    assert (info.codec, info.width_px, info.height_px) == ("h264", 130, 96)
    assert (info.upright_px, info.duration_s, info.span_s) == ((96, 130), 1.5, 1.5)
    assert info.name == "a.mp4"


def test_a_container_without_a_duration_gives_none(tmp_path):
    path = clips.write_clip(tmp_path / "raw.h264", [clips.flat(64, 64)] * 3)
    assert probe(path).duration_s is None


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
        probe(tmp_path / "gone.mp4")


def test_an_empty_file_is_refused_by_name(tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty\.mp4: the file is empty"):
        probe(tmp_path / "empty.mp4")


def test_a_file_that_is_no_video_is_refused_by_name(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 50)
    with pytest.raises(VideoError, match=r"text\.mp4: not a video"):
        probe(tmp_path / "text.mp4")


def test_a_file_with_only_sound_is_refused_by_name(tmp_path):
    path = clips.write_audio(tmp_path / "sound.m4a")
    with pytest.raises(VideoError, match=r"sound\.m4a: got streams audio, expected video"):
        probe(path)


def test_a_video_cut_off_before_its_index_is_refused_by_name(tmp_path):
    path = clips.write_clip(tmp_path / "cut.mp4", [clips.texture(96, 96)] * 15)
    with pytest.raises(VideoError, match=r"cut\.mp4: .* cut off"):
        probe(clips.truncate(path, keep=0.5))


def test_a_video_of_which_no_frame_decodes_is_refused_by_name(tmp_path):
    path = clips.write_clip(
        tmp_path / "stub.mp4",
        clips.moving(30, height_px=96, width_px=128, step_px=2),
        container_options={"movflags": "faststart"},
    )
    with pytest.raises(VideoError, match=r"stub\.mp4: not one h264 frame can be decoded"):
        probe(clips.truncate(path, keep=0.12))
