"""What a GPU would take for a model's work, from bytes, products and launches: a model of time.

A phase takes what its memory traffic or its products take, whichever is longer, or what it takes
to launch it, if that is longer still: the device works while the host launches. Bytes and products
come from shapes and from real plans of drawn films, launches from `counting`. Nothing here is
measured but the decoding and analysis of the films, on the processor of this machine.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from batch.demo.run import draw_film
from batch.evaluation.bench.attention import BLOCK_SAMPLES
from batch.evaluation.bench.counting import Counts, count_work, launches_per_layer
from batch.evaluation.bench.decoding import DTYPE
from batch.evaluation.bench.workload import Size, write_manifest
from batch.evaluation.measuring import timed
from batch.making.cache_plan import CachePlan, plan_cache
from batch.models import Family
from batch.settings import CacheSettings
from batch.video import Sampling, geometry_for, probe, read_samples
from cachefmt.header import Shape
from cachefmt.layout import kv_bytes
from cachefmt.tiers import Tier, token_counts

QUESTION_TOKENS, ANSWER_TOKENS = 24, 4


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What a GPU does in a second, and what it takes to tell it.

    Source: data sheets of H100 and H200 (SXM) say 3.35 and 4.8 TB/s and 989 TFLOP/s of dense
    bfloat16, of which large products reach about four fifths. A launch from Python takes 5 us and
    more, so what is launched one by one is flattered. One thread that copies from mapped into
    pinned memory is assumed to do 10 GB/s.
    """

    bytes_per_s: float = 4e12
    flops_per_s: float = 800e12
    launch_s: float = 5e-6
    host_bytes_per_s: float = 10e9


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What work moves and multiplies at once: products overlap with traffic."""

    size_bytes: float
    flops: float


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The sizes of a decoder and of its vision tower that work follows from."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    weights: int
    """Of all layers; each token multiplies with each once."""
    activations: int
    """Numbers that a token needs at once in the largest layer."""
    tower_flops: float
    """Of one picture."""

    @classmethod
    def of(cls, family: Family) -> "Decoder":
        text, vision = family.config.get_text_config(decoder=True), family.config.vision_config
        shape = family.decoder
        width, inner = text.hidden_size, text.intermediate_size
        attention = 2 * width * shape.head_dim * (text.num_attention_heads + shape.heads)
        patches = (vision.image_size // vision.patch_size) ** 2 + 1
        of_patch = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
        return cls(
            layers=shape.layers,
            heads=text.num_attention_heads,
            kv_heads=shape.heads,
            head_dim=shape.head_dim,
            weights=shape.layers * (attention + 3 * width * inner),
            activations=4 * width + 3 * inner,
            tower_flops=2 * vision.num_hidden_layers * patches * of_patch
            + 4 * vision.num_hidden_layers * patches**2 * vision.hidden_size,
        )

    def run(self, tokens: int) -> Demand:
        """All but attention, of tokens that run together."""
        weights = self.weights * DTYPE.itemsize
        return Demand(size_bytes=weights, flops=2 * self.weights * tokens)

    def attend(self, tokens: int, rows: float, row_bytes: float) -> Demand:
        """Attention of all layers from each token to so many rows, each read once a layer."""
        flops = 4 * self.layers * self.heads * self.head_dim * tokens * rows
        return Demand(size_bytes=self.layers * rows * row_bytes, flops=flops)

    def see(self, pictures: int) -> Demand:
        return Demand(size_bytes=0, flops=pictures * self.tower_flops)

    @property
    def plain_row_bytes(self) -> int:
        """Of a row of one layer in bfloat16."""
        return 2 * self.kv_heads * self.head_dim * DTYPE.itemsize


class TimeModel:
    """Seconds of the phases of one model on one kind of GPU."""

    def __init__(self, decoder: Decoder, counted: dict[str, Counts], gpu: Gpu) -> None:
        self._decoder, self._counted, self._gpu = decoder, counted, gpu

    def seconds(self, works: Sequence[Demand], launches: float = 0) -> float:
        """Of works in a row; without launches they are replayed as a graph."""
        gpu = self._gpu
        device = (max(w.size_bytes / gpu.bytes_per_s, w.flops / gpu.flops_per_s) for w in works)
        return max(sum(device), launches * gpu.launch_s)

    def step(self, rows: int, row_bytes: float, *, graph: bool) -> float:
        """A decode step behind rows in tiers."""
        works = [self._decoder.run(1), self._decoder.attend(1, rows, row_bytes)]
        return self.seconds(works, 0 if graph else self._launches("step"))

    def plain_step(self, rows: int) -> float:
        """As transformers 5.23 runs it: all rows are copied to append one, and read again."""
        attended = self._decoder.attend(1, rows, 3 * self._decoder.plain_row_bytes)
        return self.seconds([self._decoder.run(1), attended], self._launches("plain_step"))

    def question(self, rows: int, row_bytes: float) -> float:
        """Its own tokens at once, then those of its answer one by one."""
        works = []
        for tokens in (QUESTION_TOKENS, *[1] * (ANSWER_TOKENS - 1)):
            works += [self._decoder.run(tokens), self._decoder.attend(tokens, rows, row_bytes)]
        return self.seconds(works, self._launches("question"))

    def plain_question(self, rows: int) -> float:
        return ANSWER_TOKENS * self.plain_step(rows)

    def prefill(self, plan: CachePlan) -> float:
        """Block by block, from pictures to rows; each block decodes the rows before it."""
        total = 0.0
        row_bytes = self.row_bytes(plan.header.shape)
        for block in plan.plan.blocks(plan.block_samples):
            tokens, before = block.stop - block.start, block.start
            pictures = len(set(plan.plan.sample[block][plan.plan.cell[block] >= 0]))
            works = [
                self._decoder.see(pictures),
                self._decoder.run(tokens),
                self._decode(before, row_bytes),
                self._decoder.attend(tokens, before + tokens / 2, self._decoder.plain_row_bytes),
            ]
            total += self.seconds(works, self._launches("block"))
        return total

    def plain_prefill(self, slots: int, pictures: int) -> float:
        decoder = self._decoder
        attended = decoder.attend(slots, slots / 2, decoder.plain_row_bytes)
        works = [decoder.see(pictures), decoder.run(slots), attended]
        return self.seconds(works, self._launches("plain_prefill"))

    def peak_bytes(self, plan: CachePlan) -> float:
        """Most memory of a prefill above the weights: its rows, and a block of a plain one."""
        blocks = plan.plan.blocks(plan.block_samples)
        longest = max(block.stop - block.start for block in blocks)
        return kv_bytes(plan.header.shape) + self.plain_peak_bytes(longest)

    def plain_peak_bytes(self, slots: int) -> float:
        """K and V of all layers, and what one layer needs at once; nothing quadratic."""
        decoder = self._decoder
        of_slot = decoder.layers * decoder.plain_row_bytes + decoder.activations * DTYPE.itemsize
        return slots * of_slot

    def attention_block(self, queries: int, rows: int, row_bytes: float) -> float:
        """A block's attention over stored rows, as a ratio to that over decoded ones."""
        plain = self._decoder.attend(queries, rows, self._decoder.plain_row_bytes)
        return self.seconds([self._decode(rows, row_bytes), plain]) / self.seconds([plain])

    def load(self, file_bytes: int) -> float:
        return file_bytes / self._gpu.host_bytes_per_s

    def row_bytes(self, shape: Shape) -> float:
        """Of the mean row of one layer."""
        return kv_bytes(shape) / shape.layers / max(1, shape.token_count)

    def _decode(self, rows: float, row_bytes: float) -> Demand:
        """Rows of all layers, read as stored and written in the compute dtype."""
        moved = row_bytes + self._decoder.plain_row_bytes
        return Demand(size_bytes=self._decoder.layers * rows * moved, flops=0)

    def _launches(self, name: str) -> int:
        return self._counted[name].of(self._decoder.layers).launches


def model_times(size: Size) -> dict[str, Any]:
    """Ratios of the suite `tiers`, and seconds behind them, as a GPU is expected to give them."""
    gpu, counted = Gpu(), count_work()
    ratios: dict[str, float] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        family = size.open(Path(folder))
        family.config.get_text_config(decoder=True).max_position_embeddings = 1 << 20
        model = TimeModel(Decoder.of(family), counted, gpu)
        for suffix, samples in (("", size.samples), ("_64", size.long_samples)):
            found, took, plan = _film(model, family, Path(folder, f"film{suffix}.mp4"), samples)
            ratios |= {f"{name}{suffix}": value for name, value in found.items()}
            seconds |= {f"{name}{suffix}": value for name, value in took.items()}
    ratios |= _steps(model, size.rows, plan.header.shape)
    ratios["launches_per_layer"] = launches_per_layer(counted)
    return {"size": size.name, "gpu": asdict(gpu), "ratios": ratios, "seconds": seconds}


def _film(
    model: TimeModel, family: Family, path: Path, samples: int
) -> tuple[dict[str, float], dict[str, float], CachePlan]:
    """Ratios and seconds of one film, and its plan."""
    draw_film(path, 0, samples)
    analyze_s, manifest = timed(lambda: write_manifest(path, family))
    geometry = geometry_for(family.geometry, probe(path), Sampling())
    decode_s, _ = timed(lambda: list(read_samples(path, geometry=geometry)))
    settings = CacheSettings(block_samples=BLOCK_SAMPLES, quality="lossless")
    plan = plan_cache(manifest, family, settings, dtype="bfloat16")
    shape, slots = plan.header.shape, plan.header.layout.slots
    rows, row_bytes = shape.token_count, model.row_bytes(shape)
    prefill, plain = model.prefill(plan), model.plain_prefill(slots, samples)
    question = model.question(rows, row_bytes)
    from_file = model.load(plan.size_bytes) + model.step(rows, row_bytes, graph=False) + question
    from_video = decode_s + plain + model.plain_question(slots)
    ratios = {
        "prefill_time": (analyze_s + prefill) / (decode_s + plain),
        "prefill_time_gpu": prefill / plain,
        "first_answer_speedup": from_video / from_file,
        "first_answer_overhead": from_file / question,
        "prefill_peak_memory": model.peak_bytes(plan) / model.plain_peak_bytes(slots),
        "question_steps": question / model.step(rows, row_bytes, graph=False),
    }
    seconds = {
        "analyze_measured": analyze_s,
        "decode_measured": decode_s,
        "prefill": prefill,
        "plain_prefill": plain,
        "load": model.load(plan.size_bytes),
        "question": question,
    }
    return ratios, seconds, plan


def _steps(model: TimeModel, rows: int, shape: Shape) -> dict[str, float]:
    """Of a decode step and of a block, behind rows of INT4."""
    int4 = model.row_bytes(replace(shape, tokens=token_counts({Tier.INT4: rows})))
    plain = model.plain_step(rows)
    queries = BLOCK_SAMPLES * shape.rows * shape.columns
    return {
        "decode_step": model.step(rows, int4, graph=False) / plain,
        "decode_step_graph": model.step(rows, int4, graph=True) / plain,
        "attention_block": model.attention_block(queries, rows, int4),
    }
