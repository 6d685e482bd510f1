"""The model of a GPU's time follows from shapes, plans and counts, as by hand."""

import pytest

from batch.evaluation.bench.counting import Counts
from batch.evaluation.bench.decoding import DTYPE
from batch.evaluation.bench.time_model import Decoder, Demand, Gpu, TimeModel
from batch.evaluation.bench.workload import SIZES
from batch.evaluation.launches import Launches

GPU = Gpu(bytes_per_s=1e12, flops_per_s=100e12, launch_s=1e-5, host_bytes_per_s=1e9)
INT4_BYTES = 2 * 8 * (128 // 2 + 4 * 128 // 32)


def counts(layer: int, beside: int = 0) -> Counts:
    return Counts(Launches(layer, 0, 0), Launches(beside, 0, 0))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return Decoder.of(SIZES["7b"].open(tmp_path_factory.mktemp("7b")))


@pytest.fixture(scope="module")
def model(decoder: Decoder) -> TimeModel:
    counted = {"step": counts(50, 400), "plain_step": counts(30), "question": counts(1)}
    return TimeModel(decoder, counted, GPU)


def test_the_decoder_of_seven_billion_has_the_weights_that_its_config_says(
    decoder: Decoder,
) -> None:
    of_layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    assert decoder.weights == 32 * of_layer
    assert decoder.plain_row_bytes == 2 * 8 * 128 * 2
    # CLIP ViT-L/14 at 336 px multiplies 0.3 G weights with each of 577 patches.
    assert 2 * 577 * 0.29e9 < decoder.tower_flops < 2 * 577 * 0.37e9


def test_a_phase_takes_its_bytes_its_products_or_its_launches(model: TimeModel) -> None:
    moves, multiplies = Demand(size_bytes=1e12, flops=0), Demand(size_bytes=0, flops=50e12)
    both = Demand(size_bytes=1e12, flops=50e12)
    assert model.seconds([moves, multiplies]) == pytest.approx(1.5)
    assert model.seconds([both]) == pytest.approx(1.0)
    assert model.seconds([moves], launches=50_000) == pytest.approx(1.0)
    assert model.seconds([moves], launches=300_000) == pytest.approx(3.0)


def test_a_decode_step_reads_weights_and_rows_unless_launches_take_longer(
    model: TimeModel, decoder: Decoder
) -> None:
    rows = 32_768
    read = decoder.weights * DTYPE.itemsize + 32 * rows * INT4_BYTES
    assert model.step(rows, INT4_BYTES, graph=True) == pytest.approx(read / 1e12)
    assert model.step(rows, INT4_BYTES, graph=False) == pytest.approx((32 * 50 + 400) * 1e-5)
    read_plain = decoder.weights * DTYPE.itemsize + 3 * 32 * rows * decoder.plain_row_bytes
    assert model.plain_step(rows) == pytest.approx(read_plain / 1e12)


def test_a_block_pays_for_decoding_its_rows_once(model: TimeModel) -> None:
    plain_s = 4 * 32 * 32 * 128 * 2304 * 32_768 / 100e12
    decoded_s = 32 * 32_768 * (INT4_BYTES + 4096) / 1e12
    expected = (plain_s + decoded_s) / plain_s
    assert model.attention_block(2304, 32_768, INT4_BYTES) == pytest.approx(expected)


def test_what_is_counted_in_each_layer_is_multiplied_by_their_number() -> None:
    assert counts(7, 5).of(32).launches == 32 * 7 + 5


def test_a_plain_prefill_holds_the_keys_and_values_of_all_slots(model: TimeModel) -> None:
    of_slot = 32 * 4096 + 2 * (4 * 4096 + 3 * 14_336)
    assert model.plain_peak_bytes(9216) == 9216 * of_slot
