"""A cache as transformers' own, with a question behind it, for `model.generate`."""

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from batch.answering.answerer import question_ids
from batch.answering.opening import open_checked, open_writer
from batch.kv import Prefix
from batch.settings import WriterSettings

if TYPE_CHECKING:
    from transformers import DynamicCache


class GenerateInputs(TypedDict):
    """What `model.generate` of transformers takes to answer a question, batch of 1."""

    past_key_values: "DynamicCache"
    input_ids: Tensor
    """The question alone, with all that the chat template puts around it, [1, new]."""
    position_ids: Tensor
    """Where it stands, [1, new], or [axes, 1, new] of models with several axes."""
    attention_mask: Tensor
    """Ones, [1, cached + new]."""


def to_dynamic_cache(
    path: str | Path,
    question: str,
    *,
    model: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    offline: bool = False,
) -> GenerateInputs:
    """Expand a cache into transformers' own, with a question behind it for `model.generate`.

        inputs = to_dynamic_cache("caches/video.safetensors", "What colour is the car?")
        output = model.generate(**inputs, max_new_tokens=64)
        answer = output[0, inputs["input_ids"].shape[1] :]

    `past_key_values` has the rows of all tiers decoded, a row that counts m times m times; it grows
    with what is generated, so take new inputs for the next question. Its length is not the position
    of the question, which is why `position_ids` belong to it.

    Args:
        path: a cache file, or a folder of one segment.
        model: whose tokenizer it is; None is where it was when the cache was written. Weights are
            not loaded.
        device, dtype: of the rows, as torch names them; dtype None is that of the prefill.
        offline: use only what is on this machine.

    Raises:
        CacheFileError: it is no cache, or damaged.
        ModelError: the model is not there, or is not the one that wrote the cache.
        BatchError: several segments, or a question that cannot be asked.
    """
    path = Path(path)
    (cache,) = open_checked(path, "whole")
    with cache:
        writer = WriterSettings(model=model, device=device, dtype=dtype, offline=offline)
        family = open_writer(cache, path, writer).family
        prefix = Prefix.load(cache, device, family.rotation)
        past = prefix.to_dynamic_cache(getattr(torch, dtype or cache.header.model.dtype))
        start = torch.tensor(cache.header.layout.next_position, device=device)
    ids = torch.tensor([question_ids(family, question)], device=device)
    positions = start[:, None] + torch.arange(ids.shape[1], device=device)
    return GenerateInputs(
        past_key_values=past,
        input_ids=ids,
        position_ids=positions if len(positions) == 1 else positions[:, None],
        attention_mask=ids.new_ones(1, past.get_seq_length() + ids.shape[1]),
    )
