"""The process in which `schemes/quantized_cache.py` lets transformers' QuantizedCache quantise.

A program that does a job a line of its input, in JSON, and answers with a number of bytes; it ends
with its input.
"""

import json
import sys
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, QuantizedCache

from batch.evaluation.rivals.asking import stored_bytes
from batch.evaluation.rivals.quantized import codes_and_scales


def quantise(job: dict[str, Any]) -> int:
    """Bytes of the quantised rows of a file; as decoded they go into another."""
    rows = load_file(job["source"])
    config = LlamaConfig(num_hidden_layers=len(rows["key"]))  # all that the cache reads of it
    cache: Any = QuantizedCache(job["backend"], config, nbits=job["bits"])
    for number, states in enumerate(zip(rows["key"], rows["value"], strict=True)):
        cache.update(*(one.transpose(0, 1)[None].contiguous() for one in states), number)
    save_file(
        {
            kind: torch.stack([_decoded(layer, getattr(layer, held)) for layer in cache.layers])
            for kind, held in (("key", "_quantized_keys"), ("value", "_quantized_values"))
        },
        job["target"],
    )
    return sum(map(stored_bytes, codes_and_scales(cache)))


def _decoded(layer: Any, held: Any) -> Tensor:
    decoded: Tensor = layer._dequantize(held)
    return decoded[0].transpose(0, 1).float().contiguous()


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr  # what the backends print is no answer
    for line in sys.stdin:
        answers.write(f"{quantise(json.loads(line))}\n")
        answers.flush()
