"""The training program: the product's layout, and a run that goes on where it stopped."""

from pathlib import Path

import torch

from batch.evaluation.training.checkpoint import new_tokenizer
from batch.evaluation.training.examples import IGNORED, DemoPrompts, Stage, TrainingExamples
from batch.evaluation.training.student import StudentModel, right_answers
from batch.evaluation.training.train import Log, train
from batch.models import open_family
from batch.video import Footage
from tests.evaluation.stopping import whole_and_resumed
from tests.manifests import geometry_of

STAGES = (
    Stage(name="cells", steps=2, shortest=1, longest=1, slots=2 * 65, rates=(1e-3, 1e-3)),
    Stage(name="videos", steps=3, shortest=2, longest=3, slots=4 * 65, rates=(1e-3, 5e-4)),
)


def test_training_and_the_product_lay_out_a_video_alike() -> None:
    family = open_family("demo")
    layout = family.layout(Footage.steady(geometry_of(family), 3))
    prompts = DemoPrompts(new_tokenizer())
    assert prompts.prefix_ids(3) == layout.token_ids.tolist()
    text = "what colour is the star ?"
    assert prompts.question_ids(text) == family.question_ids(text)


def test_questions_behind_one_prefix_are_packed_with_their_answers() -> None:
    tokenizer = new_tokenizer()
    batch = TrainingExamples(STAGES[1], 0, DemoPrompts(tokenizer))[0]
    assert batch.pictures.dtype == torch.uint8
    asked = batch.targets != IGNORED
    assert bool(asked.any(1).all())
    ends = batch.targets == tokenizer.eos_token_id
    for video in range(len(batch.kinds)):
        assert int(ends[video].sum()) == int((batch.kinds[video] >= 0).sum())


def test_an_answer_is_right_only_to_the_last_token() -> None:
    batch = TrainingExamples(STAGES[1], 0, DemoPrompts(new_tokenizer()))[0]
    targets = batch.targets[batch.targets != IGNORED]
    logits = torch.nn.functional.one_hot(targets, 100).float()
    assert all(all(each) for each in right_answers(logits, batch).values())
    logits[0] = 0
    wrong = [right for each in right_answers(logits, batch).values() for right in each]
    assert wrong.count(False) == 1


def test_a_run_that_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, resumed = whole_and_resumed(run, tmp_path, ("videos", 1))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, msg=name)


def run(folder: Path, log: Log) -> StudentModel:
    folder.mkdir(exist_ok=True)
    return train(folder, STAGES, 3, "cpu", log=log, save_every_s=0.0)
