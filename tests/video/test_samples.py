from itertools import pairwise

import numpy as np
import pytest

from batch.errors import VideoError
from batch.video import Geometry, Sampling, probe, read_samples
from tests import clips

GEOMETRY = Geometry(height_px=112, width_px=112, rows=8, columns=8)


def shades(count: int) -> list[np.ndarray]:
    """Grey frames, each 8 levels lighter than the last."""
    return [clips.flat(64, 64, (8 + 8 * i,) * 3) for i in range(count)]


def shade_of(rgb: np.ndarray) -> int:
    """Which of `shades` this is."""
    return round((float(rgb.mean()) - 8) / 8)


def test_one_frame_a_second_comes_with_its_true_time(tmp_path):
    path = clips.write_clip(tmp_path / "a.mp4", shades(25), fps=10)
    samples = list(read_samples(path, geometry=GEOMETRY))
    assert [(s.index, s.frame, s.pts_s, shade_of(s.rgb)) for s in samples] == [
        (0, 0, 0.0, 0),
        (1, 10, 1.0, 10),
        (2, 20, 2.0, 20),
    ]


def test_a_sample_is_read_only_and_in_the_models_geometry(tmp_path):
    path = clips.write_clip(tmp_path / "a.mp4", shades(3))
    (sample,) = read_samples(path, geometry=GEOMETRY)
    assert sample.rgb.shape == (112, 112, 3)
    assert sample.rgb.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        sample.rgb[0, 0] = 0


@pytest.mark.parametrize(
    ("rate_hz", "frames"), [(2.0, [0, 5, 10, 15]), (0.5, [0]), (10, range(20))]
)
def test_the_rate_decides_how_many_samples_come(tmp_path, rate_hz, frames):
    path = clips.write_clip(tmp_path / "a.mp4", shades(20), fps=10)
    samples = read_samples(path, geometry=GEOMETRY, rate_hz=rate_hz)
    assert [s.frame for s in samples] == list(frames)


def test_a_long_frame_of_a_variable_rate_is_sampled_as_long_as_it_is_on_screen(tmp_path):
    times_ms = [0, 100, 900, 950, 4000, 4100, 5000, 5050]
    path = clips.write_clip(tmp_path / "vfr.mkv", shades(8), pts_ms=times_ms)
    samples = list(read_samples(path, geometry=GEOMETRY))
    assert [s.frame for s in samples] == [0, 3, 3, 3, 4, 6]
    assert [shade_of(s.rgb) for s in samples] == [0, 3, 3, 3, 4, 6]
    assert [s.pts_s for s in samples] == [0.0, 0.95, 0.95, 0.95, 4.0, 5.0]


def test_the_last_frame_stays_for_its_own_duration(tmp_path):
    path = clips.write_clip(tmp_path / "end.mkv", shades(2), pts_ms=[0, 500], hold_ms=3000)
    assert [s.frame for s in read_samples(path, geometry=GEOMETRY)] == [0, 1, 1, 1]


@pytest.mark.parametrize("most", [2, 4, 10])
def test_a_stream_without_any_times_is_sampled_at_its_nominal_rate(tmp_path, most):
    path = clips.write_clip(tmp_path / "raw.h264", shades(28), fps=25)
    samples = list(read_samples(path, geometry=GEOMETRY, rate_hz=25, max_samples=most))
    assert len(samples) == most
    assert samples[-1].frame == pytest.approx(28 * (most - 1) / most, abs=1)


def test_times_are_counted_from_the_first_frame(tmp_path):
    path = clips.write_clip(tmp_path / "late.ts", shades(25), fps=10)
    samples = list(read_samples(path, geometry=GEOMETRY))
    assert [s.frame for s in samples] == [0, 10, 20]
    assert np.diff([s.pts_s for s in samples]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_no_more_than_the_most_samples_come_evenly(tmp_path, most):
    path = clips.write_clip(tmp_path / "a.mp4", shades(28), fps=4)
    samples = list(read_samples(path, geometry=GEOMETRY, max_samples=most))
    assert len(samples) == most
    gaps = [after.pts_s - before.pts_s for before, after in pairwise(samples)]
    assert all(abs(gap - 7 / most) <= 0.25 for gap in gaps)


def test_most_samples_never_raises_the_rate(tmp_path):
    path = clips.write_clip(tmp_path / "a.mp4", shades(25), fps=10)
    assert len(list(read_samples(path, geometry=GEOMETRY, max_samples=100))) == 3


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options", "canonical"),
    [
        ("a.webm", "libvpx", "yuv420p", {"deadline": "realtime"}, "vp8"),
        ("a.avi", "mpeg4", "yuv420p", {}, "mpeg4"),
        ("odd.mkv", "libx264", "yuv444p", {"crf": "10"}, "h264"),
        ("deep.mkv", "libx264", "yuv420p10le", {"crf": "10"}, "h264"),
        (
            "a.mp4",
            "libx265",
            "yuv420p",
            {"preset": "ultrafast", "x265-params": "log-level=none"},
            "hevc",
        ),
    ],
)
def test_common_codecs_give_the_right_frames(tmp_path, name, codec, pix_fmt, options, canonical):
    odd = 97 if pix_fmt == "yuv444p" else 96
    frames = [clips.flat(odd, odd + 34, (8 + 8 * i,) * 3) for i in range(25)]
    path = clips.write_clip(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt, options=options)
    assert probe(path).codec == canonical
    samples = list(read_samples(path, geometry=GEOMETRY))
    assert [shade_of(s.rgb) for s in samples] == [0, 10, 20]


def test_broken_frames_are_counted_and_the_rest_is_read(tmp_path):
    frames = clips.moving(60, height_px=96, width_px=128, step_px=2)
    path = clips.write_clip(tmp_path / "hurt.mp4", frames)
    whole = read_samples(path, geometry=GEOMETRY)
    assert len(list(whole)) == 6
    assert whole.broken_frames == 0
    hurt = read_samples(clips.damage(path, start=0.4, size_bytes=2000), geometry=GEOMETRY)
    assert len(list(hurt)) == 6
    assert hurt.broken_frames > 0


def test_a_video_that_stops_early_gives_what_there_is_and_says_so(tmp_path):
    frames = clips.moving(60, height_px=96, width_px=128, step_px=2)
    path = clips.write_clip(
        tmp_path / "half.mp4", frames, container_options={"movflags": "faststart"}
    )
    samples = read_samples(clips.truncate(path, keep=0.6), geometry=GEOMETRY)
    assert 1 <= len(list(samples)) < 6
    assert samples.broken_frames > 0


def test_a_video_that_cannot_be_opened_is_an_error_of_the_iteration(tmp_path):
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        list(read_samples(tmp_path / "gone.mp4", geometry=GEOMETRY, max_samples=4))


@pytest.mark.parametrize("bad", [{"rate_hz": 0}, {"rate_hz": float("nan")}, {"max_samples": 0}])
def test_a_sampling_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)


@pytest.mark.parametrize("name", ["steady.mp4", "steady.mkv", "raw.h264"])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(rate_hz=3.0),
        Sampling(rate_hz=10.0),
        Sampling(rate_hz=10.0, max_samples=3),
        Sampling(max_samples=100),
    ],
)
def test_the_number_of_frames_taken_is_known_before_decoding(tmp_path, name, frames, sampling):
    path = clips.write_clip(tmp_path / name, shades(25), fps=10)
    geometry = Geometry(height_px=28, width_px=28, rows=1, columns=1, frames=frames)
    chosen = {"rate_hz": sampling.rate_hz, "max_samples": sampling.max_samples}
    taken = list(read_samples(path, geometry=geometry, **chosen))
    predicted = sampling.frames(probe(path).span_s, frames)
    assert len(taken) == -(-predicted // frames)


def test_the_number_of_frames_of_a_variable_rate_is_known_before_decoding(tmp_path):
    times_ms = [500, 600, 900, 950, 4000, 4100, 5000, 5050]
    path = clips.write_clip(tmp_path / "vfr.mkv", shades(8), pts_ms=times_ms)
    taken = list(read_samples(path, geometry=GEOMETRY, rate_hz=2.0))
    assert len(taken) == Sampling(rate_hz=2.0).frames(probe(path).span_s, 1)
