"""Judge "prose": what a real language model makes of a prefix that a scheme stored.

The first tokens of a context are kept at FP16, as they hold the attention that goes nowhere; all
others are stored by the scheme, decoded, and read by the model behind them. float32 on the CPU.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from batch.answering.evidence import NEUTRAL
from batch.errors import BatchError
from batch.evaluation.judges.prose_texts import (
    FOLLOWING,
    TEST_SOURCE,
    Context,
    Haystack,
    calibration_text,
    contexts,
    haystacks,
    judged_text,
    spread,
)
from batch.evaluation.judges.schemes import SCHEMES, Scheme
from batch.evaluation.methods.row_method import Held, Queries, Rows
from batch.evaluation.tables import Table
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

Report = Callable[[int], object]
"""Is told of each scheme that has stored a context or a haystack."""


class LanguageModel:
    """A decoder of text that reads tokens into rows, and tokens behind rows."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.train(False)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)

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


@dataclass(kw_only=True)
class Found:
    """What a scheme made of each context, in order."""

    kl: list[float] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    worse: list[float] = field(default_factory=list)
    """By how much a token's negative log-likelihood rose, nats."""
    size_bytes: list[int] = field(default_factory=list)
    fp16_bytes: list[int] = field(default_factory=list)
    needles: list[bool] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ProseRow:
    """A scheme's figures. Those of contexts are means over `contexts`, _se: their standard error.

    - tokens: of a context. bytes: stored of one, the exact tokens included; compression_fp16: of
      all its keys and values at FP16 against these.
    - kl: of the scores of the next tokens, exact against decoded prefix, nats; agreement: share of
      them whose best token is the same; perplexity_ratio: decoded to exact.
    - needles: hidden numbers that greedy decoding says right, of needles_asked.
    """

    scheme: str
    tokens: int
    bytes: float
    compression_fp16: float
    kl: float
    kl_se: float
    agreement: float
    agreement_se: float
    perplexity_ratio: float
    perplexity_ratio_se: float
    needles: int
    needles_asked: int
    contexts: int

    @classmethod
    def of(cls, scheme: str, tokens: int, found: Found) -> "ProseRow":
        """Sum up what was found."""
        ratio = float(np.exp(np.mean(found.worse)))
        return cls(
            scheme=scheme,
            tokens=tokens,
            bytes=float(np.mean(found.size_bytes)),
            compression_fp16=sum(found.fp16_bytes) / sum(found.size_bytes),
            kl=float(np.mean(found.kl)),
            kl_se=_standard_error(found.kl),
            agreement=float(np.mean(found.agreement)),
            agreement_se=_standard_error(found.agreement),
            perplexity_ratio=ratio,
            perplexity_ratio_se=ratio * _standard_error(found.worse),
            needles=sum(found.needles),
            needles_asked=len(found.needles),
            contexts=len(found.kl),
        )

    def to_dict(self) -> dict[str, Any]:
        """Flat values by name, and whose they are."""
        return {"judge": "prose", **asdict(self)}


class ProseJudge:
    """Lets schemes store the same contexts, one context after another."""

    def __init__(self, model: LanguageModel, schemes: Sequence[Scheme]) -> None:
        """Fit the schemes that must be."""
        self._model = model
        self.schemes = [self._fitted(scheme) for scheme in schemes]
        self._observed = dict.fromkeys(queries for scheme in schemes for queries in scheme.observed)

    def rows(self, tokens: int, count: int, report: Report = lambda _: None) -> list[ProseRow]:
        """A row a scheme, over `count` contexts of `tokens` tokens.

        Raises:
            BatchError: the model's context or the text is too short.
        """
        if tokens + 1 + FOLLOWING > self._model.context_tokens or tokens <= EXACT_TOKENS:
            raise BatchError(
                f"contexts of {tokens} tokens: the model takes {self._model.context_tokens}, of "
                f"which {1 + FOLLOWING} follow a context, and {EXACT_TOKENS} are not stored"
            )
        ids = self._model.encode(judged_text())
        found = [Found() for _ in self.schemes]
        for context in contexts(ids, tokens, count):
            self._judge_context(context, found, report)
        for haystack in haystacks(ids, tokens, self._model.encode):
            self._judge_haystack(haystack, found, report)
        return [
            ProseRow.of(scheme.name, tokens, one)
            for scheme, one in zip(self.schemes, found, strict=True)
        ]

    def _judge_context(self, context: Context, found: Sequence[Found], report: Report) -> None:
        rows = self._model.read(context.prefix, self._observed)
        start = len(context.prefix)
        texts, truth = torch.tensor([context.following[:-1]]), torch.tensor(context.following[1:])
        exact = self._model.scores(rows.key, rows.value, texts, start)[0]
        for one, held in zip(found, self._stored(rows), strict=True):
            decoded = self._model.scores(held.key, held.value, texts, start, held.times)[0]
            one.kl.append(float((exact.exp() * (exact - decoded)).sum(-1).mean()))
            one.agreement.append(float((exact.argmax(-1) == decoded.argmax(-1)).float().mean()))
            one.worse.append(float((_of(exact, truth) - _of(decoded, truth)).mean()))
            one.size_bytes.append(held.size_bytes)
            one.fp16_bytes.append(rows.fp16_bytes)
            report(1)

    def _judge_haystack(self, haystack: Haystack, found: Sequence[Found], report: Report) -> None:
        rows = self._model.read(haystack.prefix, self._observed)
        asked = [torch.tensor([*question, *answer]) for question, answer in haystack.questions]
        texts = torch.nn.utils.rnn.pad_sequence(asked, batch_first=True)
        start = len(haystack.prefix)
        for one, held in zip(found, self._stored(rows), strict=True):
            said = self._model.scores(held.key, held.value, texts, start, held.times).argmax(-1)
            for tokens, (question, answer) in zip(said.tolist(), haystack.questions, strict=True):
                first = len(question) - 1
                one.needles.append(tokens[first : first + len(answer)] == answer)
            report(1)

    def _stored(self, rows: Rows) -> Iterator[Held]:
        """A context as each scheme stores it, its exact tokens included, keys rotated."""
        kept_key, kept_value = (
            states[:, :EXACT_TOKENS].half() for states in (rows.key, rows.value)
        )
        rest = rows.select(torch.arange(rows.tokens) >= EXACT_TOKENS)
        plain = self._model.unrotated(rest, EXACT_TOKENS)
        for scheme in self.schemes:
            key, value, size_bytes, times = scheme.store(rest if scheme.rotated else plain)
            if not scheme.rotated:
                key = self._model.rotated(key, EXACT_TOKENS)
            yield Held(
                torch.cat([kept_key.float(), key], dim=1),
                torch.cat([kept_value.float(), value], dim=1),
                size_bytes + kept_key.nbytes + kept_value.nbytes,
                None if times is None else pad(times, (EXACT_TOKENS, 0), value=1.0),
            )

    def _fitted(self, scheme: Scheme) -> Scheme:
        if not scheme.is_fitted:
            return scheme
        ids = self._model.encode(calibration_text())
        length = min(1024, len(ids) // CALIBRATION_CONTEXTS)
        keys, values = [], []
        for window in spread(ids, length, CALIBRATION_CONTEXTS):
            rows = self._model.read(window)
            rest = rows.select(torch.arange(rows.tokens) >= EXACT_TOKENS)
            if not scheme.rotated:
                rest = self._model.unrotated(rest, EXACT_TOKENS)
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


def choose_schemes(names: Sequence[str]) -> list[Scheme]:
    """Schemes by name, all of them if none is named."""
    known = {scheme.name: scheme for scheme in SCHEMES}
    for name in names:
        if name not in known:
            raise BatchError(f"--method: got {name!r}, there are {'; '.join(known)}")
    return [known[name] for name in names or known]


def prose_table(rows: Sequence[ProseRow]) -> Table:
    """The rows as a table for people."""
    return Table(
        title="Prose",
        note=(
            f"Text: {TEST_SOURCE}. The first {EXACT_TOKENS} tokens are FP16 in every row; KL, "
            f"agreement and perplexity of the next {FOLLOWING} tokens against the exact prefix, "
            f"mean over {rows[0].contexts} contexts +- standard error."
        ),
        head=["scheme", "tokens", "bytes", "x FP16", "KL", "agreement", "perplexity x", "needles"],
        rows=[
            [
                row.scheme,
                str(row.tokens),
                f"{row.bytes:,.0f}",
                f"{row.compression_fp16:.2f}",
                f"{row.kl:.4f} +- {row.kl_se:.4f}",
                f"{row.agreement:.3f} +- {row.agreement_se:.3f}",
                f"{row.perplexity_ratio:.3f} +- {row.perplexity_ratio_se:.3f}",
                f"{row.needles}/{row.needles_asked}",
            ]
            for row in rows
        ],
    )


def _of(scores: Tensor, tokens: Tensor) -> Tensor:
    return scores.gather(-1, tokens[:, None])[:, 0]


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean of two or more."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))
