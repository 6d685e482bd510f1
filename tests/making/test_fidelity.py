"""The error of a file in answers: what transformers' own forward finds, with nothing between."""

import pytest
import torch
from torch import Tensor

from batch.evaluation.uncompressed import own_attention
from batch.kv import Prefix
from batch.making.fidelity import ANSWER_TOKENS, QUESTIONS, NeutralAnswers
from batch.models import Family, open_family
from cachefmt.header import Fidelity, Shape
from cachefmt.tiers import Tier, token_counts
from tests import tiny

ROWS = 40


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    opened = open_family(str(tiny.llava_next(tmp_path_factory.mktemp("llava"))))
    opened.load(device="cpu", dtype=torch.float32)
    return opened


def prefix_of(family: Family, noise: float = 0.0, tier: Tier = Tier.FP16) -> Prefix:
    """The same random rows every time, but for their noise."""
    decoder = family.decoder
    shape = Shape(
        layers=decoder.layers,
        heads=decoder.heads,
        head_dim=decoder.head_dim,
        group_size=decoder.head_dim,
        raw_dtype="F32",
        position_axes=1,
        samples=0,
        stored_samples=0,
        rows=0,
        columns=0,
        tokens=token_counts({tier: ROWS}),
        index_layers=(),
    )
    prefix = Prefix.allocate(shape, "cpu")
    drawn = torch.Generator().manual_seed(3)
    for layer in range(shape.layers):
        rows, error = torch.randn(2, 2, ROWS, shape.heads, shape.head_dim, generator=drawn)
        key, value = 2 * rows + noise * error
        prefix.append(layer, tier, key, value)
    return prefix


def measure(family: Family, rows: Prefix) -> Fidelity:
    return NeutralAnswers(prefix_of(family), family, next_position=(ROWS,)).compare(rows)


def test_the_same_rows_answer_the_same(family: Family) -> None:
    found = measure(family, prefix_of(family))
    assert (found.kl, found.agreement, found.questions) == (0.0, 1.0, len(QUESTIONS))


def test_more_noise_is_more_error(family: Family) -> None:
    found = [measure(family, prefix_of(family, noise)) for noise in (0.01, 0.1, 1.0)]
    errors = [one.kl for one in found]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert found[0].agreement > found[2].agreement
    eight, four = (
        measure(family, prefix_of(family, tier=tier)).kl for tier in (Tier.INT8, Tier.INT4)
    )
    assert 0 < eight < four


def test_the_error_is_that_of_transformers_own_scores(family: Family) -> None:
    exact, other = prefix_of(family), prefix_of(family, 0.5)
    found = measure(family, other)
    expected, agrees, tokens = 0.0, 0, 0
    with own_attention(family), torch.inference_mode():
        for question in QUESTIONS:
            ids = family.question_ids(question)
            answer = continued(family, exact, ids)
            wanted, got = (
                scores(family, rows, [*ids, *answer[:-1]])[-len(answer) :]
                for rows in (exact, other)
            )
            expected += float((wanted.exp() * (wanted - got)).sum())
            agrees += int((wanted.argmax(-1) == got.argmax(-1)).sum())
            tokens += len(answer)
    assert found.kl == pytest.approx(expected / tokens, rel=1e-3)
    assert (found.agreement, found.tokens) == (agrees / tokens, tokens)


def continued(family: Family, rows: Prefix, ids: list[int]) -> list[int]:
    """Greedily, by transformers' own attention, every token with a pass over all before it."""
    answer: list[int] = []
    while len(answer) < ANSWER_TOKENS and not (answer and answer[-1] in family.stop_ids):
        answer.append(int(scores(family, rows, [*ids, *answer])[-1].argmax()))
    return answer


def scores(family: Family, rows: Prefix, ids: list[int]) -> Tensor:
    """Log-probabilities [tokens, vocabulary] of what follows each token behind the rows."""
    cache = rows.to_dynamic_cache(torch.float32)
    positions = ROWS + torch.arange(len(ids))[None]
    output = family.language_model(
        inputs_embeds=family.text_embeddings(torch.tensor(ids))[None],
        position_ids=positions,
        past_key_values=cache,
    )
    return family.logits(output.last_hidden_state[0]).log_softmax(-1)
