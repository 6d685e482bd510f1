"""A language model over tiers: the attention function, its registration, and the way in.

Knows transformers' attention interface (5.23); no model code is copied or patched.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from batch.errors import ModelError
from batch.kv.attention import Block, Kernel, attend, attend_block, attend_own, fold, merge, unfold
from batch.kv.cache import Packing, TieredCache

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
    for kernel, name in ATTENTIONS.items():
        AttentionInterface.register(name, partial(tiered_attention, kernel=kernel))


@torch.no_grad()
def forward(
    language_model: "PreTrainedModel",
    embeddings: Tensor,
    positions: Tensor,
    cache: TieredCache,
    padding: Tensor | None = None,
) -> Tensor:
    """Run tokens after the prefix and the suffix of `cache`, and add them to the suffix.

    Args:
        language_model: the decoder without its head, set to one of `ATTENTIONS` after `install`.
        embeddings: [batch, new, hidden] in the model's dtype.
        positions: int [batch, new], or [axes, batch, new] for models with several axes.
        cache: its suffix must be of the same batch, or empty.
        padding: int [batch], columns of padding at the left of each sequence's suffix, the same
            in every call until the suffix is cleared; None = none. Nothing is computed for it,
            no other column sees it, and 0 comes out.

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
    scores, cache.packing = None, Packing()
    if past or padding is not None:
        scores, cache.packing = _causal(past, new, padding, embeddings.device)
        # 4-D masks reach the attention function as they are (masking_utils, 5.23); without one,
        # transformers gives an attention it does not know no mask at all.
        scores = scores.expand(batch, -1, -1, -1)
    output = language_model(
        inputs_embeds=cache.packing.pack(embeddings),
        position_ids=cache.packing.pack_positions(positions),
        attention_mask=scores,
        past_key_values=cache,
        use_cache=True,
        tiers=cache,
    )
    return cache.packing.unpack(output.last_hidden_state)


def fill(
    language_model: "PreTrainedModel",
    embeddings: Tensor,
    positions: Tensor,
    cache: TieredCache,
    block: Block,
) -> None:
    """Put the keys and values of all layers into the empty suffix of `cache`, and nothing else.

    Of the last layer, nothing is computed behind its keys and values: they do not need it.
    Arguments and errors as of `forward`; `block` says which columns count as copies.
    """
    cache.filling = block
    try:
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
    kernel: Kernel = "auto",
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to the prefix of `tiers` and to the own suffix (an attention function, 5.23).

    Args:
        query: [batch, heads, new, head_dim], packed as `tiers` says.
        key, value: the suffix, [batch, kv_heads, keys, head_dim].
        attention_mask: float32 [batch, 1, new, keys], added to the scores; None: the suffix is
            new, and each column sees those before it.
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
    unpacked = tiers.packing.unpack_heads(query)
    if attention_mask is None:
        output, total = attend_block(unpacked, key, value, tiers.filling, scaling=scaling)
    else:
        output, total = attend_own(unpacked, key, value, attention_mask, scaling=scaling)
    output, total = tiers.packing.pack_heads(output), tiers.packing.pack_heads(total)
    parts = [part for part in tiers.prefix.layer(layer) if len(part)]
    if parts:
        batch, _, queries, _ = query.shape
        folded, lse = attend(fold(query, key.shape[1]), parts, scaling=scaling, kernel=kernel)
        shared = unfold(folded, batch, queries), unfold(lse, batch, queries)
        output, total = merge([shared, (output, total)])
    if tiers.observer is not None:
        tiers.observer.add(layer, unpacked, tiers.packing.unpack_heads(total), scaling)
    return output.to(query.dtype).transpose(1, 2), None


def _causal(
    past: int, new: int, padding: Tensor | None, device: torch.device
) -> tuple[Tensor, Packing]:
    """What new columns see, and how the padding among them is left out.

    float32 [batch or 1, 1, new, past + new], 0 where a column sees the suffix, else -inf. Padding
    sees itself, so that its softmax is never empty.
    """
    columns = torch.arange(past + new, device=device)
    rows = columns[past:, None]
    hidden, packing = (columns > rows)[None], Packing()
    if padding is not None:
        padded = columns < padding.to(device)[:, None, None]
        hidden = hidden | (padded & (columns != rows))
        packing = Packing(~padded[:, 0, past:])
    scores = torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)[:, None]
    return scores, packing
