"""Other tools' caches get what the product's model gets. The tools themselves are not here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from batch.evaluation.data import QuestionSet, demo_set
from batch.evaluation.export_films import export_films
from batch.evaluation.rivals.asking import Decoder, Film, Method, ask, read_films, stored_bytes
from batch.evaluation.storing import PreparedVideo
from batch.evaluation.uncompressed import Uncompressed
from batch.models import Family
from batch.video import Sampling
from tests.tiny.files import loaded

MODEL = Path(__file__).parents[2] / "batch" / "models" / "demo"


@pytest.fixture(scope="module")
def family() -> Family:
    return loaded("demo")


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(MODEL)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> QuestionSet:
    return demo_set("easy", tmp_path_factory.mktemp("drawn"), videos=2, seed=9)


@pytest.fixture(scope="module")
def films(
    family: Family, data: QuestionSet, tmp_path_factory: pytest.TempPathFactory
) -> list[Film]:
    folder = tmp_path_factory.mktemp("exported")
    assert len(list(export_films(family, [data], folder))) == 2
    return list(read_films(folder))


def everything(kept: slice = slice(None)) -> Method:
    def fill(decoder: Decoder, film: Film) -> Any:
        cache: Any = DynamicCache(config=decoder.config)
        decoder.read(film.prefix, cache, 0)
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]
        return cache

    def tensors(cache: Any) -> Iterator[torch.Tensor]:
        for layer in cache.layers:
            yield from (layer.keys, layer.values)

    return Method(name="plain", profile="all", fill=fill, tensors=tensors)


def test_a_cache_of_everything_answers_as_the_model_does(
    family: Family, decoder: Decoder, data: QuestionSet, films: list[Film]
) -> None:
    for film in films:
        asked = [q for q in data.questions if q.video.name == film.video]
        assert list(film.questions) == [q.question for q in asked]
        video = PreparedVideo(asked[0].video, family, Sampling())
        whole = Uncompressed(family, video.pictures, video.footage)
        expected = whole.ask_all(film.questions)
        assert [row["answer"] for row in ask(decoder, everything(), film)] == expected


def test_a_cache_without_the_film_answers_otherwise(decoder: Decoder, films: list[Film]) -> None:
    whole = [row["answer"] for row in ask(decoder, everything(), films[0])]
    assert [row["answer"] for row in ask(decoder, everything(slice(2)), films[0])] != whole


def test_a_question_leaves_no_trace_in_a_cache(decoder: Decoder, films: list[Film]) -> None:
    film = films[0]
    cache: Any = everything().fill(decoder, film)
    before = [layer.keys.clone() for layer in cache.layers]
    ids, start = next(iter(film.questions.values())), film.prefix.shape[1]
    assert decoder.answer(ids, cache, start) == decoder.answer(ids, cache, start)
    assert all(map(torch.equal, before, (layer.keys for layer in cache.layers)))


def test_rows_name_what_the_table_reads(decoder: Decoder, films: list[Film]) -> None:
    row = next(ask(decoder, everything(), films[0]))
    assert json.loads(json.dumps(row)) == row
    assert set(row) == {"method", "profile", "video", "question", "answer", "bytes", "seconds"}
    slots = films[0].prefix.shape[1]
    assert row["bytes"] == 5 * 2 * slots * 2 * 32 * 2  # layers, K and V, heads, head_dim, FP16
    assert row["seconds"] > films[0].seconds


def test_floats_count_as_half_and_codes_as_they_are() -> None:
    assert stored_bytes(torch.zeros(3, 5)) == 30
    assert stored_bytes(torch.zeros(3, 5, dtype=torch.uint8)) == 15
