"""Facts of a model as runs remember them, so that runs of tests need not spend seconds asking."""

from pathlib import Path

from batch.archive.describing import describe
from batch.archive.model_facts import ModelFactsStore
from batch.archive.settings import IndexSettings
from batch.archive.tasks import Describe
from batch.video import Sampling


def settings_of(model: Path) -> IndexSettings:
    """What `batch index --model` asks for without further options."""
    return IndexSettings(
        model=str(model),
        revision=None,
        offline=False,
        dtype=None,
        profile="default",
        sampling=Sampling(),
        reference=None,
        positions="compact",
        pointers="multiplicity",
        timestamps=False,
        block_samples=None,
        attn="auto",
    )


def remember(model: Path, out: Path, *devices: str) -> Path:
    """Put the facts for every phase into a folder of caches, which is returned."""
    settings = settings_of(model)
    out.mkdir(parents=True, exist_ok=True)
    for weights in (False, True):
        for device in (None, *devices):
            facts = describe(Describe(settings=settings, device=device, weights=weights))
            store = ModelFactsStore(out / "models", settings, device=device, weights=weights)
            store.write(facts, out)
    return out
