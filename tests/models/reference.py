"""Transformers' own processor and forward on some frames, in a process of its own.

Its video processors need torchvision, whose build on the package index does not fit a CPU build
of torch: `import torchvision` fails for want of two operators that nothing here calls. So it lies
in a folder of its own (see the Makefile) that only this program sees, and the two are declared.

    python -m tests.models.reference CHECKPOINT FOLDER

runs FOLDER/job-*.npz and writes FOLDER/result-*.npz.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

TORCHVISION = Path(sys.prefix) / "torchvision"


def main(checkpoint: str, folder: str) -> None:
    """Process and run the frames of each job; ids, positions, logits and pixels go to results."""
    _operators = _import_torchvision()
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    for job in sorted(Path(folder).glob("job-*.npz")):
        results = _run(processor, model, np.load(job))
        np.savez(job.with_name(job.name.replace("job", "result")), **results)


def _run(processor: Any, model: Any, job: Any) -> dict[str, Any]:
    kind = str(job["kind"])
    inputs = _inputs(processor, kind, job["frames"], float(job["fps"]), str(job["question"]))
    seen: dict[str, Any] = {}
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with hook, torch.inference_mode():
        logits = model(**inputs).logits[0]
    positions = seen.get("position_ids")
    length = inputs["input_ids"].shape[1]
    positions = torch.arange(length)[None] if positions is None else positions.reshape(-1, length)
    pixels = inputs.get("pixel_values_videos", inputs.get("pixel_values"))
    return {
        "token_ids": inputs["input_ids"][0].numpy(),
        "positions": positions.T.numpy(),
        "logits": logits.numpy(),
        "pixels": pixels.numpy(),
    }


def _inputs(processor: Any, kind: str, frames: Any, fps: float, question: str) -> Any:
    parts = [{"type": "video"}] if kind == "video" else [{"type": "image"}] * len(frames)
    content = [*parts, {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
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
