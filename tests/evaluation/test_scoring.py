"""When an answer is right."""

import pytest

from batch.evaluation.scoring import chosen_option, is_right, prompt

OPTIONS = ("A red car", "A blue car", "No car")


@pytest.mark.parametrize("answer", ["top left", "Top left.", "  top   left "])
def test_case_spaces_and_the_final_stop_do_not_count(answer: str) -> None:
    assert is_right(answer, "top left", ())


@pytest.mark.parametrize("answer", ["top", "top left top left", "", "left top"])
def test_other_words_are_wrong(answer: str) -> None:
    assert not is_right(answer, "top left", ())


@pytest.mark.parametrize(
    ("answer", "option"),
    [
        ("B", 1),
        ("b.", 1),
        ("(C) No car", 2),
        ("a blue car", 1),
        ("It is a blue car, I think.", 1),
        ("C: no car", 2),
        ("D", None),
        ("a car", None),
        ("", None),
        ("red", None),
    ],
)
def test_an_option_is_chosen_by_its_letter_or_its_text(answer: str, option: int | None) -> None:
    assert chosen_option(answer, OPTIONS) == option


def test_an_answer_that_names_two_options_chooses_none() -> None:
    assert chosen_option("either a red car or a blue car", OPTIONS) is None


def test_no_answer_is_not_the_right_option() -> None:
    assert not is_right("", "A red car", OPTIONS)
    assert is_right("A", "A red car", OPTIONS)


def test_an_article_is_no_letter() -> None:
    assert chosen_option("a green car", OPTIONS) is None


def test_options_become_lettered_lines() -> None:
    text = prompt("What comes?", OPTIONS)
    assert text.splitlines()[:4] == ["What comes?", "A. A red car", "B. A blue car", "C. No car"]


def test_a_question_without_options_is_put_as_it_is() -> None:
    assert prompt("what colour ?", ()) == "what colour ?"
