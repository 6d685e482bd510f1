"""The judge's training: a run goes on where it stopped, and what it leaves can be merged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from batch.demo.questions import KINDS
from batch.errors import BatchError
from batch.evaluation.training.adapter import read_card
from batch.evaluation.training.examples import IGNORED, Stage, TrainingExamples
from batch.evaluation.training.judge import ASKED, Course, Log, main, train
from batch.evaluation.training.judge_student import FamilyPrompts, JudgeStudent, cell_labels
from batch.evaluation.training.progress import Progress
from batch.models import open_family
from batch.video import Footage
from tests.clips import write_clip
from tests.evaluation.stopping import whole_and_resumed
from tests.manifests import geometry_of
from tests.models.cases import draw_clip
from tests.tiny import judge

NEVER_S = 1e9


CELLS = Stage(name="cells", steps=2, shortest=1, longest=1, slots=4 * 65, rates=(1e-3, 1e-3))
FILMS = Stage(name="films", steps=3, shortest=2, longest=3, slots=4 * 65, rates=(1e-3, 1e-3))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judge.judge(tmp_path_factory.mktemp("judge") / "base")


def student_of(checkpoint: Path) -> JudgeStudent:
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    return JudgeStudent(model, open_family(str(checkpoint)), rank=2)


def course(**changed: Any) -> Course:
    stages = {CELLS: 1.0, FILMS: 1.0}
    plain = Course(seconds=NEVER_S, seed=3, stages=stages, pool=6, save_every_s=0.0)
    return replace(plain, **changed)


def run(folder: Path, checkpoint: Path, log: Log, **changed: Any) -> JudgeStudent:
    folder.mkdir(exist_ok=True)
    student = student_of(checkpoint)
    train(folder, student, course(**changed), log)
    return student


def test_training_and_the_product_lay_out_a_video_alike(checkpoint: Path) -> None:
    family = open_family(str(checkpoint))
    prompts = FamilyPrompts(family)
    layout = family.layout(Footage.steady(geometry_of(family), 3))
    assert prompts.prefix_ids(3) == layout.token_ids.tolist()
    text = "what colour is the star ?"
    assert prompts.question_ids(text) == family.question_ids(text)
    assert prompts.answer_ids("red")[-1] == family.checkpoint.tokenizer.eos_token_id


def test_packed_questions_score_as_each_alone(checkpoint: Path) -> None:
    student = student_of(checkpoint)
    batch = TrainingExamples(FILMS, 0, student.prompts, kinds=ASKED)[0]
    with torch.no_grad():
        packed = student.answers(batch)
        place, number = int((batch.owners[0] >= 0).sum()), int(batch.owners[0].max())
        alone = batch.owners[0] == number
        one = replace(
            batch,
            pictures=batch.pictures[:1],
            **{
                name: getattr(batch, name)[:1, alone]
                for name in ("tokens", "positions", "owners", "targets")
            },
        )
        scores = student.answers(one)
    count = int((batch.targets[0][:place] != IGNORED).sum())
    torch.testing.assert_close(packed[:count][-len(scores) :], scores, atol=1e-4, rtol=1e-4)


def test_captions_are_not_asked(checkpoint: Path) -> None:
    prompts = FamilyPrompts(open_family(str(checkpoint)))
    for kinds, has_captions in ((KINDS, True), (ASKED, False)):
        examples = TrainingExamples(FILMS, 0, prompts, kinds=kinds)
        asked = {kind for index in range(3) for kind in examples[index].kinds.flatten().tolist()}
        assert (KINDS.index("caption") in asked) == has_captions


def test_labels_name_what_stands_in_a_cell(checkpoint: Path) -> None:
    prompts = FamilyPrompts(open_family(str(checkpoint)))
    batch = TrainingExamples(CELLS, 0, prompts)[0]
    labels = cell_labels(batch)
    assert labels.shape == (batch.pictures.shape[0], 64, 5)
    assert labels[0, [0, 27, 63], 3:].tolist() == [[0, 0], [1, 1], [2, 2]]
    numbered = labels[..., 2] >= 0
    assert bool(numbered.any())
    assert bool((labels[..., 0][numbered] > 0).all())


def test_the_projector_learns_the_words_for_what_cells_show(
    tmp_path: Path, checkpoint: Path
) -> None:
    losses: list[float] = []
    cells = replace(CELLS, steps=60, rates=(1e-2, 1e-2))
    run(tmp_path, checkpoint, lambda figures: losses.append(figures["loss"]), stages={cells: 1.0})
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_run_that_stopped_goes_on_to_the_same_weights(tmp_path: Path, checkpoint: Path) -> None:
    def run_at(folder: Path, log: Log) -> JudgeStudent:
        return run(folder, checkpoint, log)

    whole, resumed = whole_and_resumed(run_at, tmp_path, ("films", 1))
    for name, tensor in whole.adapter.tensors().items():
        torch.testing.assert_close(resumed.adapter.tensors()[name], tensor, msg=name)
    assert not torch.equal(whole.adapter.tensors()["layers.0.mlp.up_proj.up"], torch.zeros(48, 2))


def test_the_projector_learns_slowly_once_it_sees(tmp_path: Path, checkpoint: Path) -> None:
    def largest_step(student: JudgeStudent, name: str) -> float:
        before = student_of(checkpoint).adapter.tensors()[name].detach()
        return float((student.adapter.tensors()[name].detach() - before).abs().max())

    films = replace(FILMS, steps=1, shortest=1, longest=1)
    one = run(tmp_path, checkpoint, lambda figures: None, stages={films: 1.0})
    adapter = largest_step(one, "layers.0.mlp.up_proj.up")
    assert largest_step(one, "projector.linear_1.weight") == pytest.approx(adapter / 10, rel=0.05)


def test_a_run_ends_with_its_time(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(Progress, "seconds", lambda self: float(len(steps)))  # a step takes one
    run(tmp_path, checkpoint, lambda figures: steps.append(figures["stage"]), seconds=0.5)
    assert steps == ["cells"]


def test_the_card_says_how_an_adapter_came_to_be(tmp_path: Path, checkpoint: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", draw_clip(3, 64, 64))
    run(tmp_path / "run", checkpoint, lambda figures: None, clips=(clip,))
    card = read_card(tmp_path / "run" / "adapter.safetensors")
    assert card["clips"] == ["clip.mp4"]
    assert card["kinds"] == list(ASKED)
    assert (card["stage"], card["steps"], card["seed"], card["start"]) == ("films", 3, 3, None)


def test_training_goes_on_from_an_adapter(tmp_path: Path, checkpoint: Path) -> None:
    first = run(tmp_path / "run", checkpoint, lambda figures: None)
    again = student_of(checkpoint)
    again.adapter.load(tmp_path / "run" / "adapter.safetensors")
    for name, tensor in first.adapter.tensors().items():
        torch.testing.assert_close(
            again.adapter.tensors()[name], tensor, atol=1e-3, rtol=1e-3, msg=name
        )


def test_what_training_cannot_start_from_is_refused_by_name(
    tmp_path: Path, checkpoint: Path
) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"layers.0.mlp.up_proj.up": torch.zeros(48, 3)}, other)
    with pytest.raises(BatchError, match=r"other\.safetensors: not an adapter of this model"):
        student_of(checkpoint).adapter.load(other)
    other.write_bytes(b"no tensors")
    for read in (student_of(checkpoint).adapter.load, read_card):
        with pytest.raises(BatchError, match=r"other\.safetensors: not an adapter"):
            read(other)
    merged = judge.judge(tmp_path / "merged", trained(tmp_path, checkpoint))
    options = ["--model", str(merged), "--out", str(tmp_path / "out"), "--minutes", "1"]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 1
    assert "an adapter is merged into it" in result.output


def trained(folder: Path, checkpoint: Path) -> Path:
    run(folder / "run", checkpoint, lambda figures: None, stages={CELLS: 1.0})
    return folder / "run" / "adapter.safetensors"
