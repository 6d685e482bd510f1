"""A byte-level tokenizer trained on a few words, so that text next to text runs into one token."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "Frame1: \nFrame2: \nwhat is the red star doing ?\n\nFrame10: \n",
    "You are provided the following series of two frames from a 0:00:03 [H:MM:SS] video.\n\n",
    "Frame from 00:00:\nFrame from 00:01:\n\nUser: what is the red star doing ?\nAssistant:",
]


def tokenizer(special: list[str], **names: Any) -> PreTrainedTokenizerFast:
    """Byte pairs like those of GPT-2 and its kin, 400 tokens with the special ones.

    Args:
        special: special tokens, numbered from 0.
        names: what the tokenizer calls some of them, as `pad_token`.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)
