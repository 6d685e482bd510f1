"""Transformers' own processor and forward on some frames, in a process of its own.

Its video processors need torchvision, whose build on the package index does not fit a CPU build
of torch: `import torchvision` fails for want of two operators that nothing here calls. So it lies
in a folder of its own (see the Makefile) that only this program sees, and the two are declared.

    python -m tests.models.reference FOLDER

runs FOLDER/FAMILY/*.job.npz on FOLDER/FAMILY/checkpoint and writes *.result.npz beside them.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

TORCHVISION = Path(sys.prefix) / "torchvision"


def main(folder: str) -> None:
    """Process and run the frames of each job; ids, positions, logits and pixels go to results."""
    _operators = _import_torchvision()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    for checkpoint in sorted(Path(folder).glob("*/checkpoint")):
        processor = AutoProcessor.from_pretrained(checkpoint)
        model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
        for job in sorted(checkpoint.parent.glob("*.job.npz")):
            with torch.inference_mode():
                results = _run(processor, model, dict(np.load(job)))
            np.savez(job.with_name(job.name.replace("job", "result")), **results)


def _run(processor: Any, model: Any, job: dict[str, Any]) -> dict[str, Any]:
    kind, frames, question = str(job["kind"]), job["frames"], str(job["question"])
    if kind == "base image":
        inputs, pixels = _base_images(processor, model, frames, question)
    else:
        inputs = _inputs(processor, kind, frames, float(job["fps"]), question)
        pixels = inputs.get("pixel_values_videos", inputs.get("pixel_values"))
    seen: dict[str, Any] = {}
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with hook:
        logits = model(**inputs).logits[0]
    positions = seen.get("position_ids")
    length = inputs["input_ids"].shape[1]
    positions = torch.arange(length)[None] if positions is None else positions.reshape(-1, length)
    return {
        "token_ids": inputs["input_ids"][0].numpy(),
        "positions": positions.T.numpy(),
        "logits": logits.numpy(),
        "pixels": pixels.numpy(),
    }


def _base_images(processor: Any, model: Any, frames: Any, question: str) -> tuple[Any, Any]:
    """LLaVA-1.6 with the base image of each frame alone, packed by transformers.

    Its own processor always adds parts of the image in a higher resolution.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    images = LlavaNextImageProcessorPil.from_pretrained(model.name_or_path)
    pixels = images([Image.fromarray(frame) for frame in frames], return_tensors="pt")
    base = pixels["pixel_values"][:, 0]
    states = model.model.vision_tower(base, output_hidden_states=True).hidden_states
    features = model.model.multi_modal_projector(states[model.config.vision_feature_layer][:, 1:])
    packed, _ = model.model.pack_image_features(
        [feature[None] for feature in features],
        pixels["image_sizes"],
        vision_feature_select_strategy="default",
        image_newline=model.model.image_newline,
    )
    text = _text(processor, "image", len(frames), question)
    text = text.replace("<image>", "<image>" * len(packed[0]))
    ids = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    seen = BaseModelOutputWithPooling(pooler_output=packed)
    return {"input_ids": ids, "mm_encoder_outputs": {"image": seen}}, base


def _text(processor: Any, kind: str, frames: int, question: str) -> str:
    parts = [{"type": "video"}] if kind == "video" else [{"type": "image"}] * frames
    content = [*parts, {"type": "text", "text": question}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return text


def _inputs(processor: Any, kind: str, frames: Any, fps: float, question: str) -> Any:
    text = _text(processor, kind, len(frames), question)
    opened = {"add_special_tokens": False} if _opens_with_bos(processor, text) else {}
    if kind == "image":
        return processor(text=text, images=list(frames), return_tensors="pt", **opened)
    from transformers.video_utils import VideoMetadata

    metadata = VideoMetadata(
        total_num_frames=len(frames),
        fps=fps,
        duration=len(frames) / fps,
        frames_indices=list(range(len(frames))),
        height=frames.shape[1],
        width=frames.shape[2],
    )
    return processor(
        text=text,
        videos=[frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
        **opened,
    )


def _opens_with_bos(processor: Any, text: str) -> bool:
    bos = processor.tokenizer.bos_token
    return bos is not None and text.startswith(bos)


def _import_torchvision() -> torch.library.Library:
    """Import torchvision; the operators are declared as long as the library lives."""
    sys.path.insert(0, str(TORCHVISION))
    if importlib.util.find_spec("torchvision") is None:
        raise SystemExit(f"no torchvision in {TORCHVISION}; `make test` puts it there")
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401  # before transformers looks for it

    return library


if __name__ == "__main__":
    main(*sys.argv[1:])
