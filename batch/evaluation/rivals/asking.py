"""Answers of the demo model's decoder over whatever cache a method makes of a film's prefix.

Every method gets the embeddings that the product's own model makes of all samples, and decodes
greedily, one question after another.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    Cache,
    LlavaNextForConditionalGeneration,
    MistralForCausalLM,
)

MAX_NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film as the product saw it.

    - prefix: embeddings of all slots, float32 [1, slots, hidden].
    - seconds: what decoding and encoding took.
    - questions: token ids behind the prefix by question.
    """

    video: str
    prefix: Tensor
    seconds: float
    questions: dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to fill a cache with a prefix; `tensors` are what it then holds of K and V."""

    name: str
    profile: str
    fill: Callable[["Decoder", Film], Cache]
    tensors: Callable[[Any], Iterable[Tensor]]


class Decoder:
    """The demo model's decoder as a model of its own, of a class that kvpress supports."""

    def __init__(self, folder: Path, *, attention: str = "sdpa") -> None:
        whole = LlavaNextForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention
        )
        config: Any = whole.config.get_text_config()
        self.config = config
        self.model = MistralForCausalLM(config)
        self.model.model, self.model.lm_head = whole.model.language_model, whole.lm_head
        self.model.train(False)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._stop_id = whole.generation_config.eos_token_id

    @torch.inference_mode()
    def read(self, embedded: Tensor, cache: Cache, start: int) -> Tensor:
        """Scores of the next token behind embeddings [1, n, hidden] from position `start` on."""
        positions = torch.arange(start, start + embedded.shape[1])[None]
        hidden = self.model.model(
            inputs_embeds=embedded, past_key_values=cache, position_ids=positions, use_cache=True
        ).last_hidden_state
        scores: Tensor = self.model.lm_head(hidden[0, -1])
        return scores

    def answer(self, ids: Sequence[int], prefix: Cache, start: int) -> str:
        """Answer a question whose first token stands at position `start`."""
        # Layers replace their tensors and write into none, so that a copy shares all of them;
        # `crop` would leave the question in a QuantizedCache (transformers 5.23).
        cache = copy.copy(prefix)
        cache.layers = [copy.copy(layer) for layer in prefix.layers]
        step, tokens = list(ids), list[int]()
        while len(tokens) < MAX_NEW_TOKENS:
            embedded = self.model.get_input_embeddings()(torch.tensor([step]))
            tokens.append(int(self.read(embedded, cache, start).argmax()))
            if tokens[-1] == self._stop_id:
                break
            start += len(step)
            step = tokens[-1:]
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip()


def read_films(folder: Path) -> Iterator[Film]:
    """The films that the product wrote down, in order."""
    for line in (folder / "films.jsonl").read_text(encoding="utf-8").splitlines():
        film = json.loads(line)
        prefix = load_file(folder / film.pop("prefix"))["prefix"][None]
        yield Film(prefix=prefix, **film)


def ask(decoder: Decoder, method: Method, film: Film) -> Iterator[dict[str, Any]]:
    """A method's answer to each question about a film."""
    started = time.perf_counter()
    cache = method.fill(decoder, film)
    seconds = film.seconds + time.perf_counter() - started
    size_bytes = sum(map(stored_bytes, method.tensors(cache)))
    for question, ids in film.questions.items():
        yield {
            "method": method.name,
            "profile": method.profile,
            "video": film.video,
            "question": question,
            "answer": decoder.answer(ids, cache, film.prefix.shape[1]),
            "bytes": size_bytes,
            "seconds": seconds,
        }


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor, floats as FP16 although they are computed with as float32."""
    width = 2 if tensor.is_floating_point() else tensor.element_size()
    return tensor.numel() * width


def main(about: str, methods: Callable[[Path], Iterable[tuple[Decoder, Method]]]) -> None:
    """The command line: run methods of a model over films, write their answers."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("model", type=Path, help="folder of the checkpoint")
    parser.add_argument("films", type=Path, help="folder that batch.evaluation.export_films wrote")
    parser.add_argument("answers", type=Path, help="JSON Lines to write")
    chosen = parser.parse_args()
    chosen.answers.parent.mkdir(parents=True, exist_ok=True)
    unfinished = chosen.answers.with_name(f".{chosen.answers.name}.tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        for decoder, method in methods(chosen.model):
            sys.stderr.write(f"{method.name} {method.profile}\n")
            method.fill(decoder, next(read_films(chosen.films)))  # compiles, and is not counted
            for film in read_films(chosen.films):
                file.writelines(f"{json.dumps(row)}\n" for row in ask(decoder, method, film))
    unfinished.replace(chosen.answers)
