"""The judge "seeing" is put together as an ordinary checkpoint, here of tiny random parts."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from batch.errors import BatchError
from batch.evaluation.judges.seeing import tower_of
from batch.evaluation.judges.seeing_films import CARD, find_judge, judge_sets
from batch.evaluation.training.adapter import Adapter, load_adapter
from batch.models import open_family
from tests.clips import write_clip
from tests.manifests import geometry_of
from tests.models import parity
from tests.models.cases import draw_clip
from tests.tiny import judge

FRAMES = draw_clip(3, 112, 112)
OLD_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def transformers_scores(folder: Path) -> torch.Tensor:
    """Of the first answer token behind FRAMES, by transformers' own processor and forward."""
    processor = AutoProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    asked = [*[{"type": "image"}] * len(FRAMES), {"type": "text", "text": parity.QUESTION}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": asked}], add_generation_prompt=True
    )
    images = [Image.fromarray(frame) for frame in FRAMES]
    inputs = processor(text=text, images=images, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        return model(**inputs).logits[0, -1]


def trained_adapter(file: Path) -> Path:
    """An adapter that changes every layer, for the tiny judge."""
    model = LlavaForConditionalGeneration.from_pretrained(judge.judge(file.parent / "base"))
    adapter = Adapter(model.float(), rank=2)
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in adapter.tensors().values():
            tensor.add_(0.3 * torch.randn_like(tensor))
    adapter.save(file, {"kinds": ["detail"], "clips": ["seen.mp4"]})
    return file


def test_the_judge_scores_as_transformers_does(tmp_path: Path) -> None:
    folder = judge.judge(tmp_path / "judge")
    geometry = geometry_of(open_family(str(folder)))
    pictures = parity.pictures_of(geometry, FRAMES)
    own = transformers_scores(folder)
    got = parity.scores(folder, pictures, geometry)
    torch.testing.assert_close(got, own, atol=1e-4, rtol=1e-4)
    assert (parity.scores(folder, 255 - pictures, geometry) - own).abs().max() > 1e-2


def test_a_merged_adapter_scores_as_one_beside_the_weights(tmp_path: Path) -> None:
    file = trained_adapter(tmp_path / "adapter.safetensors")
    base = LlavaForConditionalGeneration.from_pretrained(tmp_path / "base", dtype=torch.float32)
    merged = LlavaForConditionalGeneration.from_pretrained(
        judge.judge(tmp_path / "merged", file), dtype=torch.float32
    )
    inputs = {
        "input_ids": torch.tensor([[1, 42, *[base.config.image_token_index] * 64, 5, 11]]),
        "pixel_values": torch.from_numpy(FRAMES[:1]).permute(0, 3, 1, 2) / 255,
    }
    with torch.inference_mode():
        plain = base(**inputs).logits
        load_adapter(base, file)
        beside, one = base(**inputs).logits, merged(**inputs).logits
    torch.testing.assert_close(one, beside, atol=0.02, rtol=0.02)  # weights are kept in float16
    assert (plain - beside).abs().max() > 0.5


def test_a_tower_for_smaller_pictures_sees_them_as_the_large_one_does() -> None:
    large = judge.tower(side_px=224)
    weights = {}
    for name, weight in large.state_dict().items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)
        weights[name] = weight.numpy()
    small = tower_of(weights, 112)
    assert small.config.image_size == 112
    pixels = torch.from_numpy(FRAMES).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        one, other = (tower(pixels).last_hidden_state for tower in (large.eval(), small.eval()))
    torch.testing.assert_close(one, other)


def test_without_make_judges_it_is_said_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="make judges"):
        find_judge(tmp_path / "judge")
    judge.judge(tmp_path / "judge")
    with pytest.raises(BatchError, match=r"not been trained.*training\.judge"):
        find_judge(tmp_path / "judge")
    judge.judge(tmp_path / "judge", trained_adapter(tmp_path / "adapter.safetensors"))
    assert find_judge(tmp_path / "judge") == tmp_path / "judge"
    judge.judge(tmp_path / "judge")
    with pytest.raises(BatchError, match="not been trained"):
        find_judge(tmp_path / "judge")


def test_clips_of_the_training_are_left_out_of_the_films(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    write_clip(clips / "seen.mp4", FRAMES)
    (tmp_path / CARD).write_text(json.dumps({"kinds": ["place"], "clips": ["seen.mp4"]}))
    films = tmp_path / "films"
    with pytest.raises(BatchError, match="trained on every clip"):
        judge_sets(tmp_path, films, 2, 5, clips)
    write_clip(clips / "other.mp4", FRAMES)
    drawn, over = judge_sets(tmp_path, films, 2, 5, clips)
    assert [drawn.name, over.name] == ["demo short", "demo short over clips"]
    for one, two in zip(drawn.questions, over.questions, strict=True):
        assert one.kind == "place"
        assert (one.question, one.answer) == (two.question, two.answer)
        assert one.video != two.video
