"""A language model over tiers: the attention function, its registration, and the way in.

Knows transformers' attention interface (5.23); no model code is copied or patched.
"""

import functools
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from batch.errors import ModelError
from batch.kv.attention import Block, Kernel, attend, attend_block, attend_own, fold, merge, unfold
from batch.kv.cache import CACHE_KEYWORD, Columns, Packing, TieredCache
from cachefmt.tiers import STORED_TIERS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

ATTENTION = "tiered"
"""Name of our attention function in transformers' interface."""

ATTENTIONS: dict[Kernel, str] = {
    "auto": ATTENTION,
    "torch": f"{ATTENTION}_torch",
    "triton": f"{ATTENTION}_triton",
}
"""Its names by what attends to stored rows."""

FEW_QUERIES = 256
"""Queries of a key/value head that Triton's kernel serves at most; more are for torch's own.

Source: modelled, not measured. The kernel reads and decodes all rows again for every 32 queries:
131,072 rows of INT4, 8 heads x 128, are 0.17 GB, so 256 queries take 8 times 0.05 ms at best. To
decode them once into a buffer, and to read that, moves 1.2 GB: 0.3 ms; the products come on top.
"""

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_SINK_FAMILIES = (
    *("deepseek_v4", "flint", "gpt_oss", "granite_swa", "granitemoe_swa", "hy_v4"),
    *("mimo_v2_flash", "openai_privacy_filter"),
)
"""Families of transformers 5.23 whose attention has learned sinks; no config field says so."""


def refuse_unsupported(config: "PreTrainedConfig") -> None:
    """Refuse a language model whose attention is not plain softmax over all earlier tokens.

    The ModelError names each feature that attention over tiers would silently get wrong.
    """
    config = config.get_text_config(decoder=True)
    layer_types = getattr(config, "layer_types", None)
    features = []
    if layer_types is not None:
        features += sorted({f"{kind} layers" for kind in layer_types} - {"full_attention layers"})
    elif getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        features.append(f"a sliding window of {config.sliding_window} tokens")
    if getattr(config, "attention_chunk_size", None):
        features.append(f"attention in chunks of {config.attention_chunk_size} tokens")
    if getattr(config, "attn_logit_softcapping", None):
        features.append(f"attention logit soft-capping at {config.attn_logit_softcapping}")
    if config.model_type in _SINK_FAMILIES:
        features.append("attention sinks")
    if features:
        raise ModelError(
            f"model family {config.model_type}: got {', '.join(features)}; expected full softmax "
            "attention in every layer. Choose a model without, or a config that turns it off."
        )


def install() -> None:
    """Register our attention with transformers under each name of `ATTENTIONS`.

    Comes before a model is loaded with, or switched to, such a name:
    `language_model.set_attn_implementation(ATTENTION)`. Again it changes nothing.
    """
    for name in ATTENTIONS.values():
        AttentionInterface.register(name, tiered_attention)


@torch.no_grad()
def forward(
    language_model: "PreTrainedModel",
    embeddings: Tensor,
    positions: Tensor,
    cache: TieredCache,
    padding: Tensor | None = None,
    columns: Columns | None = None,
) -> Tensor:
    """Run tokens after the prefix and the suffix of `cache`, and add them to the suffix.

    Args:
        language_model: the decoder without its head, set to one of `ATTENTIONS` after `install`.
        embeddings: [batch, new, hidden] in the model's dtype.
        positions: int [batch, new], or [axes, batch, new] for models with several axes.
        cache: its suffix must be of the same batch, or empty.
        padding: int [batch], columns of padding at the left of each sequence's suffix, the same
            in every call until the suffix is cleared; None = none. Nothing is computed for it,
            no other column sees it, and 0 comes out. On the CPU it costs no device a wait.
        columns: instead of `padding` where `is_for_kernel`, for a pass that a CUDA graph holds. The
            cache's capacity must have room; the caller counts them with `cache.advance`.

    Returns:
        The last hidden state [batch, new, hidden], after the final norm.

    Raises:
        ModelError: the model is set to another attention.
    """
    found = language_model.config._attn_implementation
    if found not in ATTENTIONS.values():
        raise ModelError(
            f"{type(language_model).__name__}: got attention {found!r}, expected {ATTENTION!r}: "
            f"call batch.kv.install() and .set_attn_implementation({ATTENTION!r}) first"
        )
    past, (batch, new) = cache.get_seq_length(), embeddings.shape[:2]
    is_counted = columns is None
    if (
        columns is None
        and cache.filling is None
        and is_for_kernel(language_model, batch * new, embeddings.dtype, embeddings.device)
    ):
        columns = _columns(past, new, padding, batch, embeddings.device)
    cache.columns = columns
    scores, cache.packing = None, Packing()
    if columns is not None:
        # Of four axes, so that it passes (see below); the kernel makes its own of the columns.
        scores = embeddings.new_empty(1, 1, 1, 1).expand(batch, -1, -1, -1)
    elif past or padding is not None:
        scores, cache.packing = _causal(past, new, padding, embeddings.device)
        # 4-D masks reach the attention function as they are (masking_utils, 5.23); without one,
        # transformers gives an attention it does not know no mask at all.
        scores = scores.expand(batch, -1, -1, -1)
    output = language_model(
        inputs_embeds=cache.packing.pack(embeddings),
        position_ids=cache.packing.pack_positions(positions),
        attention_mask=scores,
        use_cache=True,
        tiers=cache,
        **{CACHE_KEYWORD: cache},
    )
    hidden: Tensor = cache.packing.unpack(output.last_hidden_state)
    if columns is None:
        return hidden
    if is_counted:
        cache.advance(new)
    if new == 1:  # a question has at least one token, so the padding is behind
        return hidden
    columns = Columns(*(one.to(hidden.device) for one in columns))
    return hidden.masked_fill((columns.place < columns.padding[:, None])[..., None], 0)


def is_for_kernel(
    language_model: "PreTrainedModel", tokens: int, dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether so many tokens of a pass behind a prefix are few enough for Triton's kernel.

    And whether the model is set to it, and it can run here.
    """
    config = language_model.config
    kernels = {name: kernel for kernel, name in ATTENTIONS.items()}
    kernel = kernels.get(config._attn_implementation)
    can = device.type == "cuda" and dtype in _KERNEL_DTYPES
    is_wanted = kernel == "triton" or (kernel == "auto" and can)
    heads = config.num_attention_heads
    group = heads // (getattr(config, "num_key_value_heads", None) or heads)
    return is_wanted and tokens * group <= FEW_QUERIES and _kernels() is not None


def fill(
    language_model: "PreTrainedModel",
    embeddings: Tensor,
    positions: Tensor,
    cache: TieredCache,
    block: Block,
) -> None:
    """Put the keys and values of all layers into the empty suffix of `cache`, and nothing else.

    Of the last layer, nothing is computed behind its keys and values: they do not need it.
    Arguments and errors as of `forward`, of what is computed; `block` says which columns count as
    copies, and which are made of others.
    """
    cache.filling = block
    try:
        if block.reused is not None and not embeddings.shape[1]:
            block.reused.fill(cache)
            return
        forward(language_model, embeddings, positions, cache)
    except _FilledError:
        pass
    finally:
        cache.filling = None


class _FilledError(Exception):
    """The way out of a model whose last layer has its keys and values."""


def tiered_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    tiers: TieredCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to the prefix of `tiers` and to the own suffix (an attention function, 5.23).

    Args:
        query: [batch, heads, new, head_dim], packed as `tiers` says.
        key, value: the suffix, [batch, kv_heads, keys, head_dim].
        attention_mask: float32 [batch, 1, new, keys], added to the scores; None: the suffix is
            new, and each column sees those before it. Not read where `tiers` has columns.
        tiers: handed through the model by `forward`.
        kwargs: what the model tells other attention functions.
    """
    if tiers is None:
        raise ModelError("attention over tiers: got no tiers; run it through batch.kv.forward")
    for name in ("sliding_window", "softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise ModelError(f"attention over tiers: the model asks for {name}; expected none")
    layer = module.layer_idx
    if not isinstance(layer, int):
        raise ModelError(f"attention over tiers: {type(module).__name__} does not know its layer")
    if tiers.filling is not None and layer == tiers.prefix.shape.layers - 1:
        raise _FilledError
    if tiers.columns is not None:
        return _attend_few(query, tiers, layer, key, value, scaling), None
    unpacked = tiers.packing.unpack_heads(query)
    if attention_mask is None:
        output, total = attend_block(unpacked, key, value, tiers.filling, scaling=scaling)
    else:
        output, total = attend_own(unpacked, key, value, attention_mask, scaling=scaling)
    output, total = tiers.packing.pack_heads(output), tiers.packing.pack_heads(total)
    parts = [part for part in tiers.prefix.layer(layer) if len(part)]
    if parts:
        batch, _, queries, _ = query.shape
        folded, lse = attend(fold(query, key.shape[1]), parts, scaling=scaling)
        shared = unfold(folded, batch, queries), unfold(lse, batch, queries)
        output, total = merge([shared, (output, total)])
    if tiers.observer is not None:
        tiers.observer.add(layer, unpacked, tiers.packing.unpack_heads(total), scaling)
    return output.to(query.dtype).transpose(1, 2), None


def _attend_few(
    query: Tensor, tiers: TieredCache, layer: int, key: Tensor, value: Tensor, scaling: float
) -> Tensor:
    """As `tiered_attention`, by the kernel, from tensors that lie still for a CUDA graph."""
    kernels = _kernels()
    if kernels is None or tiers.columns is None:
        raise ModelError("attention by triton: not installed")
    prefix = tiers.prefix
    filled = tuple(prefix.filled(layer, tier) for tier in STORED_TIERS)
    if layer not in tiers.prepared or tiers.prepared[layer][0] != filled:
        rows = kernels.prepare(
            prefix.layer(layer),
            kv_heads=prefix.shape.heads,
            head_dim=prefix.shape.head_dim,
            device=query.device,
        )
        tiers.prepared[layer] = filled, rows
    columns = (one.to(query.device) for one in tiers.columns)
    output: Tensor
    output, lse = kernels.attend_few(
        query,
        tiers.prepared[layer][1],
        kernels.Suffix(key, value, *columns),
        scaling=scaling,
    )
    if tiers.observer is not None:
        tiers.observer.add(layer, query, lse, scaling)
    return output


@functools.cache
def _kernels() -> ModuleType | None:
    """`triton_attention`, imported when it is first needed; None if there is no Triton."""
    try:
        from batch.kv import triton_attention
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return None
    return triton_attention


def _columns(
    past: int, new: int, padding: Tensor | None, batch: int, device: torch.device
) -> Columns:
    place = torch.arange(past, past + new, device=device)
    if padding is None:
        return Columns(place, torch.zeros(batch, dtype=torch.int32, device=device))
    return Columns(place, padding.to(device, torch.int32))


def _causal(
    past: int, new: int, padding: Tensor | None, device: torch.device
) -> tuple[Tensor, Packing]:
    """What new columns see, and how the padding among them is left out.

    float32 [batch or 1, 1, new, past + new], 0 where a column sees the suffix, else -inf. Padding
    sees itself, so that its softmax is never empty.
    """
    columns = torch.arange(past + new, device=device if padding is None else padding.device)
    rows = columns[past:, None]
    hidden, packing = (columns > rows)[None], Packing()
    if padding is not None:
        padded = columns < padding[:, None, None]
        hidden = hidden | (padded & (columns != rows))
        packing = Packing(~padded[:, 0, past:])
    hidden = hidden.to(device)
    scores = torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)[:, None]
    return scores, packing
