"""What methods answered about films and texts, kept as files, so that nothing is run twice.

A file a method and film, named by a digest of all that its answers depend on: the film's bytes,
the questions, the model's weights, the settings, the method and the text of its module.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from batch.errors import BatchError
from batch.evaluation.data import Question
from batch.evaluation.judges.schemes import Scheme
from batch.evaluation.judges.schemes.scheme import ByMethod
from batch.evaluation.runs import AnsweredQuestion, Entry, Label, Run
from jobs.atomic import make_folder, write_atomic

_ARRAYS = ("cell_states", "sample_bytes")

What = Entry | Scheme | Label
"""What is run: a method or a scheme, or by what the row of neither is called."""


@dataclass(frozen=True, kw_only=True)
class KeptRuns:
    """Runs in a folder.

    - circumstances: of all of them, plain values.
    """

    folder: Path
    circumstances: dict[str, Any]

    @classmethod
    def within(cls, out: Path, circumstances: dict[str, Any]) -> Self:
        """Those of a folder of results, made in the same way by this version."""
        folder = out / "results" / "runs"
        make_folder(folder)
        return cls(folder=folder, circumstances={**circumstances, "version": version("sali-cache")})

    def path(self, film: Path, questions: Sequence[Question], what: What) -> Path:
        """Where its run is kept."""
        asked = [(one.question, one.options, one.answer) for one in questions]
        parts = (self.circumstances, asked, what, _module(what))
        digest = hashlib.sha256(film.read_bytes())
        digest.update(repr(parts).encode())
        return self.folder / f"{film.stem}-{digest.hexdigest()[:24]}.json"

    def find(
        self, film: Path, questions: Sequence[Question], wanted: Mapping[Label, What]
    ) -> dict[Label, Run]:
        """What of that is kept; raises as `read`."""
        found = {
            label: self.read(self.path(film, questions, what), film)
            for label, what in wanted.items()
        }
        return {label: run for label, run in found.items() if run is not None}

    def read(self, path: Path, film: Path) -> Run | None:
        """A run that was kept, its film lying here now; None if there is none.

        Raises:
            BatchError: what is there is no run; names the file.
        """
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_bytes())
            arrays = {
                name: None if values[name] is None else np.array(values[name], np.int64)
                for name in _ARRAYS
            }
            answers = tuple(_answer(one, film) for one in values.pop("answers"))
            label = Label(**values.pop("label"))
            return Run(**{**values, **arrays, "label": label, "answers": answers})
        except (ValueError, TypeError, KeyError) as error:
            raise BatchError(f"{path}: not a run as this version keeps them; remove it") from error

    def write(self, path: Path, run: Run) -> None:
        """Keep a run."""
        values = {one.name: getattr(run, one.name) for one in fields(run)}
        values |= {
            name: None if values[name] is None else values[name].tolist() for name in _ARRAYS
        }
        values |= {"label": asdict(run.label), "answers": [asdict(one) for one in run.answers]}
        write_atomic(path, json.dumps(values, default=str).encode(), self.folder.parent)


def _module(what: What) -> str:
    """The text of the module that decides what is stored."""
    if isinstance(what, Label):
        return ""
    author = what.method if isinstance(what, Entry | ByMethod) else what
    return Path(inspect.getfile(type(author))).read_text()


def _answer(values: dict[str, Any], film: Path) -> AnsweredQuestion:
    asked = values.pop("question")
    question = Question(**{**asked, "video": film, "options": tuple(asked["options"])})
    return AnsweredQuestion(question=question, **values)
