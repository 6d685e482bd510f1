"""The models that are measured, and on how much."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batch.evaluation.bench.random_models import half_billion, seven_billion
from batch.models import Family, open_family


@dataclass(frozen=True, kw_only=True)
class Size:
    """One model and its share of the work."""

    name: str
    about: str
    """What of it is true to a published model and what is not."""
    open: Callable[[Path], Family]
    """Opens the model, without weights; may write into the folder."""
    films: int
    samples: int
    """Of each film."""
    answer_tokens: int
    """Most tokens of an answer; random weights never end one earlier."""
    rows: int
    """Rows behind which a decode step is measured."""
    load_tokens: int
    """Tokens in the file whose loading is measured."""
    lengths: tuple[int, ...]
    """How often the first film runs in the videos, shortest first, whose peaks are compared."""
    device: str = "cpu"
    dtype: str = "float32"
    """Of all but the decode steps, which are in bfloat16."""


SIZES = {
    size.name: size
    for size in (
        Size(
            name="demo",
            about="the bundled model and the films of batch demo",
            open=lambda folder: open_family("demo"),
            films=3,
            samples=16,
            answer_tokens=64,
            rows=8192,
            load_tokens=4096,
            lengths=(1, 4, 16),
        ),
        Size(
            name="0.5b",
            about="true decoder of LLaVA-OneVision-0.5B, random weights, 2 vision layers of 27",
            open=half_billion,
            films=1,
            samples=16,
            answer_tokens=4,
            rows=8192,
            load_tokens=32_768,
            lengths=(1, 4),
        ),
        Size(
            name="7b",
            about="true shape of LLaVA-1.6-Mistral-7B, random weights, on a GPU",
            open=seven_billion,
            films=1,
            samples=16,
            answer_tokens=4,
            rows=32_768,
            load_tokens=32_768,
            lengths=(1, 4),
            device="cuda",
            dtype="bfloat16",
        ),
    )
}
"""By name. `load_tokens` is the decoder's context, the longest prefix it can use; 4 tokens are
the length of the mean answer to a demo question (3.4 with its end, 200 films)."""
