"""Answers over one shared prefix: batched or alone, first or last, they are the same."""

from dataclasses import replace

import pytest
import torch

from batch.answering import PrefixAnswerer
from batch.errors import BatchError
from batch.models import Family

QUESTIONS = ["what is the red star doing ?", "a", "b c d a b c", "the star ?", "d . d"]


def test_a_batch_answers_as_one_by_one(answerer: PrefixAnswerer) -> None:
    together = list(answerer.ask_all(QUESTIONS, max_new_tokens=12))
    alone = [answer for q in QUESTIONS for answer in answerer.ask_all([q], max_new_tokens=12)]
    in_twos = list(answerer.ask_all(QUESTIONS, max_new_tokens=12, batch_size=2))
    assert together == alone == in_twos
    assert [answer.question for answer in together] == QUESTIONS
    assert len({answer.text for answer in together}) > 1


def test_a_question_leaves_no_trace(answerer: PrefixAnswerer) -> None:
    first = answerer.next_token_scores(QUESTIONS[0])
    list(answerer.ask_all(QUESTIONS[1:], max_new_tokens=4))
    assert torch.equal(answerer.next_token_scores(QUESTIONS[0]), first)


def test_an_answer_ends_at_the_stop_token_or_the_limit(answerer: PrefixAnswerer) -> None:
    for answer in answerer.ask_all(QUESTIONS, max_new_tokens=6):
        assert 1 <= answer.tokens <= 6
        assert answer.complete or answer.tokens == 6


@pytest.mark.parametrize("question", ["", "  ", "what is <image> ?"])
def test_a_question_that_cannot_be_asked_is_refused(
    answerer: PrefixAnswerer, question: str
) -> None:
    with pytest.raises(BatchError, match="a question"):
        list(answerer.ask_all([question]))


def test_answers_do_not_change_when_others_in_the_batch_end(
    answerer: PrefixAnswerer, llava: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [llava.question_ids(question) for question in QUESTIONS]
    alone = [answerer.generate([one], 12)[0] for one in ids]
    seen = {token for answer in alone for token in answer}
    ends = {stop: {[*answer, stop].index(stop) for answer in alone} for stop in seen}
    stop = max(ends, key=lambda token: len(ends[token]))  # ends them at most different lengths
    monkeypatch.setattr(llava.model.generation_config, "eos_token_id", stop)
    expected = [answerer.generate([one], 12)[0] for one in ids]
    together = answerer.generate(ids, 12)
    assert together == expected
    assert len({len(answer) for answer in together}) > 1


def test_the_likelihood_of_an_answer_is_that_of_its_tokens_in_turn(
    answerer: PrefixAnswerer,
) -> None:
    exchanges = list(answerer.converse(QUESTIONS, max_new_tokens=5))
    together = answerer.log_likelihoods(exchanges)
    assert together == pytest.approx([answerer.log_likelihoods([one])[0] for one in exchanges])
    for exchange, likely in zip(exchanges, together, strict=True):
        logs = []
        for end in range(len(exchange.answer_ids)):  # an answer's beginning asks for its next token
            before = [*exchange.question_ids, *exchange.answer_ids[:end]]
            (first,) = answerer.log_likelihoods(
                [replace(exchange, question_ids=before, answer_ids=[exchange.answer_ids[end]])]
            )
            logs.append(first)
        assert likely == pytest.approx(sum(logs) / len(logs), abs=1e-5)
        scores = answerer.next_token_scores(exchange.answer.question).log_softmax(-1)
        assert logs[0] == pytest.approx(float(scores.max()), abs=1e-5)  # greedy takes the likeliest
