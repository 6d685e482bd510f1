"""The attention that rows get is transformers' own, summed."""

from typing import Literal, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from batch.answering.evidence import NEUTRAL
from batch.evaluation.methods.row_method import Queries
from batch.evaluation.uncompressed import (
    AttentionMass,
    RowAnswerer,
    Uncompressed,
    embed,
    own_attention,
)
from batch.models import Family
from batch.video import Footage
from tests import tiny
from tests.manifests import geometry_of, random_pictures
from tests.tiny.files import loaded

SAMPLES = 5


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return loaded(tiny.llava_next(tmp_path_factory.mktemp("llava")))


def video(family: Family) -> tuple[NDArray[np.uint8], Footage]:
    geometry = geometry_of(family)
    return random_pictures(SAMPLES, geometry), Footage.steady(geometry, SAMPLES)


def weights(family: Family) -> list[torch.Tensor]:
    """Attention of every layer, [heads, queries, keys], as transformers' eager path has it."""
    embedded = embed(family, *video(family))
    with own_attention(family, "eager"), torch.inference_mode():
        output = family.language_model(inputs_embeds=embedded[None], output_attentions=True)
    return [layer[0] for layer in output.attentions]


@pytest.mark.parametrize("last", [None, 6])
@pytest.mark.parametrize("scores_held", [1 << 24, 64])
@pytest.mark.parametrize("of", get_args(Queries.__annotations__["of"]))
def test_mass_sums_up_the_attention_of_the_last_queries(
    family: Family, last: int | None, scores_held: int, of: Literal["sum", "max", "weak"]
) -> None:
    mass = AttentionMass(Queries(last=last, of=of), scores_held=scores_held)
    Uncompressed(family, *video(family), masses=[mass])
    for got, layer in zip(mass.of_layers, weights(family), strict=True):
        grouped = layer.view(family.decoder.heads, -1, *layer.shape[1:])
        observed = grouped if last is None else grouped[:, :, -last:]
        rows = torch.arange(layer.shape[-1])
        visible = rows <= rows[-observed.shape[2] :, None]
        weak = (observed < 1 / visible.sum(-1, keepdim=True)) & visible
        expected = {
            "sum": observed.sum(dim=(1, 2)),
            "max": observed.amax(dim=(1, 2)),
            "weak": weak.sum(dim=(1, 2)) / (grouped.shape[1] * visible.sum(0)),
        }[of]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
        assert (got - grouped[:, :, :1].sum(dim=(1, 2))).abs().max() > 1e-2


def test_observing_changes_no_answer(family: Family) -> None:
    masses = [AttentionMass(Queries(source)) for source in ("prefix", "neutral", "again")]
    plain = Uncompressed(family, *video(family))
    seen = Uncompressed(family, *video(family), masses=masses)
    assert torch.equal(plain.next_token_scores("a b c"), seen.next_token_scores("a b c"))


def test_a_neutral_question_attends_as_when_it_is_asked(family: Family) -> None:
    mass = AttentionMass(Queries("neutral"))
    full = Uncompressed(family, *video(family), masses=[mass])
    ids = torch.tensor(family.question_ids(NEUTRAL))
    embedded = torch.cat([embed(family, *video(family)), family.text_embeddings(ids)])
    with own_attention(family, "eager"), torch.inference_mode():
        output = family.language_model(inputs_embeds=embedded[None], output_attentions=True)
    slots = full.rows(0)[0].shape[1]
    found = mass.attention(slots).weight
    for got, layer in zip(found, output.attentions, strict=True):
        grouped = layer[0].view(family.decoder.heads, -1, *layer.shape[2:])
        expected = grouped[:, :, slots:, :slots].sum(dim=(1, 2))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_what_is_fed_again_is_an_echo_of_the_rows_it_repeats(family: Family) -> None:
    mass = AttentionMass(Queries("again", of="max"))
    full = Uncompressed(family, *video(family), masses=[mass])
    slots = full.rows(0)[0].shape[1]
    attention = mass.attention(slots)
    assert attention.weight.shape[-1] == slots
    assert 0 < attention.echo.min() <= attention.echo.max() <= 2


def test_a_row_counts_as_often_as_it_is_told(family: Family) -> None:
    full = Uncompressed(family, *video(family))
    layers = [full.rows(layer) for layer in range(family.decoder.layers)]
    key, value = (
        torch.stack([one.transpose(0, 1) for one in kind]) for kind in zip(*layers, strict=True)
    )
    start = family.layout(video(family)[1]).next_position
    times = torch.ones(len(key), family.decoder.heads, key.shape[1])
    times[..., 3], times[..., 5] = 2, 0
    counted = RowAnswerer(family, start, times)
    counted.fill(key, value)
    order = [row for row in range(key.shape[1]) if row != 5] + [3]
    copied = RowAnswerer(family, start)
    copied.fill(key[:, order], value[:, order])
    # Where the copy stands shifts no position: the question's are given.
    ids = torch.tensor(family.question_ids("a b c"))
    places = torch.tensor(start)[:, None] + torch.arange(len(ids))
    for one in (counted, copied):
        one.read(family.text_embeddings(ids), places)
    torch.testing.assert_close(
        counted.rows(1)[0][:, -len(ids) :], copied.rows(1)[0][:, -len(ids) :], atol=1e-4, rtol=1e-4
    )
    assert (counted.rows(1)[0][:, -1] - full.rows(1)[0][:, -1]).abs().max() > 1e-3
