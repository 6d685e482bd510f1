"""The real language model: from its GGUF file to an ordinary checkpoint.

Knows that transformers (5.23) reads GGUF with the package `gguf`, which only the conversion needs.
"""

from pathlib import Path

import torch


def convert(gguf: Path, folder: Path) -> None:
    """Write a checkpoint of transformers into an empty folder.

    Its weights are those of the GGUF file, multiplied out, in float16: half of float32's bytes,
    and its rounding (2**-11) is nothing beside that to 4 bits.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The one that was read says that it is quantised, and would not be saved as it is now.
    del read.config.quantization_config
    model = type(read)._from_config(read.config, dtype=torch.float16)  # type: ignore[no-untyped-call]  # transformers 5.23
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
