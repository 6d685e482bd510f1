"""Judge "prose": what a real language model makes of a prefix that a scheme stored.

The first tokens of a context are kept at FP16, as they hold the attention that goes nowhere; all
others are stored by the scheme, decoded, and read by the model behind them. float32 on the CPU.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from batch.answering.evidence import NEUTRAL
from batch.errors import BatchError
from batch.evaluation.data import Question, QuestionSet
from batch.evaluation.judges.prose_texts import (
    FOLLOWING,
    Text,
    calibration_text,
    said,
    spread,
    text_sets,
)
from batch.evaluation.judges.schemes import Scheme
from batch.evaluation.judges.schemes.controls import Nothing
from batch.evaluation.kept_runs import KeptRuns
from batch.evaluation.methods.row_method import Held, Queries, Rows
from batch.evaluation.running import Report, run_all
from batch.evaluation.runs import UNCOMPRESSED, AnsweredQuestion, Label, Run
from batch.evaluation.uncompressed import OBSERVED, AttentionMass
from batch.kv import CACHE_KEYWORD
from batch.kv.rotation import rotate, rotation_of, unrotate
from batch.making.sensitivity import DISTURBANCE, weights

EXACT_TOKENS = 4
"""First tokens of a context that are not left to the scheme. Source: StreamingLLM (2309.17453)."""
CALIBRATION_CONTEXTS = 12
_PROBED_CONTEXTS = 2
_PROBED_TOKENS = 512
"""Of each context of which the sensitivity is measured; a quarter as many follow."""


class LanguageModel:
    """A decoder of text that reads tokens into rows, and tokens behind rows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def model(self) -> Any:
        model: Any = AutoModelForCausalLM.from_pretrained(self._folder, dtype=torch.float32)
        return model.train(False)

    @cached_property
    def _tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self._folder)

    @property
    def context_tokens(self) -> int:
        return int(self.model.config.max_position_embeddings)

    def encode(self, text: str) -> list[int]:
        """Token ids, without any that stand for the start or end of a text."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def read(self, ids: Sequence[int], observed: Iterable[Queries] = ()) -> Rows:
        """Rows of a prefix, keys rotated; with the attention of `observed` queries."""
        cache = DynamicCache(config=self.model.config)
        masses = [AttentionMass(queries) for queries in dict.fromkeys(observed)]
        behind = {"prefix": ids, "neutral": self.encode(NEUTRAL), "again": ids}
        for source, fed in behind.items():
            own = [mass for mass in masses if mass.queries.source == source]
            if source == "prefix":
                self._feed(fed, cache, own)
            elif own:
                self._feed(fed, copy.deepcopy(cache), own)
        layers: Any = cache.layers
        key, value = (
            torch.stack([getattr(layer, kind)[0].transpose(0, 1) for layer in layers])
            for kind in ("keys", "values")
        )
        seen = {mass.queries: mass.attention(len(ids)) for mass in masses}
        return Rows(key=key, value=value, attention=seen)

    def _feed(
        self, ids: Sequence[int], cache: DynamicCache, masses: Sequence[AttentionMass]
    ) -> None:
        start = cache.get_seq_length()
        self._call(
            self.model.model,
            cache,
            masses=masses,
            input_ids=torch.tensor([ids]),
            position_ids=torch.arange(start, start + len(ids))[None],
        )

    def _call(
        self,
        model: Any,
        cache: DynamicCache,
        *,
        masses: Sequence[AttentionMass] = (),
        biases: Sequence[Tensor] | None = None,
        **inputs: Tensor,
    ) -> Any:
        """Run the decoder or the whole model, by our attention where there is cause to."""
        is_plain = not masses and biases is None
        self.model.set_attn_implementation("sdpa" if is_plain else OBSERVED)
        told = {} if is_plain else {"masses": masses, "biases": biases}
        output = model(use_cache=True, **{CACHE_KEYWORD: cache}, **inputs, **told)
        self.model.set_attn_implementation("sdpa")
        return output

    @torch.inference_mode()
    def scores(
        self, key: Tensor, value: Tensor, texts: Tensor, start: int, times: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities [texts, n, vocabulary] of what follows each token of texts [texts, n].

        Their first tokens stand at position `start`, behind rows [layers, rows, heads, head_dim],
        each of which counts `times` [layers, heads, rows], once if None.
        """
        cache = DynamicCache(config=self.model.config)
        for layer, states in enumerate(zip(key, value, strict=True)):
            shared = [one.transpose(0, 1).expand(len(texts), -1, -1, -1) for one in states]
            cache.update(*shared, layer)
        positions = torch.arange(start, start + texts.shape[1])[None].expand(len(texts), -1)
        biases = None if times is None else list(times.log())
        output = self._call(
            self.model, cache, biases=biases, input_ids=texts, position_ids=positions
        )
        logits: Tensor = output.logits
        return logits.log_softmax(dim=-1)

    def unrotated(self, rows: Rows, start: int) -> Rows:
        """Rows of tokens from position `start` on, with the rotation of their keys undone."""
        return replace(rows, key=unrotate(rows.key, self._rotation(rows.key, start)))

    def rotated(self, key: Tensor, start: int) -> Tensor:
        """Keys of tokens from position `start` on, rotated."""
        return rotate(key, self._rotation(key, start))

    def _rotation(self, key: Tensor, start: int) -> Any:
        positions = torch.arange(start, start + key.shape[1])[:, None]
        return rotation_of(self.model.model, positions)


class ProseJudge:
    """Lets schemes store texts, and asks what follows; schemes are fitted once."""

    name = "prose"

    def __init__(self, model: LanguageModel, *, tokens: int, count: int) -> None:
        """About `count` contexts of `tokens` tokens."""
        self._model, self._tokens, self._count = model, tokens, count
        self._fitted: dict[Label, Scheme] = {}

    def sets(self, folder: Path) -> list[QuestionSet]:
        """As of `text_sets`.

        Raises:
            BatchError: the model's context or the text is too short.
        """
        tokens, most = self._tokens, self._model.context_tokens
        if tokens + 1 + FOLLOWING > most or tokens <= EXACT_TOKENS:
            raise BatchError(
                f"contexts of {tokens} tokens: the model takes {most}, of which {1 + FOLLOWING} "
                f"follow a context, and {EXACT_TOKENS} are not stored"
            )
        return text_sets(self._model.encode, folder, tokens=tokens, count=self._count)

    def run_all(
        self,
        sets: Sequence[QuestionSet],
        schemes: Sequence[Scheme],
        *,
        report: Report,
        kept: KeptRuns | None = None,
    ) -> Iterator[Run]:
        """Run the uncompressed model and every scheme over every text; as of `running.run_all`."""
        wanted: dict[Label, Scheme | Label] = {UNCOMPRESSED: UNCOMPRESSED}
        wanted |= {scheme.label: scheme for scheme in schemes}
        return run_all(sets, wanted, self._run, report=report, kept=kept)

    def _run(
        self, data: str, path: Path, questions: list[Question], missing: list[Scheme | Label]
    ) -> Iterator[Run]:
        text = Text.read(path)
        schemes = [scheme for scheme in missing if isinstance(scheme, Scheme)]
        observed = dict.fromkeys(queries for scheme in schemes for queries in scheme.observed)
        rows = self._model.read(text.prefix, observed)
        whole = Held(rows.key, rows.value, rows.fp16_bytes)
        exact = self._scores(text, whole)
        uncompressed = Nothing(label=UNCOMPRESSED, kind="whole")  # that is all to be said of it
        for scheme in (uncompressed, *schemes):
            try:
                held = whole if scheme is uncompressed else self._stored(scheme, rows)
            except BatchError as error:
                raise BatchError(f"{path.name}, {scheme.label}: {error}") from error
            yield Run(
                label=scheme.label,
                kind=scheme.kind,
                in_file=scheme.in_file,
                data=data,
                video=path.name,
                samples=0,
                fp16_bytes=rows.fp16_bytes,
                slots=rows.tokens,
                size_bytes=held.size_bytes,
                kv_bytes=held.size_bytes,
                answers=tuple(map(_answer, questions, exact, self._scores(text, held))),
            )

    def _scores(self, text: Text, held: Held) -> list[Tensor]:
        """Log-probabilities [tokens, vocabulary] of the tokens of each answer."""
        texts = pad_sequence([torch.tensor(one) for one in text.following], batch_first=True)
        start = len(text.prefix)
        scores = self._model.scores(held.key, held.value, texts, start, held.times)
        return [
            scores[one.behind, one.first - 1 : one.first - 1 + one.length] for one in text.asked
        ]

    def _stored(self, scheme: Scheme, rows: Rows) -> Held:
        """Rows as a scheme stores them, the exact tokens included, keys rotated."""
        scheme = self.fitted(scheme)
        exact = [states[:, :EXACT_TOKENS].half() for states in (rows.key, rows.value)]
        held = scheme.store(self._left_to(scheme, rows))
        key = held.key if scheme.rotated else self._model.rotated(held.key, EXACT_TOKENS)
        return Held(
            torch.cat([exact[0].float(), key], dim=1),
            torch.cat([exact[1].float(), held.value], dim=1),
            held.size_bytes + sum(states.nbytes for states in exact),
            None if held.times is None else pad(held.times, (EXACT_TOKENS, 0), value=1.0),
        )

    def _left_to(self, scheme: Scheme, rows: Rows) -> Rows:
        """Rows of all but the exact tokens, as a scheme gets them."""
        rest = rows.select(torch.arange(rows.tokens) >= EXACT_TOKENS)
        return rest if scheme.rotated else self._model.unrotated(rest, EXACT_TOKENS)

    def fitted(self, scheme: Scheme) -> Scheme:
        """A scheme as it stores, fitted to other text if it must be."""
        if scheme.is_fitted and scheme.label not in self._fitted:
            self._fitted[scheme.label] = self._fit(scheme)
        return self._fitted.get(scheme.label, scheme)

    def _fit(self, scheme: Scheme) -> Scheme:
        ids = self._model.encode(calibration_text())
        length = min(1024, len(ids) // CALIBRATION_CONTEXTS)
        keys, values = [], []
        for window in spread(ids, length, CALIBRATION_CONTEXTS):
            rest = self._left_to(scheme, self._model.read(window))
            keys.append(rest.key)
            values.append(rest.value)
        weight = None if scheme.rotated else self._weight
        return scheme.fit(
            Rows(key=torch.cat(keys, dim=1), value=torch.cat(values, dim=1), weight=weight)
        )

    @cached_property
    def _weight(self) -> Tensor:
        """As a calibration has it, see `making.sensitivity`, but of the next tokens of text."""
        ids = self._model.encode(calibration_text())
        length = _PROBED_TOKENS + _PROBED_TOKENS // 4
        windows = spread(ids, length, _PROBED_CONTEXTS)
        return weights(sum(map(self._sensitivity, windows), torch.zeros(())))

    @torch.inference_mode()
    def _sensitivity(self, window: Sequence[int]) -> Tensor:
        """KL of what follows when keys or values of a layer are disturbed, [layers, 2]."""
        prefix, texts = window[:_PROBED_TOKENS], torch.tensor([window[_PROBED_TOKENS:]])
        rows = self._model.read(prefix)
        states = torch.stack([rows.key, rows.value], 1)
        plain = torch.stack([self._model.unrotated(rows, 0).key, rows.value], 1)[
            :, :, EXACT_TOKENS:
        ]
        deviation = (plain - plain.mean(2, keepdim=True)).square().mean((2, 3, 4)).sqrt()
        exact = self._model.scores(rows.key, rows.value, texts, len(prefix))
        noise = torch.Generator().manual_seed(0)
        kl = torch.zeros(deviation.shape)
        for at in np.ndindex(*deviation.shape):
            # White noise stays what it is when it is rotated.
            moved = states.clone()
            drawn = torch.randn(plain[at].shape, generator=noise)
            moved[at][EXACT_TOKENS:] += DISTURBANCE * deviation[at] * drawn
            key, value = moved.unbind(1)
            got = self._model.scores(key, value, texts, len(prefix))
            kl[at] = (exact.exp() * (exact - got)).sum(-1).mean()
        return kl


def _answer(question: Question, exact: Tensor, scores: Tensor) -> AnsweredQuestion:
    """What exact and decoded rows say, by log-probabilities [tokens, vocabulary]."""
    truth = int(question.answer.split()[0])
    return AnsweredQuestion(
        question=question,
        reference=said(exact.argmax(-1).tolist()),
        answer=said(scores.argmax(-1).tolist()),
        kl=float((exact[0].exp() * (exact[0] - scores[0])).sum()),
        nll_rise=float(exact[0, truth] - scores[0, truth]),
    )
