"""What a decode step asks of a GPU, counted on a tiny model where there may be none.

The code is that of a GPU: where Triton is installed, its kernels are interpreted, in a process of
its own, as Triton is either interpreted or compiled. What is counted does not depend on the sizes
of matrices, and on the number of layers only in proportion.
"""

import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from batch.evaluation.bench.workload import Film, Measured, Size, Workload, tiny_llava
from batch.evaluation.launches import Launches, count_launches
from batch.evaluation.measuring import in_new_process
from batch.evaluation.uncompressed import own_attention
from batch.kv import CACHE_KEYWORD, Kernel, Prefix, TieredCache, forward
from batch.settings import ModelSettings
from cachefmt import CacheFile


def measure_launches(workload: Workload, repeats: int) -> Measured:
    """What every model asks of a GPU in a layer; `launches_per_layer` of it is the ratio."""
    counted = count_steps()
    figures = {name: launches._asdict() for name, launches in counted.items()}
    beside = counted["step"].launches - counted["plain_step"].launches
    return {"launches_per_layer": float(beside)}, figures


@functools.cache
def count_steps() -> dict[str, Launches]:
    """Count, in a process of its own, what a step of the decoder asks for in each layer.

    "step" is behind rows of all tiers, "plain_step" behind a plain cache as transformers runs it.
    """
    with patch.dict(os.environ, {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}):
        one, two = in_new_process(count_here, (1, 2), _kernel_of_gpu())
    return {
        name: Launches(*(more - less for less, more in zip(one[name], two[name], strict=True)))
        for name in one
    }


def count_here(layers: tuple[int, ...], kernel: Kernel) -> list[dict[str, Launches]]:
    """Count the steps of `count_steps` for decoders of so many layers, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        return [_count_of(number, kernel, Path(folder, str(number))) for number in layers]


def _kernel_of_gpu() -> Kernel:
    """What attends to rows on a GPU, if it is installed here."""
    return "auto" if importlib.util.find_spec("triton") is None else "triton"


def _count_of(layers: int, kernel: Kernel, folder: Path) -> dict[str, Launches]:
    folder.mkdir()
    size = Size(name="tiny", about="", open=partial(tiny_llava, layers=layers), samples=8)
    where = ModelSettings(device="cpu", dtype="float32", attention=kernel)
    workload = Workload(size, folder, where)
    film = workload.films[0]
    workload.compress(film)
    counted = {}
    for name, step in _steps(workload, film).items():
        step(torch.tensor([[0]]))
        counted[name] = count_launches(partial(step, torch.tensor([[1]])))
    return counted


def _steps(workload: Workload, film: Film) -> dict[str, Callable[[Tensor], None]]:
    """Decode steps at a place [1, 1]."""
    model = workload.family.language_model
    with CacheFile.open(film.cache) as cache:
        prefix = Prefix.load(cache, "cpu", workload.family.rotation)
    tiered, plain = TieredCache(prefix), prefix.to_dynamic_cache(torch.float32)
    embedded = torch.zeros(1, 1, model.config.hidden_size)

    @torch.inference_mode()
    def step(place: Tensor) -> None:
        forward(model, embedded, place, tiered)

    @torch.inference_mode()
    def plain_step(place: Tensor) -> None:
        with own_attention(workload.family):
            model(
                inputs_embeds=embedded, position_ids=place, **{CACHE_KEYWORD: plain}, use_cache=True
            )

    return {"step": step, "plain_step": plain_step}
