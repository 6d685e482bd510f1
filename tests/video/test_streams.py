"""Which stream of a file is shown, and what becomes of files that show next to nothing."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from batch.errors import Reason, VideoError
from batch.video import Geometry, VideoInfo, probe, read_samples
from tests import clips

GEOMETRY = Geometry(height_px=28, width_px=28, rows=1, columns=1)
FRAMES = clips.moving(40, height_px=64, width_px=96, step_px=2)


def write_streams(
    path: Path, streams: Sequence[tuple[str, int, int, int]], *, sound_s: int = 0
) -> Path:
    """Each stream by codec, size in px, frames, and level of grey; ten frames a second."""
    with av.open(str(path), "w") as container:
        packets: list[av.Packet] = []
        added = [container.add_stream(codec, rate=10) for codec, *_ in streams]
        sound = container.add_stream("aac", rate=16_000, layout="mono") if sound_s else None
        for stream, (codec, size_px, count, level) in zip(added, streams, strict=True):
            stream.width = stream.height = size_px
            stream.disposition = Disposition.default
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for index in range(count):
                picture = clips.flat(size_px, size_px, (level,) * 3)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 10)
                packets += stream.encode(frame)
            packets += stream.encode(None) if count else []
        if sound is not None:
            for index in range(sound_s * 16_000 // 1024):
                silence = np.zeros((1, 1024), np.float32)
                heard = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                heard.sample_rate, heard.pts = 16_000, index * 1024
                packets += sound.encode(heard)
            packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def shown(path: Path) -> tuple[VideoInfo, set[int]]:
    """Facts, and the levels of grey that are seen."""
    samples = list(read_samples(path, geometry=GEOMETRY))
    return probe(path), {round(float(sample.rgb.mean())) for sample in samples}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_thumbnail_before_the_video_is_not_taken_for_it(tmp_path: Path, name: str) -> None:
    streams = [("mjpeg", 128, 1, 200), ("libx264", 64, 20, 60)]
    info, levels = shown(write_streams(tmp_path / name, streams))
    assert (info.codec, info.span_s, info.height_px) == ("h264", 2.0, 64)
    assert levels == {60}


@pytest.mark.parametrize("name", ["a.ts", "a.mp4"])
def test_a_stream_without_a_packet_is_not_taken_for_the_video(tmp_path: Path, name: str) -> None:
    streams = [("mpeg2video" if name == "a.ts" else "mjpeg", 128, 0, 200), ("libx264", 64, 20, 60)]
    assert shown(write_streams(tmp_path / name, streams))[1] == {60}


def test_of_two_videos_the_larger_is_shown_and_of_equal_ones_the_longer(tmp_path: Path) -> None:
    larger = [("libx264", 64, 40, 200), ("libx264", 96, 20, 60)]
    longer = [("libx264", 64, 10, 200), ("libx264", 64, 20, 60)]
    first = [("libx264", 64, 20, 60), ("libx264", 64, 20, 200)]
    for streams in (larger, longer, first):
        assert shown(write_streams(tmp_path / "a.mp4", streams))[1] == {60}


def test_a_stream_whose_codec_nobody_knows_is_named_and_the_next_one_is_shown(
    tmp_path: Path,
) -> None:
    path = write_streams(tmp_path / "a.mp4", [("libx264", 96, 20, 200), ("libx264", 64, 20, 60)])
    path.write_bytes(
        path.read_bytes().replace(b"avc1\0", b"xyz1\0", 2).replace(b"xyz1\0", b"avc1\0", 0)
    )
    with pytest.raises(VideoError, match="no decoder for 'xyz1', 'xyz1'; convert it") as caught:
        probe(path)
    assert caught.value.reason is Reason.NO_DECODER


def test_side_tracks_that_are_cut_off_do_not_end_the_video(tmp_path: Path) -> None:
    path = write_streams(tmp_path / "a.mp4", [("libx264", 64, 40, 60)], sound_s=4)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"stco")
    (count,) = struct.unpack(">I", data[at + 8 : at + 12])
    for chunk in range(count // 4, count):
        place = at + 12 + 4 * chunk
        data[place : place + 4] = struct.pack(">I", len(data) + chunk)
    path.write_bytes(data)
    samples = read_samples(path, geometry=GEOMETRY)
    assert len(list(samples)) == 4
    assert samples.broken_frames == 0
    assert probe(path).span_s == 4.0


def test_an_encrypted_video_fails_as_such(tmp_path: Path) -> None:
    key = "00112233445566778899aabbccddeeff"
    protection = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key}
    path = clips.write_clip(
        tmp_path / "a.mp4", FRAMES, container_options={**protection, "encryption_kid": key}
    )
    with pytest.raises(VideoError, match=r"a\.mp4: encrypted: .* h264 frame.*without protection"):
        list(read_samples(path, geometry=GEOMETRY))


@pytest.mark.parametrize(("flag", "reason"), [(0x80, Reason.ENCRYPTED), (0, Reason.UNDECODABLE)])
def test_a_scrambled_broadcast_fails_as_such(tmp_path: Path, flag: int, reason: Reason) -> None:
    path = clips.write_clip(tmp_path / "a.ts", FRAMES)
    packets = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 188).copy()
    for packet in packets:
        if packet[1] & 0x1F != 1 or packet[2]:  # of another PID than 256
            continue
        start = 5 + packet[4] if packet[3] & 0x20 else 4
        packet[start:] = np.random.default_rng(0).integers(0, 256, 188 - start)
        packet[3] |= flag
    path.write_bytes(packets.tobytes())
    with pytest.raises(VideoError) as caught:
        list(read_samples(path, geometry=GEOMETRY))
    assert caught.value.reason is reason


def test_a_video_of_noise_is_no_video_and_counts_no_more_broken_frames_than_it_has(
    tmp_path: Path,
) -> None:
    source = clips.write_clip(tmp_path / "whole.mkv", FRAMES)
    rng = np.random.default_rng(0)
    for kept, is_read in ((40, True), (20, True), (2, False)):
        path = tmp_path / f"{kept}.mkv"
        with av.open(str(source)) as whole, av.open(str(path), "w") as noise:
            stream = noise.add_stream_from_template(whole.streams.video[0])
            for index, packet in enumerate(whole.demux(video=0)):
                data = bytes(packet)
                if index >= kept:
                    data = data[:6] + rng.bytes(max(0, len(data) - 6))
                if data:
                    copy = av.Packet(data)
                    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                    copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                    noise.mux(copy)
        samples = read_samples(path, geometry=GEOMETRY)
        if is_read:
            assert len(list(samples)) in (3, 4)
            assert samples.broken_frames <= 40 - kept
        else:
            with pytest.raises(VideoError, match=r"\d+ of \d+ h264 frames are broken"):
                list(samples)
