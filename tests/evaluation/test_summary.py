"""Figures of a method are what they say, and their intervals hold them."""

import math

import numpy as np
import pytest

from batch.evaluation.scoring import Bleu, rouge_l
from batch.evaluation.summary import measure
from tests.evaluation.runs import asked, run

RIGHT, WRONG = asked(), asked(answer="blue")


def test_shares_are_of_questions_and_bytes_of_videos() -> None:
    runs = [run(RIGHT, WRONG), run(RIGHT, RIGHT, RIGHT, asked(answer=""))]
    found = {name: figure.value for name, figure in measure(runs).items()}
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["agreement_em"] == pytest.approx(4 / 6)
    assert found["retained"] == pytest.approx(4 / 6)
    assert found["empty_share"] == pytest.approx(1 / 6)
    assert found["kl"] == pytest.approx(0.5)
    assert found["bytes"] == 250
    assert found["compression_fp16"] == pytest.approx(4)
    assert found["compression_kv"] == pytest.approx(5)
    assert found["seconds_per_sample"] == pytest.approx(0.2)


def test_retained_is_against_the_uncompressed_models_accuracy() -> None:
    wrong_in_both = asked(answer="blue", reference="green")
    assert measure([run(RIGHT, wrong_in_both)])["retained"].value == 1.0


def test_an_interval_is_over_videos_not_questions() -> None:
    one_video = measure([run(*[RIGHT] * 50, *[WRONG] * 50)])["accuracy"]
    assert (one_video.low, one_video.value, one_video.high) == (0.5, 0.5, 0.5)
    apart = measure([run(*[RIGHT] * 50), run(*[WRONG] * 50)])["accuracy"]
    assert (apart.low, apart.value, apart.high) == (0.0, 0.5, 1.0)


def test_an_interval_narrows_with_the_number_of_videos() -> None:
    pair = [run(RIGHT, RIGHT), run(RIGHT, WRONG)]
    few, many = (measure(pair * times)["accuracy"] for times in (3, 100))
    assert few.value == many.value == 0.75
    assert _width(many) < 0.3 * _width(few)


def test_the_same_runs_give_the_same_intervals() -> None:
    runs = [run(RIGHT), run(WRONG), run(RIGHT)]
    assert measure(runs) == measure(runs)


def test_what_cannot_be_known_is_none() -> None:
    figures = measure([run(asked(kl=None)), run(asked(kl=None))])
    assert figures["kl"].value is None
    never_right = measure([run(asked(reference="green"))])
    assert never_right["retained"].value is None


def test_equal_answers_score_one_however_short() -> None:
    pairs = [[("blue", "blue")], [("a red star on sand", "a red star on sand")]]
    bleu = Bleu.of(pairs)
    assert bleu.scores(np.array([[1, 1], [1, 0]])).tolist() == pytest.approx([1.0, 1.0])
    assert rouge_l("blue", "blue") == rouge_l("", "") == 1.0


def test_bleu_of_many_videos_is_that_of_one_corpus() -> None:
    pairs = [("a red star on sand", "a blue star on sand"), ("blue", "red"), ("a b c d", "a b c")]
    apart = Bleu.of([[pair] for pair in pairs]).scores(np.ones((1, 3), np.int64))
    together = Bleu.of([pairs]).scores(np.ones((1, 1), np.int64))
    assert apart.tolist() == pytest.approx(together.tolist())
    assert 0 < apart[0] < 1


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    assert rouge_l("a star on sand", "a blue star on red sand") == pytest.approx(2 * 4 / 10)


def _width(figure: object) -> float:
    low, high = getattr(figure, "low", math.nan), getattr(figure, "high", math.nan)
    return float(high - low)
