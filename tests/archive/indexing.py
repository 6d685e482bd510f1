"""Runs over an archive without the command line, so that a test says what their workers are."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from batch.analysis.analyze import AnalysisSettings
from batch.archive.identity import IndexSettings, ModelFactsStore
from batch.archive.prefilling import describe
from batch.archive.request import Phase, Request
from batch.archive.run import index
from batch.archive.tally import Tally
from batch.archive.tasks import Describe
from batch.archive.workers import Workers
from batch.errors import Reason
from batch.settings import CacheSettings, ModelSettings
from jobs.shards import Shard
from jobs.stopping import Stop
from tests.archive.handlers import make_light_model_handler

LIGHT = Workers(model=make_light_model_handler)
"""For tests of what is around the model: they do without it."""


@dataclass
class Heard:
    """What a run reported; a listener."""

    files: list[Path] = field(default_factory=list)
    failed_files: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def done(self, path: str, file: Path, record: Mapping[str, Any]) -> None:
        self.files.append(file)

    def failed(self, path: str, reason: Reason, message: str) -> None:
        self.failed_files[path] = message

    def warned(self, message: str) -> None:
        self.warnings.append(message)

    def ticked(self, tally: Tally) -> None: ...


def run_index(
    archive: Path, out: Path, model: Path, workers: Workers = LIGHT, **changes: Any
) -> Heard:
    """One run to its end; `changes` are of the request or of its settings."""
    of_request = {one.name for one in fields(Request)} & changes.keys()
    others = {name: value for name, value in changes.items() if name not in of_request}
    request = Request(
        archive=archive,
        out=out,
        settings=replace(settings_of(model), **others),
        phase=Phase.ALL,
        shard=Shard(),
        jobs=1,
        devices=(None,),
        threads=1,
        rehash=False,
        retry_failed=False,
        max_bytes=None,
    )
    heard = Heard()
    request = replace(request, **{name: changes[name] for name in of_request})
    heard.tally = index(request, Stop(), heard, workers)
    return heard


def settings_of(model: Path) -> IndexSettings:
    """What `batch index --model` asks for without further options."""
    return IndexSettings(
        model=ModelSettings(name=str(model)),
        analysis=AnalysisSettings.of_profile(),
        cache=CacheSettings(),
    )


def remember(model: Path, out: Path, *devices: str) -> Path:
    """Put the facts of a model, for every phase, into a folder of caches, which is returned.

    Runs then need not spend seconds asking it.
    """
    settings = settings_of(model)
    out.mkdir(parents=True, exist_ok=True)
    for weights in (False, True):
        for device in (None, *devices):
            facts = describe(Describe(settings=settings, device=device, weights=weights))
            store = ModelFactsStore(out / "models", settings, device=device, weights=weights)
            store.write(facts, out)
    return out
