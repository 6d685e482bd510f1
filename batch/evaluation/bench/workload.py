"""The models that are measured, each with its films, and the ways from a film to an answer."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.manifest import Manifest
from batch.answering import PrefixAnswerer
from batch.demo.run import draw_film
from batch.errors import ModelError
from batch.evaluation.training.checkpoint import (
    PATCH_PX,
    SPECIAL,
    llava_config,
    new_processor,
    new_tokenizer,
)
from batch.making.destination import Destination
from batch.making.maker import CacheMaker
from batch.models import Checkpoint, Family, OpenModel, open_checkpoint, open_family, open_model
from batch.models.llava_next import LlavaNext
from batch.models.placement import Device, first_device
from batch.settings import CacheSettings, ModelSettings
from cachefmt import CacheFile
from jobs.disk_space import Allowance

PROFILE = "default"


@dataclass(frozen=True)
class _RandomCheckpoint(Checkpoint):
    """A checkpoint whose weights are drawn from seed 0, not read; by a GPU they are others."""

    @cached_property
    def weights_sha256(self) -> str:
        return hashlib.sha256(b"random weights, seed 0").hexdigest()

    def load_weights(self, *, dtype: torch.dtype, device: Device) -> PreTrainedModel:
        torch.manual_seed(0)
        with first_device(device):  # seven billion weights take minutes on the CPU
            model: PreTrainedModel = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]  # untyped in 5.23
                self.config, dtype=dtype
            )
        return model


_DECODER: dict[str, Any] = {
    "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "pad_token_id": SPECIAL.index("<pad>"),
    "bos_token_id": SPECIAL.index("<s>"),
    "eos_token_id": SPECIAL.index("</s>"),
}
"""What both decoders have, and the demo's special tokens."""


def _half_billion(folder: Path) -> Family:
    """LLaVA-1.6 around the decoder of LLaVA-OneVision-0.5B.

    The decoder is Qwen2-0.5B's, vocabulary included; a sample has OneVision's 14x14 cells. The
    vision tower is SigLIP's width (1,152) with 2 layers where the real one has 27, so both ways
    are charged less for pictures than they would be.

    Source: config.json of llava-hf/llava-onevision-qwen2-0.5b-ov-hf.
    """
    decoder = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **_DECODER,
    )
    tower = {"hidden_size": 1152, "intermediate_size": 4304, "projection_dim": 1152}
    return _llava(folder, decoder, tower, layers=2, cells=14, vision_layer=-1)


def _seven_billion(folder: Path) -> Family:
    """LLaVA-1.6-Mistral-7B's own shape; its tower, CLIP ViT-L/14 at 336 px, gives 24x24 cells.

    Source: config.json of llava-hf/llava-v1.6-mistral-7b-hf.
    """
    decoder = MistralConfig(
        vocab_size=32_064,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        sliding_window=None,
        **_DECODER,
    )
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "projection_dim": 768}
    return _llava(folder, decoder, tower, layers=24, cells=24, vision_layer=-2)


def tiny_llava(folder: Path, layers: int) -> Family:
    """Seven billion's family with so many layers, small enough to be run operation by operation."""
    decoder = MistralConfig(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=None,
        **_DECODER,
    )
    tower = {"hidden_size": 32, "intermediate_size": 32, "projection_dim": 32}
    return _llava(folder, decoder, tower, layers=2, cells=2, vision_layer=-2)


def _llava(
    folder: Path,
    decoder: PreTrainedConfig,
    tower: dict[str, Any],
    *,
    layers: int,
    cells: int,
    vision_layer: int,
) -> Family:
    """Write and open a LLaVA-1.6 with cells x cells a sample, which knows only the demo's words."""
    side_px = cells * PATCH_PX
    vision = CLIPVisionConfig(
        **tower,
        num_hidden_layers=layers,
        num_attention_heads=16,
        image_size=side_px,
        patch_size=PATCH_PX,
    )
    config = llava_config(vision, decoder, side_px=side_px, vision_layer=vision_layer)
    config.save_pretrained(folder)
    new_processor(new_tokenizer(), side_px).save_pretrained(folder)
    files = open_checkpoint(str(folder))
    parts = {part.name: getattr(files, part.name) for part in fields(files)}
    return LlavaNext(_RandomCheckpoint(**parts))


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
    long_samples: int = 64
    """Of the long film."""
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
    needs_gpu: bool = False


Measured = tuple[dict[str, float], dict[str, Any]]
"""Ratios, and the figures behind them."""

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
        open=_half_billion,
    ),
    "7b": Size(
        name="7b",
        about="true shape of LLaVA-1.6-Mistral-7B, random weights, on a GPU",
        open=_seven_billion,
        rows=32_768,
        needs_gpu=True,
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

    def __init__(self, size: Size, folder: Path, where: ModelSettings | None = None) -> None:
        """Load the model and draw the films.

        Args:
            where: device and dtype, in all but the decode steps, which are in bfloat16; None and
                what it leaves open is as for all commands.

        Raises:
            ModelError: torch cannot use the device, or sees no GPU for a size that needs one.
        """
        self.size, self._folder = size, folder
        opened = replace(open_model(where or ModelSettings()), family=size.open(folder))
        self.device = first_device(opened.device).type
        self.dtype = opened.dtype
        if size.needs_gpu and self.device != "cuda":
            raise ModelError(
                f"size {size.name} is measured on a GPU, got {self.device} (torch "
                f"{torch.__version__}); the other sizes run on the CPU:  "
                "batch bench --size demo --size 0.5b"
            )
        self.family: Family = opened.load()
        # Times and memory do not depend on what positions mean to a model, and some of what is
        # measured is longer than the context it was trained for.
        self.family.config.get_text_config(decoder=True).max_position_embeddings = 1 << 20
        self.films = [self._draw(f"film{number}", number) for number in range(size.films)]

    @cached_property
    def long_film(self) -> Film:
        return self._draw("long_film", 0, self.size.long_samples)

    def _draw(self, name: str, number: int, samples: int | None = None) -> Film:
        path = self._folder / f"{name}.mp4"
        asked = draw_film(path, number, samples or self.size.samples)
        return Film(path=path, questions=[question.text for question in asked])

    def compress(self, film: Film) -> Manifest:
        """Analyse a film and prefill: all of `batch prefill`."""
        manifest = self.analyze(film)
        self.prefill(film, manifest)
        return manifest

    def analyze(self, film: Film) -> Manifest:
        return write_manifest(film.path, self.family)

    def prefill(self, film: Film, manifest: Manifest) -> None:
        write_cache(film.path, manifest, self.family, device=self.device, dtype=self.dtype)

    def answerer(self, film: Film) -> PrefixAnswerer:
        """Load the cache of a film for questions, as `batch answer` does."""
        with CacheFile.open(film.cache) as cache:
            return PrefixAnswerer.of_cache(cache, self.family)

    def answer_from_file(self, film: Film) -> None:
        """Answer the first question about a film, from opening its cache on."""
        answered = self.answerer(film).ask_all(
            film.questions[:1], max_new_tokens=self.size.answer_tokens
        )
        list(answered)


def load_demo() -> Family:
    """Load the bundled model."""
    return open_model(ModelSettings(device="cpu", dtype="float32")).load()


def write_manifest(film: Path, family: Family) -> Manifest:
    """Analyse a film for a model; the manifest lies beside it."""
    manifest = analyze_video(film, family.geometry, AnalysisSettings.of_profile(PROFILE))
    manifest.write(film.with_suffix(".parquet"))
    return manifest


def write_cache(
    film: Path, manifest: Manifest, family: Family, *, device: str = "cpu", dtype: str = "float32"
) -> Path:
    """Prefill an analysed film as `batch prefill` does; the cache, file or folder, lies beside."""
    model = OpenModel(family=family, device=device, dtype=dtype, attention="auto")
    destination = Destination.named(film.parent, film.stem, force=True)
    room = Allowance(folder=film.parent, quota_left=None)
    return CacheMaker(model, CacheSettings()).make(manifest, destination, room=room).path
