"""Answers over one shared prefix: batched or alone, first or last, they are the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from batch.answering import Answerer, VideoAnswerer
from batch.errors import BatchError, ModelError
from batch.models import Family, open_family
from cachefmt import CacheFile, CacheFileError
from tests import tiny

QUESTIONS = ["what is the red star doing ?", "a", "b c d a b c", "the star ?", "d . d"]


def test_a_batch_answers_as_one_by_one(answerer: Answerer) -> None:
    together = list(answerer.ask(QUESTIONS, max_new_tokens=12))
    alone = [reply for q in QUESTIONS for reply in answerer.ask([q], max_new_tokens=12)]
    in_twos = list(answerer.ask(QUESTIONS, max_new_tokens=12, batch_size=2))
    assert together == alone == in_twos
    assert [reply.question for reply in together] == QUESTIONS
    assert len({reply.answer for reply in together}) > 1


def test_a_question_leaves_no_trace(answerer: Answerer) -> None:
    first = answerer.next_token_scores(QUESTIONS[0])
    list(answerer.ask(QUESTIONS[1:], max_new_tokens=4))
    assert torch.equal(answerer.next_token_scores(QUESTIONS[0]), first)


def test_an_answer_ends_at_the_stop_token_or_the_limit(answerer: Answerer, family: Family) -> None:
    for reply in answerer.ask(QUESTIONS, max_new_tokens=6):
        assert 1 <= reply.tokens <= 6
        assert reply.complete or reply.tokens == 6


def test_a_plain_transformers_cache_continues_the_same(answerer: Answerer, family: Family) -> None:
    from batch.kv import Prefix

    with CacheFile.open(answerer.path) as file:
        plain = Prefix.load(file, "cpu").to_dynamic_cache(torch.float32)
        start = file.header.layout.next_position[0]
    ids = torch.tensor([family.question_ids(QUESTIONS[0])])
    expected = answerer.next_token_scores(QUESTIONS[0])
    own = open_family(str(family.checkpoint.folder))
    own.load(device="cpu", dtype=torch.float32)
    own.language_model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        hidden = own.language_model(
            inputs_embeds=own.text_embeddings(ids[0])[None],
            position_ids=start + torch.arange(ids.shape[1])[None],
            past_key_values=plain,
        ).last_hidden_state
        scores = own.logits(hidden[0, -1])
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


def test_another_model_is_refused_with_the_command_that_helps(cache: Path, tmp_path: Path) -> None:
    tuned = tiny.llava_next(tmp_path / "tuned", seed=1)
    with pytest.raises(ModelError, match=r"weights .*but .*tuned.*\n.*batch answer --cache"):
        VideoAnswerer.open(cache, model=str(tuned))
    larger = tiny.llava_next(tmp_path / "larger", image_px=42)
    with pytest.raises(ModelError, match="config"):
        VideoAnswerer.open(cache, model=str(larger))


def test_the_model_that_wrote_it_is_found_by_itself(cache: Path) -> None:
    with VideoAnswerer.open(cache) as opened:
        assert len(list(opened.ask(["a"], max_new_tokens=1))) == 1


@pytest.mark.parametrize("question", ["", "  ", "what is <image> ?"])
def test_a_question_that_cannot_be_asked_is_refused(answerer: Answerer, question: str) -> None:
    with pytest.raises(BatchError, match="a question"):
        list(answerer.ask([question]))


def test_a_damaged_table_is_refused_before_any_answer(cache: Path, tmp_path: Path) -> None:
    with CacheFile.open(cache) as file:
        table = file.array("token.multiplicity").tobytes()
    whole = cache.read_bytes()
    at = whole.index(table)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole[: at + 1] + bytes([whole[at + 1] ^ 4]) + whole[at + 2 :])
    with pytest.raises(CacheFileError, match=r"damaged\.safetensors: token\.multiplicity"):
        VideoAnswerer.open(damaged)


def test_answers_do_not_change_when_others_in_the_batch_end(
    answerer: Answerer, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [family.question_ids(question) for question in QUESTIONS]
    alone = [answerer.generate([one], 12)[0] for one in ids]
    seen = {token for reply in alone for token in reply}
    ends = {stop: {[*reply, stop].index(stop) for reply in alone} for stop in seen}
    stop = max(ends, key=lambda token: len(ends[token]))  # ends them at most different lengths
    monkeypatch.setattr(type(family), "stop_ids", frozenset([stop]))
    expected = [answerer.generate([one], 12)[0] for one in ids]
    together = answerer.generate(ids, 12)
    assert together == expected
    assert len({len(reply) for reply in together}) > 1


def test_what_loading_took_and_saved_is_told(cache: Path) -> None:
    with VideoAnswerer.open(cache) as opened, CacheFile.open(cache) as file:
        loading = opened.loading
        assert loading.load_bytes == cache.stat().st_size
        assert loading.load_seconds > 0
        assert loading.reencode_seconds == file.array("cost.seconds").sum() > 0


def test_the_likelihood_of_an_answer_is_that_of_its_tokens_in_turn(
    answerer: Answerer, family: Family
) -> None:
    exchanges = list(answerer.converse(QUESTIONS, max_new_tokens=5))
    together = answerer.log_likelihoods(exchanges)
    assert together == pytest.approx([answerer.log_likelihoods([one])[0] for one in exchanges])
    for exchange, likely in zip(exchanges, together, strict=True):
        logs = []
        for end in range(len(exchange.answer_ids)):  # an answer's beginning asks for its next token
            said = [*exchange.question_ids, *exchange.answer_ids[:end]]
            (first,) = answerer.log_likelihoods(
                [replace(exchange, question_ids=said, answer_ids=[exchange.answer_ids[end]])]
            )
            logs.append(first)
        assert likely == pytest.approx(sum(logs) / len(logs), abs=1e-5)
        scores = answerer.next_token_scores(exchange.reply.question).log_softmax(-1)
        assert logs[0] == pytest.approx(float(scores.max()), abs=1e-5)  # greedy takes the likeliest
