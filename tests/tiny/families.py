"""How to write a tiny checkpoint of each family of the table."""

from collections.abc import Callable
from pathlib import Path

from tests import tiny
from tests.tiny import internvl, llava, qwen, smolvlm

TINY: dict[str, Callable[..., Path]] = {
    "internvl": internvl.internvl,
    "llava": llava.llava,
    "llava_next": tiny.llava_next,
    "llava_next_video": llava.llava_next_video,
    "llava_onevision": llava.llava_onevision,
    "qwen2_5_vl": qwen.qwen2_5_vl,
    "qwen2_vl": qwen.qwen2_vl,
    "qwen3_vl": qwen.qwen3_vl,
    "smolvlm": smolvlm.smolvlm,
}
