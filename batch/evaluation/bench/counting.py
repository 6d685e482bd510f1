"""What the product asks of a GPU, counted on a tiny model where there may be none.

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
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from batch.evaluation.bench.workload import Film, Measured, Size, Workload, tiny_llava
from batch.evaluation.launches import Launches, count_launches
from batch.evaluation.measuring import in_new_process
from batch.evaluation.uncompressed import own_attention, uncompressed_film
from batch.kv import CACHE_KEYWORD, Kernel, Prefix, TieredCache, forward
from batch.making.cache_plan import plan_cache
from batch.settings import ModelSettings
from cachefmt import CacheFile

_FEW_LAYERS, _MANY_LAYERS = 1, 2


class Counts(NamedTuple):
    """What a piece of work asks for in each layer, and once for all of them."""

    layer: Launches
    beside: Launches

    def of(self, layers: int) -> Launches:
        """In a decoder of so many layers."""
        pairs = zip(self.layer, self.beside, strict=True)
        return Launches(*(layers * each + once for each, once in pairs))


def measure_launches(workload: Workload, repeats: int) -> Measured:
    """What every model asks of a GPU in a layer; `launches_per_layer` of it is the ratio."""
    counted = count_work()
    figures = {
        name: {part: launches._asdict() for part, launches in counts._asdict().items()}
        for name, counts in counted.items()
    }
    return {"launches_per_layer": launches_per_layer(counted)}, figures


def launches_per_layer(counted: dict[str, Counts]) -> float:
    """Of a decode step, beside those of the model's own."""
    return float(counted["step"].layer.launches - counted["plain_step"].layer.launches)


@functools.cache
def count_work() -> dict[str, Counts]:
    """Count, in a process of its own, work by name.

    - "step", "plain_step": of the decoder behind rows of all tiers, or behind a plain cache as
      transformers runs it.
    - "question": of four tokens, answered from rows in memory, evidence included.
    - "block": of a prefill, from pictures to written rows, a mean over those of a film.
    - "plain_prefill": transformers' own forward over all slots of a film.
    """
    with patch.dict(os.environ, {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}):
        few, many = in_new_process(count_here, (_FEW_LAYERS, _MANY_LAYERS), _kernel_of_gpu())
    return {name: _counts(few[name], many[name]) for name in few}


def count_here(layers: tuple[int, ...], kernel: Kernel) -> list[dict[str, Launches]]:
    """Count the work of `count_work` for decoders of so many layers, in this process."""
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
    manifest = workload.analyze(film)
    plan = plan_cache(manifest, workload.family, dtype=workload.dtype)
    blocks = len(list(plan.plan.blocks(plan.block_samples)))
    prefill = count_launches(lambda: workload.prefill(film, manifest))
    counted = {"block": Launches(*(each // blocks for each in prefill))}
    plain = partial(uncompressed_film, workload.family, film.path)
    counted["plain_prefill"] = count_launches(plain)
    answerer = workload.answerer(film)

    def ask(tokens: int) -> None:
        list(answerer.ask_all(film.questions[:1], max_new_tokens=tokens))

    ask(1)
    counted["question"] = count_launches(partial(ask, 4))
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


def _counts(few: Launches, many: Launches) -> Counts:
    """Of what was counted in `_FEW_LAYERS` and in `_MANY_LAYERS`."""
    pairs = zip(few, many, strict=True)
    layer = [(more - less) // (_MANY_LAYERS - _FEW_LAYERS) for less, more in pairs]
    beside = [less - _FEW_LAYERS * each for less, each in zip(few, layer, strict=True)]
    return Counts(Launches(*layer), Launches(*beside))
