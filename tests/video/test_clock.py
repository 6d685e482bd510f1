"""Times of frames where the file's clock is wrong."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from batch.video import Geometry, Sampling, probe, read_samples
from batch.video.clock import LONGEST_STEP_S, MOST_HELD_S, Clock, Stamp
from tests.video import clocks

GEOMETRY = Geometry(height_px=28, width_px=28, rows=1, columns=1)
HOUR_S = 3600
WRAP_S = 2**33 / 90_000

CASES = {
    **{
        f"joined {name}": lambda path: clocks.joined(path, 3, 20)
        for name in ("a.ts", "a.mpg", "a.flv", "a.mp4", "a.avi")
    },
    # Of more than two parts FFmpeg 8 reads two.
    **{f"joined {name}": lambda path: clocks.joined(path, 2, 30) for name in ("a.mkv", "a.webm")},
    **{
        f"joined, of B-frames {name}": lambda path: clocks.joined(path, 2, 30, b_frames=2)
        for name in ("b.ts", "b.mpg", "b.flv", "b.mp4", "b.mkv")
    },
    **{
        f"many short parts {name}": lambda path: clocks.joined(path, 12, 5)
        for name in ("c.ts", "c.flv", "c.mp4")
    },
    **{
        f"wraps {name}": lambda path: clocks.write(path, range(60), warp=clocks.later(WRAP_S - 3))
        for name in ("d.ts", "d.mpg")
    },
    **{
        f"begins at Unix time {name}": lambda path: clocks.write(
            path, range(60), warp=clocks.later(1_700_000_000)
        )
        for name in ("e.mkv", "e.nut", "e.mov")
    },
    **{
        f"begins at 10 h {name}": lambda path: clocks.write(
            path, range(60), warp=clocks.later(10 * HOUR_S)
        )
        for name in ("f.ts", "f.mpg", "f.flv", "f.mp4", "f.mkv")
    },
    **{
        f"one ahead {name}": lambda path: clocks.write(
            path, range(60), warp=clocks.ahead({25}, 2 * HOUR_S)
        )
        for name in ("g.ts", "g.mpg", "g.flv", "g.mp4", "g.mkv", "g.nut")
    },
    **{
        f"one ahead by a minute {name}": lambda path: clocks.write(
            path, range(60), warp=clocks.ahead({25}, 60)
        )
        for name in ("h.ts", "h.mpg", "h.flv", "h.mp4", "h.mkv")
    },
    **{
        f"some ahead {name}": lambda path: clocks.write(
            path, range(60), warp=clocks.ahead({25, 26, 40}, 2 * HOUR_S)
        )
        for name in ("i.ts", "i.mpg", "i.flv", "i.mp4", "i.mkv")
    },
    **{
        f"the first ahead {name}": lambda path: clocks.write(
            path, range(60), warp=clocks.ahead({0}, 2 * HOUR_S)
        )
        for name in ("j.ts", "j.mpg", "j.flv", "j.mkv")
    },
    **{
        f"put forward {name}": lambda path: clocks.write(
            path, range(60), warp=clocks.jump_at(1, 10 * HOUR_S)
        )
        for name in ("k.ts", "k.mpg", "k.flv", "k.mkv", "k.mp4", "k.nut")
    },
    **{
        f"order of decoding {name} {codec}": lambda path, codec=codec: clocks.write(
            path, range(60), codec=codec, b_frames=2
        )
        for name, codec in [("l.avi", "libx264"), ("l.avi", "mpeg4"), ("m.mkv", "mpeg4")]
    },
}


@pytest.mark.parametrize("case", CASES)
def test_samples_are_what_the_order_and_the_rate_of_the_frames_give(case: str, tmp_path: Path):
    path = tmp_path / case.split(" ")[-1 if "order" not in case else -2]
    CASES[case](path)
    fps = clocks.fps_of(path)
    expected = 60 / fps
    samples = read_samples(path, geometry=GEOMETRY, rate_hz=2.0)
    taken = list(samples)
    assert abs(len(taken) - 2 * expected) <= 1
    assert samples.broken_frames == 0
    assert taken[0].pts_s == 0
    assert all(a.pts_s <= b.pts_s and a.frame <= b.frame for a, b in pairwise(taken))
    for sample in taken:
        assert clocks.shade_of(sample.rgb) == pytest.approx(sample.frame, abs=1)
        assert sample.pts_s * fps == pytest.approx(sample.frame, abs=2)
    span_s = probe(path).span_s
    assert abs(Sampling(rate_hz=2.0).frames(span_s, 1) - 2 * expected) <= 1
    declared_s = probe(path).duration_s
    if "ahead" not in case or path.suffix != ".flv":  # FFmpeg 8 takes it from a time it dropped
        assert declared_s is None or declared_s < expected + 0.5
    few = list(read_samples(path, geometry=GEOMETRY, rate_hz=2.0, max_samples=3))
    assert [s.frame for s in few] == pytest.approx([0, 20, 40], abs=3)


def follow(stamps: list[Stamp], *, jumps: bool = False) -> tuple[list[float], Clock]:
    """Times in seconds of frames stamped in milliseconds, ten a second."""
    clock = Clock(gap=100, ticks_per_s=1000, jumps=jumps)
    return [at / 1000 for _, at in clock.follow(stamps)], clock


def stamped(times_ms: list[int | None], duration_ms: int = 0) -> list[Stamp]:
    return [Stamp(time, None, duration_ms) for time in times_ms]


def test_what_stays_long_is_believed_where_clocks_do_not_jump():
    slides = stamped([0, 600_000, 600_100, 4_000_000])
    assert follow(slides)[0] == [0, 600, 600.1, 4000]
    assert follow(slides, jumps=True)[0] == [0, 0.1, 0.2, 0.3]
    told = [Stamp(0, None, 600_000), *slides[1:]]
    assert follow(told, jumps=True)[0][:2] == [0, 600]


def test_frames_without_a_time_follow_at_the_usual_distance():
    assert follow(stamped([None] * 3))[0] == [0, 0.1, 0.2]
    assert follow(stamped([None, None, 900, 940]))[0] == [0, 0.1, 0.2, 0.24]
    assert follow(stamped([500, None, 640], 70))[0] == [0, 0.07, 0.14]


def test_two_fields_share_a_time_and_a_clock_that_stands_still_does_not_stop_the_video():
    assert follow(stamped([0, 0, 80, 80, 160]))[0] == [0, 0, 0.08, 0.08, 0.16]
    times, clock = follow(stamped([0] * 40))
    assert times[-1] == pytest.approx(3.9, abs=0.2)
    assert clock.repaired > 0


def test_after_a_frame_far_off_the_clock_goes_on_where_it_was():
    for off in (0, 12_000, 1_700_000_000_000):
        times, clock = follow(stamped([1000, 1100, off, 1300, 1400]))
        assert times == [0, 0.1, 0.2, 0.3, 0.4]
        assert clock.repaired == 1
    two = stamped([1000, 1100, 9_000_000, 9_000_100, 1400, 1500])
    assert follow(two)[0] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize("jumps", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_no_clock_makes_a_video_much_longer_than_its_frames(seed: int, jumps: bool):
    rng = np.random.default_rng(seed)
    wild = [Stamp(*map(int, rng.integers(-(2**40), 2**40, 2)), 0) for _ in range(2000)]
    slow = stamped([int(time) for time in np.cumsum(rng.integers(3_000_000, 3_600_000, 2000))])
    for stamps in (wild, slow):
        times, clock = follow(stamps, jumps=jumps)
        assert (np.diff([*times, clock.end / 1000]) >= 0).all()
        assert clock.end / 1000 <= MOST_HELD_S + LONGEST_STEP_S * len(stamps)


@pytest.mark.parametrize("seed", range(20))
def test_a_variable_rate_survives_restarts_and_frames_far_off(seed: int):
    rng = np.random.default_rng(seed)
    steps = rng.choice([20, 40, 100, 700, 3000], 200)
    true_ms = np.concatenate([[0], np.cumsum(steps)])[:-1]
    file_ms = true_ms.copy()
    for start in rng.choice(np.arange(20, 180, 30), 3, replace=False):
        file_ms[start:] = true_ms[start:] - true_ms[start] + rng.integers(0, 100)
    far = rng.choice(np.arange(1, 199), 3, replace=False)
    file_ms[far] = rng.integers(10**7, 10**9, 3)
    stamps = [Stamp(int(t), int(t), int(d)) for t, d in zip(file_ms, steps, strict=True)]
    times, _ = follow(stamps)
    assert np.abs(np.array(times) * 1000 - true_ms).max() <= 3000
    assert times[-1] * 1000 == pytest.approx(true_ms[-1], abs=3000)
