"""Where a model's parts lie and how its weights are stored changes no answer."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from batch.answering import PrefixAnswerer
from batch.errors import ModelError
from batch.making.blocks import prefill
from batch.making.cache_plan import plan_cache
from batch.models import Family, open_family, open_model
from batch.models.placement import Device, default_dtype
from batch.settings import CacheSettings, ModelSettings
from cachefmt import CacheFile
from tests import tiny
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.models import parity
from tests.tiny.families import TINY
from tests.tiny.files import loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_next(tmp_path_factory.mktemp("llava"))


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_vnni": True, "amx_bf16": False}, "float32"),
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, "bfloat16"),  # AMD, Zen 4
        ({"amx_bf16": True, "avx512_bf16": True}, "bfloat16"),
        ({"neon": True, "fp16_arith": True, "bf16": False}, "float32"),
        ({"neon": True, "bf16": True}, "bfloat16"),
        ({}, "float32"),
    ],
)
def test_a_model_runs_in_bfloat16_where_the_processor_has_instructions_for_it(
    folder: Path, flags: dict[str, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert open_model(ModelSettings(name=str(folder), device="cpu")).dtype == dtype
    chosen = ModelSettings(name=str(folder), device="cpu", dtype="float16")
    assert open_model(chosen).dtype == "float16"
    assert default_dtype(torch.device("cuda")) == "bfloat16"


def scores(family: Family, folder: Path, seed: int = 3, dtype: str = "float32") -> Tensor:
    """Scores of the first answer token from a cache of three samples."""
    geometry = family.geometry.for_video(64, 64, 3 * family.geometry.frames)
    manifest = make_manifest(random_pictures(3, geometry, seed), geometry)
    raw_dtype = "F32" if dtype == "float32" else None
    settings = CacheSettings(block_samples=2, quality="lossless")
    work = plan_cache(manifest, family, settings, dtype=dtype, raw_dtype=raw_dtype)
    prefill(work, family, folder / "x.safetensors")
    with CacheFile.open(folder / "x.safetensors") as cache:
        return PrefixAnswerer.of_cache(cache, family).next_token_scores(parity.QUESTION)


def spread(whole: Family) -> dict[str, str | int]:
    """A device_map: the tower, the final norm and all but the first layer wait on the disk.

    Accelerate's hooks bring them to the CPU when they compute, as they do to one GPU of several.
    """
    inner, decoder = whole.model.model, whole.model.get_decoder()
    text = next(name for name, part in whole.model.named_modules() if part is decoder)
    places: dict[str, str | int] = {
        f"model.{name}": "disk" for name, part in inner.named_children() if part is not decoder
    }
    places |= {f"model.{name}": "cpu" for name, _ in inner.named_parameters(recurse=False)}
    for name, part in decoder.named_children():
        places[f"{text}.{name}"] = "disk" if name == "norm" else "cpu"
        for number, _ in part.named_children():
            places[f"{text}.{name}.{number}"] = "cpu" if number == "0" else "disk"
    del places[f"{text}.layers"]
    return {**places, "lm_head": "cpu"}


# accelerate 1.15 does not know that LLaVA's image_newline is a parameter and no module.
@pytest.mark.filterwarnings("ignore:The following device_map keys:UserWarning")
@pytest.mark.parametrize("model_type", TINY)
def test_a_model_spread_over_memory_and_disk_scores_as_in_one_place(
    model_type: str, tmp_path: Path
) -> None:
    TINY[model_type](tmp_path)
    whole = loaded(tmp_path, "cpu")
    expected, other = (scores(whole, tmp_path, seed) for seed in (3, 4))
    parts = loaded(tmp_path, spread(whole))
    assert {weight.device.type for weight in parts.model.parameters()} == {"cpu", "meta"}
    assert set(parts.layer_devices) == {torch.device("cpu")}
    got = scores(parts, tmp_path)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert (got - other).abs().max() > 1e-2


def test_auto_takes_what_devices_there_are(folder: Path) -> None:
    first = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    assert loaded(folder, "auto").device == first


@pytest.mark.parametrize("device", ["auto", {"": "cpu"}])
def test_without_accelerate_a_spread_model_is_refused_with_the_command_that_helps(
    folder: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModelError, match=r"pip install 'accelerate>="):
        loaded(folder, device)
    assert loaded(folder, "cpu").is_loaded


METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "4 bits": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 1e-4),
    # Each row of activations is rounded to 8 bits, and the last bit of a float decides how.
    "8 bits": ({"load_in_8bit": True}, 0.3),
}
"""Settings of bitsandbytes, and how far apart two ways of adding up may come out."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All channels are multiples of 64, as the kernels of bitsandbytes 0.50 on the CPU want."""
    return tiny.llava_next(tmp_path_factory.mktemp("wide"), width=8)


@pytest.mark.parametrize("method", METHODS)
def test_quantised_weights_score_as_in_transformers_own_decoder(
    method: str, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    # Without this, activations are rounded to bfloat16 where the processor can multiply it.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    settings, tolerance = METHODS[method]
    quantise(wide, tmp_path, settings)
    checkpoint = open_family(str(tmp_path)).checkpoint
    assert (checkpoint.quantised_by, checkpoint.own_dtype) == ("bitsandbytes", "float32")
    geometry = geometry_of(open_family(str(tmp_path)))
    pictures = random_pictures(3, geometry)
    got = parity.scores(tmp_path, pictures, geometry)
    tier = make_manifest(pictures, geometry).tier
    expected, other = (
        parity.masked_scores(tmp_path, shown, geometry, tier=tier, source=[0, 1, 2])
        for shown in (pictures, pictures[::-1].copy())
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    assert (got - other).abs().max() > 2 * tolerance + 1e-2
    unquantised = parity.scores(wide, pictures, geometry)
    assert (got - unquantised).abs().max() > 1e-2


def quantise(folder: Path, out: Path, settings: dict[str, Any]) -> None:
    """Write a checkpoint anew as bitsandbytes leaves it."""
    model = AutoModelForImageTextToText.from_pretrained(
        folder,
        quantization_config=BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **settings),
        dtype=torch.float32,
        device_map="cpu",
    )
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(folder).save_pretrained(out)


TOLERANCE = {"bfloat16": 0.03, "float16": 0.01}


@pytest.mark.parametrize("model_type", TINY)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_16_bits_score_as_32_within_their_rounding(
    model_type: str, dtype: str, tmp_path: Path
) -> None:
    TINY[model_type](tmp_path)
    expected, other = (scores(loaded(tmp_path, "cpu"), tmp_path, seed) for seed in (3, 4))
    family = open_family(str(tmp_path))
    family.load(device="cpu", dtype=getattr(torch, dtype))
    got = scores(family, tmp_path, dtype=dtype)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE[dtype])
    assert (got - other).abs().max() > 5 * TOLERANCE[dtype]


def claim(folder: Path, out: Path, method: str) -> None:
    """Copy a checkpoint that then says to be quantised."""
    shutil.copytree(folder, out, dirs_exist_ok=True)
    config = json.loads((out / "config.json").read_bytes())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 32}
    (out / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_weights_quantised_by_what_is_not_installed_are_refused_with_what_to_install(
    folder: Path, tmp_path: Path, method: str
) -> None:
    claim(folder, tmp_path, method)
    with pytest.raises(ModelError, match=r"the weights cannot be loaded: .*pip install"):
        loaded(tmp_path, "cpu")


@register_quantization_config("halving")
class Halving(QuantizationConfigMixin):
    """A method that computes in float16 whatever is asked for, as AWQ does on CUDA."""

    def __init__(self, **settings: Any) -> None:
        self.quant_method = "halving"


@register_quantizer("halving")
class HalvingQuantizer(HfQuantizer):
    requires_calibration = False

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return torch.float16

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def test_weights_that_compute_in_another_type_are_refused_with_that_type(
    folder: Path, tmp_path: Path
) -> None:
    claim(folder, tmp_path, "halving")
    with pytest.raises(ModelError, match=r"quantised by halving .* --dtype float16"):
        loaded(tmp_path, "cpu")
    family = open_family(str(tmp_path))
    family.load(device="cpu", dtype=torch.float16)
    assert family.model.dtype == torch.float16
