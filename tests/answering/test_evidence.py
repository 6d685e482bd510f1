"""The times an answer rests on: exact attention, and what is named of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from batch.answering import PrefixAnswerer
from batch.answering.evidence import (
    NEUTRAL,
    SHARE,
    TimeRange,
    cell_evidence,
    end_of,
    sample_evidence,
    sample_spans,
    time_ranges,
)
from batch.kv import CACHE_KEYWORD, Prefix
from batch.models import Family
from cachefmt import CacheFile
from tests.answering.caches import loaded

QUESTIONS = ["what is the red star doing ?", "a"]


def test_attention_on_each_sample_is_that_of_transformers_eager_attention(
    answerer: PrefixAnswerer, llava: Family, cache: Path
) -> None:
    ids = [llava.question_ids(question) for question in QUESTIONS]
    answers, (found, rows) = answerer.attention(ids, [3, 3])
    assert answers == answerer.generate(ids, 3)
    for index, (question, answer) in enumerate(zip(ids, answers, strict=True)):
        expected = _eager_attention(cache, llava, question, answer)
        torch.testing.assert_close(found[index], expected, atol=1e-5, rtol=1e-4)
        assert float(rows[index].sum()) > float(expected.mean((0, 1)).sum())  # that of text too
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_cells_of_the_samples_that_are_named_count_by_what_their_rows_are_paid(
    answerer: PrefixAnswerer, llava: Family, cache: Path
) -> None:
    (answer,) = answerer.ask_all(QUESTIONS[:1], max_new_tokens=3)
    asked, neutral = llava.question_ids(QUESTIONS[0]), llava.question_ids(NEUTRAL)
    _, (_, (paid, usual)) = answerer.attention([asked, neutral], [3, 1])
    with CacheFile.open(cache) as file:
        order = np.argsort(file.tables.tier, kind="stable")
        sample, cell = file.tables.sample[order], file.tables.cell[order]
        time_s = file.tables.time_s
    assert 0 < len(answer.cells) < len(np.unique(sample)) - 1
    for number, weights in answer.cells.items():
        assert any(one.start_s <= time_s[number] < one.stop_s for one in answer.evidence)
        rows = np.flatnonzero((sample == number) & (cell >= 0))
        expected = cell_evidence(paid[rows].numpy(), usual[rows].numpy())
        np.testing.assert_allclose(weights[cell[rows]], expected, atol=1e-6)
        assert 0 < np.count_nonzero(weights) < len(rows)
    assert "cells" not in answer.to_dict()


def _eager_attention(
    cache: Path, llava: Family, question: list[int], answer: list[int]
) -> torch.Tensor:
    with CacheFile.open(cache) as file:
        plain = Prefix.load(file, "cpu").to_dynamic_cache(torch.float32)
        start = file.header.layout.next_position[0]
        order = np.argsort(file.tables.tier, kind="stable")
        sample = np.repeat(file.tables.sample[order], file.tables.multiplicity[order])
        samples = file.header.shape.samples
    own = loaded(llava.checkpoint.folder)
    own.language_model.set_attn_implementation("eager")
    tokens = torch.tensor(question + answer[:-1])
    with torch.inference_mode():
        attentions = own.language_model(
            inputs_embeds=own.text_embeddings(tokens)[None],
            position_ids=start + torch.arange(len(tokens))[None],
            **{CACHE_KEYWORD: plain},
            output_attentions=True,
        ).attentions
    paid = torch.stack(attentions)[:, 0, :, -len(answer) :].mean(2)
    return torch.stack([paid[..., np.flatnonzero(sample == s)].sum(-1) for s in range(samples)], -1)


def test_what_a_neutral_question_attends_to_as_well_is_no_evidence() -> None:
    neutral = np.full((2, 3, 4), 0.2, np.float32)
    asked = neutral.copy()
    asked[1, 2] = [0.05, 0.5, 0.2, 0.05]
    assert np.flatnonzero(sample_evidence(asked, neutral)).tolist() == [1]


def test_of_a_sample_that_is_looked_at_less_some_cells_still_get_more() -> None:
    neutral = np.array([0.4, 0.2, 0.2], np.float32)
    asked = np.array([0.1, 0.1, 0.05], np.float32)
    assert np.flatnonzero(cell_evidence(asked, neutral)).tolist() == [1]


def test_without_any_gain_the_attention_itself_is_the_evidence() -> None:
    mass = np.tile(np.array([0.1, 0.4, 0.3], np.float32), (2, 3, 1))
    np.testing.assert_allclose(sample_evidence(mass, mass), [0.1, 0.4, 0.3], rtol=1e-6)
    np.testing.assert_allclose(sample_evidence(mass, mass * 1.1), [0.1, 0.4, 0.3], rtol=1e-6)


def test_the_fewest_samples_that_hold_the_share_are_named_and_neighbours_joined() -> None:
    evidence = np.array([0.0, 0.3, 0.3, 0.0, 0.3, 0.1])
    span_s = sample_spans(np.arange(6) * 2.0, np.arange(6, dtype=np.int32), 12.0)
    assert SHARE == 0.5
    assert time_ranges(evidence, span_s) == [TimeRange(start_s=2.0, stop_s=6.0)]
    evidence[5] = 2.0
    assert time_ranges(evidence, span_s) == [TimeRange(start_s=10.0, stop_s=12.0)]
    assert time_ranges(np.zeros(6), span_s) == []


def test_a_sample_stands_for_the_time_of_its_pointers() -> None:
    span_s = sample_spans(np.arange(5.0), np.array([0, 1, 1, 1, 4], np.int32), 5.0)
    named = time_ranges(np.array([0.0, 1, 0, 0, 0]), span_s)
    assert named == [TimeRange(start_s=1.0, stop_s=4.0)]


def test_samples_of_one_frame_of_a_slow_video_stand_for_all_of_its_time() -> None:
    time_s, source = np.array([0.0, 0, 0, 4, 4, 4]), np.array([0, 1, 1, 3, 4, 4], np.int32)
    span_s = sample_spans(time_s, source, 8.0)
    assert span_s.tolist() == [[0, 4]] * 3 + [[4, 8]] * 3
    for of_two in ([1, 0], [0, 1], [1, 2]):
        named = time_ranges(np.array([*of_two, 0.0, 0, 0, 0]), span_s)
        assert named == [TimeRange(start_s=0.0, stop_s=4.0)]
    assert end_of(time_s, np.array([4.0, 9.0])) == 9.0


def test_the_last_sample_is_on_screen_until_the_next_segment_or_for_a_usual_gap() -> None:
    assert end_of(np.array([3.0]), np.array([7.5, 8.0])) == 7.5
    assert end_of(np.array([3.0, 5.0, 7.0])) == 9.0
    assert end_of(np.array([3.0])) > 3.0


@pytest.mark.parametrize(
    ("start_s", "stop_s", "text"),
    [
        (751.0, 760.0, "00:12:31-00:12:40"),
        (3600.0, 3661.9, "01:00:00-01:01:01"),
        (0.26, 0.79, "00:00:00.2-00:00:00.7"),
    ],
)
def test_a_range_reads_as_a_clock(start_s: float, stop_s: float, text: str) -> None:
    assert str(TimeRange(start_s=start_s, stop_s=stop_s)) == text
