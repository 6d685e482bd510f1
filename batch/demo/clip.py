"""Demo worlds as real video files."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from batch.demo.drawing import add_noise, draw_ground, draw_scene
from batch.demo.world import World

SIZE_PX = 224
FRAMES_PER_S = 8

# With mbtree, x264 (av 18.1) gives other bytes for the same frames from run to run.
_ENCODER = {"crf": "18", "x264-params": "mbtree=0"}


def write_clip(
    world: World, path: Path, *, frames_per_s: int = FRAMES_PER_S, preset: str = "medium"
) -> None:
    """Film a world with its camera noise as H.264; sample k is the frame at second k.

    One frame is drawn at a time, so memory does not grow with the length.

    Args:
        preset: x264's name for how much time it takes; "ultrafast" is for hours of video.
    """
    rng = np.random.default_rng(world.noise_seed)
    scene = world.scene_at(0)
    ground = draw_ground(scene, SIZE_PX)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=frames_per_s, options=_ENCODER | {"preset": preset}
        )
        stream.width = stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, frames_per_s)
        stream.codec_context.thread_count = 1
        for number in range((world.samples - 1) * frames_per_s + 1):
            time_s = number / frames_per_s
            if world.scene_at(time_s) is not scene:
                scene = world.scene_at(time_s)
                ground = draw_ground(scene, SIZE_PX)
            picture = ground.copy()
            draw_scene(picture, scene, time_s)
            frame = av.VideoFrame.from_ndarray(add_noise(picture, world.noise, rng), "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
