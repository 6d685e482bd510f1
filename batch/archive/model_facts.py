"""What of a model decides the identity of caches, remembered while its files stay the same.

Asking the model itself takes seconds and half a gigabyte (torch), too much for a run without
new videos. Imports no torch.
"""

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import batch
from batch.archive.inventory import Stat
from batch.archive.settings import IndexSettings
from batch.video import DynamicGeometry, Geometry, GeometryRule
from jobs.atomic import write_atomic
from jobs.errors import RecordError

_RULES: Mapping[str, type[Geometry] | type[DynamicGeometry]] = {
    rule.__name__: rule for rule in (Geometry, DynamicGeometry)
}
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A checkpoint's identity, and how it is run.

    `weights_sha256` and what follows are None if only an analysis was asked for.
    """

    name: str
    revision: str | None
    geometry: GeometryRule
    config_sha256: str
    processor_sha256: str
    chat_template_sha256: str
    weights_sha256: str | None
    dtype: str | None
    block_samples: int | None

    def to_json(self) -> str:
        return json.dumps({**self.__dict__, "geometry": rule_facts(self.geometry)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        facts = json.loads(text)
        geometry = facts.pop("geometry")
        return cls(geometry=_RULES[geometry.pop("rule")](**geometry), **facts)


def rule_facts(rule: GeometryRule) -> dict[str, Any]:
    """A rule as plain values, its kind among them."""
    return {"rule": type(rule).__name__, **asdict(rule)}


class ModelFactsStore:
    """Facts of the models that were asked before, in a folder."""

    def __init__(
        self, folder: Path, settings: IndexSettings, *, device: str | None, weights: bool
    ) -> None:
        """Look for the model's files.

        Args:
            folder: need not exist.
            device: as the person named it; None is the best there is.
            weights: whether their identity is needed.
        """
        files = _files_of(settings.model.name)
        self._path = None
        if files is not None:
            text = json.dumps([files, _circumstances(settings, device, weights)], sort_keys=True)
            self._path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def read(self) -> ModelFacts | None:
        """The facts, if this model was asked before and nothing changed.

        Raises:
            RecordError: the file that holds them is damaged.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            return ModelFacts.from_json(self._path.read_text())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(
                f"{self._path}: no facts of a model ({error}); remove it, and it is asked again"
            ) from error

    def write(self, facts: ModelFacts, staging: Path) -> None:
        """Write them down; those of a model on the hub are asked for every time."""
        if self._path is not None and not self._path.exists():
            write_atomic(self._path, f"{facts.to_json()}\n".encode(), staging)


def _files_of(model: str) -> list[Any] | None:
    """What tells without reading that a checkpoint is still the same; None: it is on the hub."""
    bundled = Path(batch.__file__).parent / "models" / "demo"
    folder = bundled if model == "demo" else Path(model)
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return [[str(file.resolve()), Stat.of(file.stat())] for file in files]


def _circumstances(settings: IndexSettings, device: str | None, weights: bool) -> list[Any]:
    """What else the facts depend on: this host's devices, and the versions of the tools."""
    devices = sorted(str(file) for name in _ACCELERATORS for file in Path("/dev").glob(name))
    tools = [version(tool) for tool in ("sali-cache", "torch", "transformers")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    model = settings.model
    asked = [model.revision, model.dtype, settings.cache.block_samples, device, weights]
    return [asked, socket.gethostname(), devices, visible, tools]
