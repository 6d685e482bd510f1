"""What decides the content of manifests and caches: settings and the model; and the IDs of both.

Facts of a model are remembered while its files stay the same: asking the model itself takes
seconds and half a gigabyte (torch), too much for a run without new videos. Imports no torch.
"""

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, get_args

from batch.analysis.analyze import AnalysisSettings
from batch.analysis.header import VERSION as MANIFEST_VERSION
from batch.archive.inventory import Stat
from batch.archive.store import ProductFolder, Store
from batch.settings import CacheSettings, Dtype, ModelSettings, checkpoint_folder
from batch.version import __version__
from batch.video import DynamicGeometry, Geometry, GeometryRule
from cachefmt import FormatVersion, ModelIdentity, PromptIdentity
from jobs.atomic import write_atomic
from jobs.errors import RecordError

_RULES: Mapping[str, type[Geometry] | type[DynamicGeometry]] = {
    rule.__name__: rule for rule in (Geometry, DynamicGeometry)
}
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg")


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """All that decides what the cache of a given video holds.

    Of the model, `device` is each worker's own, and `attention` changes rounding only; neither is
    part of the identity. A cache that does not fit the memory is made of smaller blocks than
    asked for: its record says of which, and it counts as done, for its rows differ as little as
    between any two block sizes.
    """

    model: ModelSettings
    analysis: AnalysisSettings
    cache: CacheSettings


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A checkpoint's identity and how it is run; from the weights on None for an analysis alone."""

    name: str
    revision: str | None
    geometry: GeometryRule
    config_sha256: str
    processor_sha256: str
    chat_template_sha256: str
    weights_sha256: str | None
    dtype: str | None

    @property
    def identity(self) -> tuple[ModelIdentity, PromptIdentity]:
        """As files have it; a ValueError if only an analysis was to be made."""
        model = ModelIdentity(
            id=self.name,
            revision=self.revision,
            family="",
            config_sha256=self.config_sha256,
            weights_sha256=self.weights_sha256 or "",
            dtype=self.dtype or "",
        )
        prompt = PromptIdentity(
            processor_sha256=self.processor_sha256, chat_template_sha256=self.chat_template_sha256
        )
        return model, prompt


@dataclass(frozen=True, kw_only=True)
class Products:
    """What is made of every video, and where it goes.

    `caches` and `dtype`, in which the model runs, are None if only analysis was asked for. IDs are
    digests of all that decides the content; what the model was called is for people and changes
    nothing.
    """

    model: ModelFacts
    analysis: AnalysisSettings
    rule: GeometryRule
    manifests: ProductFolder
    caches: ProductFolder | None
    dtype: str | None
    settings: tuple[tuple[ProductFolder, Mapping[str, Any]], ...]

    @classmethod
    def of(cls, chosen: IndexSettings, model: ModelFacts, store: Store) -> Self:
        """Decide it; a dtype that nobody chose stays that of the first machine that worked here."""
        about = {"model": model.name, "revision": model.revision}
        decided: dict[str, Any] = {
            **_analysis_facts(chosen.analysis),
            "geometry": _rule_facts(model.geometry),
            "manifest_version": MANIFEST_VERSION,
        }
        manifests, caches, dtype = store.manifests(_digest(decided)), None, None
        settings = [(manifests, about | decided)]
        if model.weights_sha256 is not None:
            version = FormatVersion()
            decided = {
                **asdict(chosen.cache),
                "analysis": manifests.id,
                "config_sha256": model.config_sha256,
                "weights_sha256": model.weights_sha256,
                "processor_sha256": model.processor_sha256,
                "chat_template_sha256": model.chat_template_sha256,
                "dtype": model.dtype,
                "format": f"{version.major}.{version.minor}",
            }
            if chosen.model.dtype is None:
                decided["dtype"] = _first_dtype(decided, store)
            caches, dtype = store.caches(_digest(decided)), decided["dtype"]
            settings.append((caches, about | decided))
        return cls(
            model=model,
            analysis=chosen.analysis,
            rule=model.geometry,
            manifests=manifests,
            caches=caches,
            dtype=dtype,
            settings=tuple(settings),
        )

    def write_settings(self, staging: Path) -> None:
        """Write down in each folder what its ID stands for."""
        for folder, settings in self.settings:
            folder.write_settings(settings, staging)


def _first_dtype(decided: Mapping[str, Any], store: Store) -> str:
    """That of the first caches which differ in nothing else, or the one decided for this machine.

    Machines of other kinds have other defaults; an archive is to be done once, not once for each.
    """
    for caches in store.all_caches():
        there = caches.read_settings()
        is_same = all(there.get(name) == decided[name] for name in decided.keys() - {"dtype"})
        if is_same and there.get("dtype") in get_args(Dtype):
            return str(there["dtype"])
    return str(decided["dtype"])


def _digest(value: Any) -> str:
    """Sixteen hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _analysis_facts(analysis: AnalysisSettings) -> dict[str, Any]:
    """Of a network its digest alone; without one nothing, as IDs were before there were any."""
    facts = asdict(analysis)
    del facts["saliency"]
    digest = analysis.saliency_sha256
    return facts if digest is None else {**facts, "saliency_sha256": digest}


def _rule_facts(rule: GeometryRule) -> dict[str, Any]:
    return {"rule": type(rule).__name__, **asdict(rule)}


class ModelFactsStore:
    """Facts of a model that was asked before, in a folder, which need not exist.

    `device` is as the person named it; `weights`: whether their identity is needed.
    """

    def __init__(
        self, folder: Path, settings: IndexSettings, *, device: str | None, weights: bool
    ) -> None:
        files = _files_of(settings.model.name)
        circumstances = _circumstances(settings, device, weights)
        self._path = None if files is None else folder / f"{_digest([files, circumstances])}.json"

    def read(self) -> ModelFacts | None:
        """The facts, if this model was asked before and nothing changed."""
        if self._path is None or not self._path.exists():
            return None
        try:
            facts = json.loads(self._path.read_text())
            geometry = facts.pop("geometry")
            rule = _RULES[geometry.pop("rule")](**geometry)
            return ModelFacts(geometry=rule, **facts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(
                f"{self._path}: no facts of a model ({error}); remove it, and it is asked again"
            ) from error

    def write(self, facts: ModelFacts, staging: Path) -> None:
        """Write them down, unless they are of a model on the hub, which is asked every time."""
        if self._path is not None and not self._path.exists():
            values = {**facts.__dict__, "geometry": _rule_facts(facts.geometry)}
            write_atomic(self._path, f"{json.dumps(values, sort_keys=True)}\n".encode(), staging)


def _files_of(model: str) -> list[Any] | None:
    """What changes when a checkpoint does, without reading it; None: it is on the hub."""
    folder = checkpoint_folder(model)
    if folder is None:
        return None
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return [[str(file.resolve()), Stat.of(file.stat())] for file in files]


def _circumstances(settings: IndexSettings, device: str | None, weights: bool) -> list[Any]:
    """What else the facts depend on: this host's devices, and the versions of the tools."""
    devices = sorted(str(file) for name in _ACCELERATORS for file in Path("/dev").glob(name))
    tools = [__version__, version("torch"), version("transformers")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    model = settings.model
    asked = [model.revision, model.dtype, device, weights]
    return [asked, socket.gethostname(), devices, visible, tools]
