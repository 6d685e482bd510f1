"""What a planned prefill will hold in memory, from the config alone; and when it is too much."""

import math
from dataclasses import dataclass

import torch

from batch.making.cache_plan import CachePlan
from batch.models import Family
from cachefmt.layout import kv_bytes
from cachefmt.tensors import TORCH_DTYPES

_FLOAT32_BYTES = 4
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes at the peak of a prefill; only the tiers grow with the video."""

    weights_bytes: int | None
    """None where only the files of a quantised checkpoint would tell, and they are not there."""
    tiers_bytes: int
    block_bytes: int
    """Keys, values and activations of one block, and what waits for the file, about."""

    @property
    def peak_bytes(self) -> int | None:
        if self.weights_bytes is None:
            return None
        return self.weights_bytes + self.tiers_bytes + self.block_bytes


def estimate_memory(planned: CachePlan, family: Family, device: torch.device = _CPU) -> Memory:
    """Estimate what `prefill` will hold on its device; no weights are needed.

    Weights (if they are not quantised) and tiers are exact, up to what a library keeps for itself.
    """
    dtype = getattr(torch, planned.header.model.dtype)
    decoder_bytes = _decoder_bytes(planned, family, dtype, device)
    return Memory(
        weights_bytes=family.checkpoint.weights_bytes(dtype),
        tiers_bytes=kv_bytes(planned.header.shape),
        block_bytes=_file_bytes(planned)
        + max(decoder_bytes, _vision_bytes(planned, family, dtype)),
    )


def _file_bytes(planned: CachePlan) -> int:
    """Unrotated rows of a block of `klt`, which are gathered while it is computed.

    More wait where a file's own bases are fitted, at most `file_blocks.FITTED_NUMBERS`.
    """
    shape, codec = planned.header.shape, planned.header.codec
    if codec.name == "plain":
        return 0
    tokens = min(codec.block_samples, shape.stored_samples) * shape.rows * shape.columns
    raw = TORCH_DTYPES[shape.raw_dtype].itemsize
    return tokens * shape.layers * shape.layer_numbers * raw


def _decoder_bytes(
    planned: CachePlan, family: Family, dtype: torch.dtype, device: torch.device
) -> int:
    """The longest block in the decoder: its keys and values, one layer's activations.

    Of a block with reused rows, also the mask that says what its tokens see; for CUDA's kernel once
    more for each head of a group, in the model's type.

    Source: measured on the CPU in blocks of 4 samples, this is 1.02 and 0.91 of what torch
    allocated for the demo model and one of half a billion parameters.
    """
    text, shape = family.config.get_text_config(decoder=True), family.decoder
    kept = 2 * shape.layers * shape.heads * shape.head_dim
    layer: int = 4 * text.hidden_size + 3 * text.intermediate_size
    masks = _FLOAT32_BYTES
    if device.type == "cuda":
        masks += text.num_attention_heads // shape.heads * dtype.itemsize
    is_computed, most = planned.plan.is_computed, 0
    for block in planned.plan.blocks(planned.block_samples):
        rows, computed = block.stop - block.start, int(is_computed[block].sum())
        mask_bytes = computed * rows * masks if computed < rows else 0
        most = max(most, (rows * kept + computed * layer) * dtype.itemsize + mask_bytes)
    if not is_computed.all():  # the rows that later blocks reuse
        most += planned.manifest.geometry.cells * kept * dtype.itemsize
    return most


def _vision_bytes(planned: CachePlan, family: Family, dtype: torch.dtype) -> int:
    """The pictures of a block in the vision tower: pixels, and the states of their patches.

    Source: on the CPU, CLIP towers of 4 and 24 layers allocated 18 and 38 times the states of one
    layer, since they keep those of all (a SigLIP tower of 24 layers: 34); Qwen-VL's, which keep
    none, 15 times.
    """
    vision, geometry = family.config.vision_config, planned.manifest.geometry
    side = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    # Where a sample has several frames, the tower merges them before its first layer.
    patches = (geometry.height_px // side) * (geometry.width_px // side)
    hidden = getattr(vision, "embed_dim", None) or vision.hidden_size  # Qwen2-VL's and the others'
    kept = vision.num_hidden_layers if hasattr(family.config, "vision_feature_layer") else 0
    states = patches * hidden * (kept + 14) * dtype.itemsize
    pixels = math.prod(geometry.picture_shape) * _FLOAT32_BYTES
    pictures = min(planned.block_samples, int(planned.manifest.kept.sum()))
    return int(pictures * (states + 2 * pixels))  # as numbers, and scaled for the first layer


def is_out_of_memory(error: Exception) -> bool:
    """Whether a prefill failed for want of memory, of the processor or a device."""
    # torch 2.13 has a class for devices only; its allocator for the processor says it in words.
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
