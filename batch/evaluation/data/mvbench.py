"""MVBench as its authors publish it, unpacked.

Source: arXiv 2311.17005; folders of the dataset's own repository. Some tasks ask about a part of
a video: they are read where the cut parts are there (the repository's revision `video` has
them), for the answer may be wrong of the whole.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from batch.evaluation.data.question_set import Question
from batch.evaluation.data.rows import first_there, plain_options, read_json, row

LAYOUT = "MVBench: json/TASK.json and the folders of videos, here or in video/"

_ROOTS = ("", "video", "data0613")
_FOLDERS = {
    "action_antonym": ("ssv2_video_mp4", "ssv2_video"),
    "action_count": ("perception/videos",),
    "action_localization": ("sta/sta_video_segment",),
    "action_prediction": ("star/Charades_segment",),
    "action_sequence": ("star/Charades_segment",),
    "character_order": ("perception/videos",),
    "counterfactual_inference": ("clevrer/video_validation",),
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/video_fps3_hq_segment",),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "fine_grained_pose": ("nturgbd_convert", "nturgbd"),
    "moving_attribute": ("clevrer/video_validation",),
    "moving_count": ("clevrer/video_validation",),
    "moving_direction": ("clevrer/video_validation",),
    "object_existence": ("clevrer/video_validation",),
    "object_interaction": ("star/Charades_segment",),
    "object_shuffle": ("perception/videos",),
    "scene_transition": ("scene_qa/video",),
    "state_change": ("perception/videos",),
    "unexpected_action": ("FunQA_test/test",),
}
"""Where the videos of a task are."""


def is_here(path: Path) -> bool:
    """Whether this is the folder of MVBench."""
    return any((path / "json" / f"{task}.json").exists() for task in _FOLDERS)


def read(path: Path) -> Iterator[Question]:
    """Its questions, task after task; `kind` is the task."""
    for task in _FOLDERS:
        file = path / "json" / f"{task}.json"
        if file.exists():
            for number, fields in enumerate(read_json(file), start=1):
                with row(file, number):
                    yield Question(
                        video=_video(path, task, fields),
                        question=fields["question"],
                        answer=fields["answer"].strip(),
                        options=plain_options(fields["candidates"]),
                        kind=task,
                    )


def _video(path: Path, task: str, fields: Mapping[str, Any]) -> Path:
    name = Path(fields["video"])
    names = [name, name.with_suffix(".mp4")]
    if "start" in fields:
        names.append(name.with_name(f"{name.stem}_{fields['start']}_{fields['end']}.mp4"))
    places = [path / root / folder for root in _ROOTS for folder in _FOLDERS[task]]
    return first_there([place / name for place in places for name in names])
