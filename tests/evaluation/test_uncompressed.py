"""The attention that rows get is transformers' own, summed."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from batch.evaluation.uncompressed import AttentionMass, Uncompressed, embed, own_attention
from batch.models import Family, open_family
from batch.video import Footage
from tests import tiny
from tests.manifests import geometry_of, random_pictures

SAMPLES = 5


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    opened = open_family(str(tiny.llava_next(tmp_path_factory.mktemp("llava"))))
    opened.load(device="cpu", dtype=torch.float32)
    return opened


def video(family: Family) -> tuple[NDArray[np.uint8], Footage]:
    geometry = geometry_of(family)
    return random_pictures(SAMPLES, geometry), Footage.steady(geometry, SAMPLES)


def weights(family: Family) -> list[torch.Tensor]:
    """Attention of every layer, [heads, queries, keys], as transformers' eager path has it."""
    embedded = embed(family, *video(family))
    with own_attention(family, "eager"), torch.inference_mode():
        output = family.language_model(inputs_embeds=embedded[None], output_attentions=True)
    return [layer[0] for layer in output.attentions]


@pytest.mark.parametrize("queries", [None, 1, 6])
@pytest.mark.parametrize("scores_held", [1 << 24, 64])
def test_mass_is_the_sum_of_the_attention_of_the_last_queries(
    family: Family, queries: int | None, scores_held: int
) -> None:
    mass = AttentionMass(queries, scores_held=scores_held)
    Uncompressed(family, *video(family), mass=mass)
    shape = family.decoder
    for got, layer in zip(mass.of_layers, weights(family), strict=True):
        grouped = layer.view(shape.heads, -1, *layer.shape[1:])
        observed = grouped if queries is None else grouped[:, :, -queries:]
        torch.testing.assert_close(got, observed.sum(dim=(1, 2)), atol=1e-5, rtol=1e-4)
        assert (got - grouped[:, :, :1].sum(dim=(1, 2))).abs().max() > 1e-2


def test_observing_changes_no_answer(family: Family) -> None:
    plain = Uncompressed(family, *video(family))
    seen = Uncompressed(family, *video(family), mass=AttentionMass(None))
    assert torch.equal(plain.next_token_scores("a b c"), seen.next_token_scores("a b c"))
