"""One model with its films, and the two ways from a film to an answer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.manifest import Manifest
from batch.answering import Answer, PrefixAnswerer
from batch.demo.clip import write_clip
from batch.demo.questions import ask
from batch.demo.show import HELD_OUT
from batch.demo.world import imagine
from batch.errors import ModelError
from batch.evaluation.bench.sizes import Size
from batch.evaluation.uncompressed import Uncompressed
from batch.making.blocks import prefill
from batch.making.cache_plan import CachePlan, plan_cache
from batch.models import Family
from batch.video import Footage, Sampling, geometry_for, probe, read_samples
from cachefmt import CacheFile

PROFILE = "default"


@dataclass(frozen=True, kw_only=True)
class Film:
    """A drawn film, where its cache goes, and what can be asked about it."""

    path: Path
    questions: list[str]

    @property
    def cache(self) -> Path:
        return self.path.with_suffix(".safetensors")


class Subject:
    """A loaded model and the films it is measured on."""

    def __init__(self, size: Size, folder: Path) -> None:
        """Load the model and draw the films into the folder.

        Raises:
            ModelError: torch cannot use the size's device here.
        """
        self.size = size
        self.family: Family = size.open(folder)
        _check_device(size)
        self.family.load(device=size.device, dtype=getattr(torch, size.dtype))
        self.films = [_draw(folder, number, size.samples) for number in range(size.films)]
        # All films are drawn in one size.
        film = probe(self.films[0].path)
        self._geometry = geometry_for(self.family.geometry, film, Sampling())

    def compress(self, film: Film) -> CachePlan:
        """Analyse a film, write its manifest, prefill, write its cache: all of `batch prefill`."""
        self.family.attend_over_tiers()
        manifest = self.analyze(film)
        manifest.write(film.path.with_suffix(".parquet"))
        work = plan_cache(manifest, self.family, dtype=self.size.dtype)
        prefill(work, self.family, film.cache)
        return work

    def analyze(self, film: Film) -> Manifest:
        """Decode a film and measure its samples."""
        return analyze_video(
            film.path,
            self.family.geometry,
            AnalysisSettings.of_profile(PROFILE),
        )

    def uncompressed(self, film: Film) -> Uncompressed:
        """Decode a film and run transformers' own forward (SDPA) over all its slots."""
        geometry = self._geometry
        pictures = np.stack([sample.rgb for sample in read_samples(film.path, geometry=geometry)])
        return Uncompressed(self.family, pictures, Footage.steady(geometry, len(pictures)))

    def answerer(self, film: Film) -> PrefixAnswerer:
        """Open the cache of a film for questions, checked as `batch answer` checks it."""
        self.family.attend_over_tiers()
        with CacheFile.open(film.cache) as cache:
            cache.verify_tables()
            return PrefixAnswerer.of_cache(cache, self.family)

    def answer_from_file(self, film: Film) -> Answer:
        """Open the cache of a film and answer its first question."""
        most = self.size.answer_tokens
        return next(self.answerer(film).ask_all(film.questions[:1], max_new_tokens=most))


def _check_device(size: Size) -> None:
    if size.device == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"size {size.name} is measured on a GPU, and torch {torch.__version__} sees none here; "
            "the other sizes run on the CPU:  batch bench --size demo --size 0.5b"
        )


def _draw(folder: Path, number: int, samples: int) -> Film:
    rng = np.random.default_rng([HELD_OUT, number])
    world = imagine(rng, samples)
    path = folder / f"film{number}.mp4"
    write_clip(world, path)
    return Film(path=path, questions=[question.text for question in ask(world, rng)])
