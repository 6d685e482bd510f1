"""What a method is asked."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a video and its true answer."""

    video: Path
    question: str
    answer: str
    options: tuple[str, ...] = ()
    """What the answer is one of; empty if it is free."""
    kind: str = ""
    """What sort of question it is, in the words of its set."""

    def __post_init__(self) -> None:
        for name in ("question", "answer"):
            if not getattr(self, name).strip():
                raise ValueError(f"got an empty {name}")
        if self.options and self.answer not in self.options:
            raise ValueError(f"the answer {self.answer!r} is none of the options {self.options}")


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """Questions in order, those about one video side by side."""

    name: str
    questions: tuple[Question, ...]
    absent: tuple[Path, ...] = ()
    """Videos that were asked about and are not here; their questions are left out."""
