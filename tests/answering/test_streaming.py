"""Answers as they come: what is streamed is what is answered, and a conversation goes on."""

from pathlib import Path

import pytest
import torch

from batch.answering import Answer, AnswerSettings, PrefixAnswerer, VideoAnswerer, open_cache
from batch.errors import BatchError
from batch.models import Family

QUESTIONS = ["what is the red star doing ?", "a", "b c d a b c"]


def streamed(
    answerer: PrefixAnswerer | VideoAnswerer, *questions: str | tuple[str, ...]
) -> tuple[list[list[str]], list[Answer]]:
    """The parts of each text as they came, and the answers behind them."""
    parts: list[list[str]] = [[] for _ in questions]
    answers = []
    for number, more in answerer.stream(questions, [9] * len(questions)):
        if isinstance(more, Answer):
            assert number == len(answers)
            answers.append(more)
        else:
            assert not answers
            parts[number].append(more)
    return parts, answers


def test_what_is_streamed_is_what_is_answered_and_comes_in_parts(
    answerer: PrefixAnswerer,
) -> None:
    parts, answers = streamed(answerer, *QUESTIONS)
    assert answers == list(answerer.ask_all(QUESTIONS, max_new_tokens=9))
    assert ["".join(part) for part in parts] == [answer.text for answer in answers]
    assert any(len(part) > 3 for part in parts)


def test_a_character_that_never_becomes_whole_is_streamed_at_the_end(
    answerer: PrefixAnswerer, llava: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = llava.checkpoint.tokenizer
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda *ids, **how: f"{decode(*ids, **how)}\ufffd")
    ((*parts, last),), (answer,) = streamed(answerer, QUESTIONS[0])
    assert "\ufffd" not in "".join(parts)
    assert (last, "".join([*parts, last])) == ("\ufffd", answer.text)


def test_a_question_sees_the_conversation_before_it(
    answerer: PrefixAnswerer, llava: Family
) -> None:
    turns = ("what is the red star ?", "a b", "doing ?")
    ids = llava.question_ids(*turns)
    first = llava.question_ids(turns[0])[:-1]  # this tokenizer joins its last one to what follows
    assert ids[: len(first)] == first
    assert len(ids) > sum(len(llava.question_ids(turn)) for turn in turns[::2])
    (answer,) = answerer.ask_all([turns], max_new_tokens=9)
    assert answer.question == "doing ?"
    assert answerer.generate([ids], 9) != answerer.generate([llava.question_ids("doing ?")], 9)
    with pytest.raises(BatchError, match="marks of its own"):
        list(answerer.ask_all([("a", "b <image>", "c")]))


def test_a_conversation_that_goes_on_is_not_computed_again(
    answerer: PrefixAnswerer, llava: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, passed = llava.text_embeddings, list[int]()

    def count(ids: torch.Tensor) -> torch.Tensor:
        passed.append(len(ids))
        return embed(ids)

    monkeypatch.setattr(llava, "text_embeddings", count)
    first = "what is the red star doing ?"
    _, (answer,) = streamed(answerer, first)
    turns = (first, answer.text, "a b ?")
    passed.clear()
    _, (follow_up,) = streamed(answerer, turns)
    new = len(llava.question_ids(*turns)) - len(llava.question_ids(first)[:-1])
    assert passed[0] <= new
    streamed(answerer, "c")  # another conversation
    passed.clear()
    _, (again,) = streamed(answerer, turns)
    assert passed[0] > new
    assert follow_up == again == next(answerer.ask_all([turns], max_new_tokens=9))


def test_times_are_those_of_the_answer_whatever_was_asked_between(
    cache: Path, llava: Family
) -> None:
    """The neutral question is asked behind the first streamed one, in a batch of the same shape."""
    settings = AnswerSettings(max_new_tokens=1)
    with open_cache(cache, model=llava, settings=settings) as video:
        streamed_answer = list(video.stream(QUESTIONS[:1]))[-1]
    with open_cache(cache, model=llava, settings=settings) as video:
        assert streamed_answer == (0, video.ask(QUESTIONS[0]))


def test_an_answer_that_nobody_waits_for_leaves_no_trace(answerer: PrefixAnswerer) -> None:
    _, expected = streamed(answerer, *QUESTIONS[:1])
    for _ in answerer.stream(QUESTIONS[:1], [9]):
        break
    assert streamed(answerer, *QUESTIONS[:1])[1] == expected


def test_a_video_in_segments_answers_a_conversation_in_one_part(
    folder: Path, llava: Family
) -> None:
    turns = ("what is the red star ?", "a b", "doing ?")
    with open_cache(folder, model=llava, settings=AnswerSettings(max_new_tokens=9)) as video:
        (parts,), (answer,) = streamed(video, turns)
        assert parts == [answer.text]
        assert answer.text == video.ask(turns).text
