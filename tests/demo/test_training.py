"""The training program: the product's layout, and a run that goes on where it stopped."""

from pathlib import Path

import pytest
import torch

from batch.demo import train as program
from batch.demo.checkpoint import new_tokenizer
from batch.evaluation.training.lessons import IGNORED, Lessons, Stage, prefix_ids
from batch.evaluation.training.pupil import right_answers
from batch.evaluation.training.train import train
from batch.models import open_family
from batch.video import Footage
from tests.manifests import geometry_of

STAGES = (
    Stage(name="cells", steps=2, shortest=1, longest=1, slots=2 * 65, rates=(1e-3, 1e-3)),
    Stage(name="videos", steps=3, shortest=2, longest=3, slots=4 * 65, rates=(1e-3, 5e-4)),
)


def test_training_and_the_product_lay_out_a_video_alike() -> None:
    family = open_family("demo")
    layout = family.layout(Footage.steady(geometry_of(family), 3))
    assert prefix_ids(3, new_tokenizer()) == layout.token_ids.tolist()
    text = "what colour is the star ?"
    asked = new_tokenizer()(f"{text} assistant", add_special_tokens=False).input_ids
    assert family.question_ids(text) == asked


def test_questions_behind_one_prefix_are_packed_with_their_answers() -> None:
    tokenizer = new_tokenizer()
    batch = Lessons(STAGES[1], 0, tokenizer)[0]
    assert batch.pictures.dtype == torch.uint8
    asked = batch.targets != IGNORED
    assert bool(asked.any(1).all())
    ends = batch.targets == tokenizer.eos_token_id
    for video in range(len(batch.kinds)):
        assert int(ends[video].sum()) == int((batch.kinds[video] >= 0).sum())


def test_an_answer_is_right_only_to_the_last_token() -> None:
    batch = Lessons(STAGES[1], 0, new_tokenizer())[0]
    logits = torch.nn.functional.one_hot(batch.targets.clamp(min=0), 100).float()
    assert all(all(each) for each in right_answers(logits, batch).values())
    row, column = (batch.targets != IGNORED).nonzero()[0].tolist()
    logits[row, column] = 0
    wrong = [right for each in right_answers(logits, batch).values() for right in each]
    assert wrong.count(False) == 1


def test_a_run_that_stopped_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(_folder(tmp_path / "whole"), STAGES, 3, "cpu")
    monkeypatch.setattr(program, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(program, "rate", _stops_at_step(1, program.rate))
    with pytest.raises(KeyboardInterrupt):
        train(_folder(tmp_path / "cut"), STAGES, 3, "cpu")
    monkeypatch.undo()
    resumed = train(tmp_path / "cut", STAGES, 3, "cpu")
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, msg=name)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _stops_at_step(step: int, rate):
    def stopping(at, stage):
        if stage is STAGES[-1] and at == step:
            raise KeyboardInterrupt
        return rate(at, stage)

    return stopping
