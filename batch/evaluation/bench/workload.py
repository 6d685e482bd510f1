"""The models that are measured, each with its films, and the ways from a film to an answer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.manifest import Manifest
from batch.answering import PrefixAnswerer
from batch.demo.run import draw_film
from batch.errors import ModelError
from batch.evaluation.bench.random_models import half_billion, seven_billion
from batch.making.destination import Destination
from batch.making.maker import CacheMaker
from batch.models import Family, OpenModel, open_family
from batch.settings import CacheSettings
from cachefmt import CacheFile
from jobs.disk_space import Allowance

PROFILE = "default"


@dataclass(frozen=True, kw_only=True)
class Size:
    """One model and its share of the work."""

    name: str
    about: str
    """What of it is true to a published model and what is not."""
    open: Callable[[Path], Family]
    """Opens the model, without weights; may write into the folder."""
    films: int = 1
    samples: int = 16
    """Of each film."""
    answer_tokens: int = 4
    """Of an answer, which random weights never end earlier. 4 is the length of the mean answer to
    a demo question (3.4 with its end, 200 films)."""
    rows: int = 8192
    """Rows behind which a decode step is measured."""
    load_tokens: int = 32_768
    """Tokens in the file whose loading is measured: the decoder's context, the longest prefix it
    can use."""
    lengths: tuple[int, ...] = (1, 4)
    """How often the first film runs in the videos, shortest first, whose peaks are compared."""
    device: str = "cpu"
    dtype: str = "float32"
    """Of all but the decode steps, which are in bfloat16."""


SIZES = {
    "demo": Size(
        name="demo",
        about="the bundled model and the films of batch demo",
        open=lambda folder: open_family("demo"),
        films=3,
        answer_tokens=64,
        load_tokens=4096,
        lengths=(1, 4, 16),
    ),
    "0.5b": Size(
        name="0.5b",
        about="true decoder of LLaVA-OneVision-0.5B, random weights, 2 vision layers of 27",
        open=half_billion,
    ),
    "7b": Size(
        name="7b",
        about="true shape of LLaVA-1.6-Mistral-7B, random weights, on a GPU",
        open=seven_billion,
        rows=32_768,
        device="cuda",
        dtype="bfloat16",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Film:
    """A drawn film, where its cache goes, and what can be asked about it."""

    path: Path
    questions: list[str]

    @property
    def cache(self) -> Path:
        return self.path.with_suffix(".safetensors")


class Workload:
    """A loaded model and the films it is measured on."""

    def __init__(self, size: Size, folder: Path) -> None:
        """Load the model and draw the films into the folder.

        Raises:
            ModelError: torch cannot use the size's device here.
        """
        self.size = size
        self.family: Family = size.open(folder)
        if size.device == "cuda" and not torch.cuda.is_available():
            raise ModelError(
                f"size {size.name} is measured on a GPU, and torch {torch.__version__} sees none "
                "here; the other sizes run on the CPU:  batch bench --size demo --size 0.5b"
            )
        self.family.load(device=size.device, dtype=getattr(torch, size.dtype))
        self.films = []
        for number in range(size.films):
            path = folder / f"film{number}.mp4"
            asked = draw_film(path, number, size.samples)
            self.films.append(Film(path=path, questions=[question.text for question in asked]))

    def compress(self, film: Film) -> Manifest:
        """Analyse a film and prefill: all of `batch prefill`."""
        manifest = write_manifest(film.path, self.family)
        size = self.size
        write_cache(film.path, manifest, self.family, device=size.device, dtype=size.dtype)
        return manifest

    def answerer(self, film: Film) -> PrefixAnswerer:
        """Open the cache of a film for questions, checked as `batch answer` checks it."""
        with CacheFile.open(film.cache) as cache:
            cache.verify_tables()
            return PrefixAnswerer.of_cache(cache, self.family)


def load_demo() -> Family:
    """Load the bundled model."""
    family = open_family("demo")
    family.load(device="cpu", dtype=torch.float32)
    return family


def write_manifest(film: Path, family: Family) -> Manifest:
    """Analyse a film for a model; the manifest lies beside it."""
    manifest = analyze_video(film, family.geometry, AnalysisSettings.of_profile(PROFILE))
    manifest.write(film.with_suffix(".parquet"))
    return manifest


def write_cache(
    film: Path, manifest: Manifest, family: Family, *, device: str = "cpu", dtype: str = "float32"
) -> Path:
    """Prefill an analysed film as `batch prefill` does; its cache, a file or a folder, lies beside.

    Args:
        device: where the family is loaded.
    """
    model = OpenModel(family=family, device=device, dtype=dtype, attention="auto")
    destination = Destination.named(film.parent, film.stem, force=True)
    room = Allowance(folder=film.parent, quota_left=None)
    return CacheMaker(model, CacheSettings()).make(manifest, destination, room=room).path
