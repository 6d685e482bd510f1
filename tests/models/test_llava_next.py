"""LLaVA-1.6: layout, geometry and features against transformers' own pieces."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from batch.errors import ModelError
from batch.making.cache_plan import plan_cache
from batch.models import Family, open_family
from batch.video import Footage
from tests import tiny
from tests.manifests import geometry_of, make_manifest

QUESTION = "what is the red star doing ?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_next(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def family(folder: Path) -> Family:
    opened = open_family(str(folder))
    opened.load(device="cpu", dtype=torch.float32)
    return opened


def frames(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, 40, 60, 3), dtype=np.uint8)


def footage(family: Family, samples: int) -> Footage:
    return Footage.steady(geometry_of(family), samples)


def own_ids(folder: Path, question: str, samples: int, cells: int) -> list[int]:
    """Token ids of the whole conversation with every picture's placeholders in the text."""
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}] * samples + [{"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    text = text.replace("<image>", "<image>" * (cells + 1))
    ids: list[int] = processor.tokenizer(text, add_special_tokens=False).input_ids
    return ids


@pytest.mark.parametrize("samples", [1, 3])
def test_prefix_and_question_are_the_ids_of_the_whole_conversation(
    folder: Path, family: Family, samples: int
) -> None:
    layout = family.layout(footage(family, samples))
    ids = [*layout.token_ids, *family.question_ids(QUESTION)]
    assert ids == own_ids(folder, QUESTION, samples, geometry_of(family).cells)
    assert layout.next_position == (len(layout.token_ids),)


def test_every_cell_of_every_sample_has_one_slot_in_order(family: Family) -> None:
    layout = family.layout(footage(family, 3))
    cells = layout.cell >= 0
    assert layout.cell[cells].tolist() == [*range(4)] * 3
    assert layout.sample[cells].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (np.diff(layout.sample) >= 0).all()


def test_the_geometry_is_the_image_processors(folder: Path, family: Family) -> None:
    images = AutoProcessor.from_pretrained(folder).image_processor
    for frame in frames(2):
        ours = geometry_of(family).apply(frame)
        theirs = images(Image.fromarray(frame), do_normalize=False, do_rescale=False)
        base = np.asarray(theirs["pixel_values"][0][0]).transpose(1, 2, 0)
        np.testing.assert_array_equal(ours, base)


def test_logits_equal_transformers_own_forward(folder: Path, family: Family) -> None:
    samples = frames(3)
    ids = torch.tensor([own_ids(folder, QUESTION, 3, geometry_of(family).cells)])
    ours = _our_logits(family, samples, ids)
    theirs = _their_logits(folder, samples, ids)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    swapped = _their_logits(folder, samples[::-1].copy(), ids)
    assert (ours - swapped).abs().max() > 1e-2


def _our_logits(family: Family, samples: NDArray[np.uint8], ids: torch.Tensor) -> torch.Tensor:
    layout = family.layout(footage(family, len(samples)))
    pictures = np.stack([geometry_of(family).apply(frame) for frame in samples])
    with torch.inference_mode():
        embedded = family.text_embeddings(ids[0])
        embedded[np.flatnonzero(layout.cell >= 0)] = family.features(
            pictures, geometry_of(family)
        ).flatten(0, 1)
        family.language_model.set_attn_implementation("sdpa")
        return family.logits(family.language_model(inputs_embeds=embedded[None]).last_hidden_state)


def _their_logits(folder: Path, samples: NDArray[np.uint8], ids: torch.Tensor) -> torch.Tensor:
    """Transformers' forward from token ids, the base images packed by transformers."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    images = AutoProcessor.from_pretrained(folder).image_processor
    pixels = images([Image.fromarray(frame) for frame in samples], return_tensors="pt")
    base = pixels["pixel_values"][:, 0]
    with torch.inference_mode():
        states = model.model.vision_tower(base, output_hidden_states=True).hidden_states
        features = model.model.multi_modal_projector(
            states[model.config.vision_feature_layer][:, 1:]
        )
        packed, _ = model.model.pack_image_features(
            [feature[None] for feature in features],
            pixels["image_sizes"],
            vision_feature_select_strategy="default",
            image_newline=model.model.image_newline,
        )
        seen = BaseModelOutputWithPooling(pooler_output=packed)
        return model(input_ids=ids, mm_encoder_outputs={"image": seen}).logits


def test_a_fine_tune_has_another_identity_and_a_copy_the_same(tmp_path: Path, folder: Path) -> None:
    one = open_family(str(folder)).checkpoint
    copy = open_family(str(tiny.llava_next(tmp_path / "copy"))).checkpoint
    tuned = open_family(str(tiny.llava_next(tmp_path / "tuned", seed=1))).checkpoint
    assert copy.weights_sha256 == one.weights_sha256
    assert copy.config_sha256 == one.config_sha256
    assert copy.processor_sha256 == one.processor_sha256
    assert tuned.weights_sha256 != one.weights_sha256
    assert tuned.config_sha256 == one.config_sha256


def test_weights_in_shards_have_the_same_identity(tmp_path: Path, folder: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
    AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    sharded = open_family(str(tmp_path)).checkpoint
    assert sharded.weights_sha256 == open_family(str(folder)).checkpoint.weights_sha256


def test_an_unknown_folder_or_family_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such-model"):
        open_family("no-such-model", offline=True)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=str(tmp_path)):
        open_family(str(tmp_path))


def test_a_checkpoint_of_the_hub_is_used_offline_and_known_as_its_folder(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--tiny"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    opened = open_family("somebody/tiny", offline=True)
    assert opened.checkpoint.name == "somebody/tiny"
    assert opened.checkpoint.revision == commit
    opened.load(device="cpu", dtype=torch.float32)
    here = open_family(str(folder)).checkpoint
    assert opened.checkpoint.weights_sha256 == here.weights_sha256
    assert opened.checkpoint.config_sha256 == here.config_sha256
    (repository / "snapshots" / commit / "model.safetensors").unlink()
    without = open_family("somebody/tiny", offline=True)
    with pytest.raises(ModelError, match="without --offline"):
        without.load(device="cpu", dtype=torch.float32)
    manifest = make_manifest(frames(2)[:, :28, :28].copy(), geometry_of(without))
    work = plan_cache(manifest, without, dtype="float32", identify_weights=False)
    assert work.size_bytes == plan_cache(manifest, opened, dtype="float32").size_bytes


@pytest.mark.parametrize(
    "content",
    [b"version https://git-lfs.github.com/spec/v1\n", b"\x02" + bytes(7) + b"[]", b""],
)
def test_weights_that_are_no_safetensors_file_are_refused_by_name(
    tmp_path: Path, folder: Path, content: bytes
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: not a safetensors file"):
        _ = open_family(str(tmp_path / "model")).checkpoint.weights_sha256
