"""The header of a cache file: what was cached, by what, and in which shape.

Knows JSON, no bytes on disk: those are in layout.py.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cachefmt.strict_json import build, dump_canonical, load_strict
from cachefmt.tiers import STORED_TIERS

MAJOR = 2
MINOR = 0
ZERO_DIGEST = "0" * 64
RAW_DTYPES = ("F16", "BF16", "F32")
POSITIONS = ("original", "compact")
CODECS = ("plain", "klt")
QUALITIES = ("lossless", "high", "standard", "small", "custom")
LARGEST_VECTOR = 1 << 15
"""Numbers of a token in a group of layers of `klt`; bounds what a basis takes in memory."""

_BESIDE = ("format", "fidelity", "digests", "header_sha256")
"""What of a header does not stand in its JSON."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def default_group_size(head_dim: int) -> int:
    """Channels that share a scale: 64 if that divides head_dim, else all of it."""
    size = min(64, head_dim)
    return size if head_dim % size == 0 else head_dim


def _require_digest(name: str, value: Any) -> None:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{name} must be 64 lower-case hexadecimal digits, got {value!r}")


def _require_at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


class VersionError(ValueError):
    """A file of a format that this version does not read; it may be whole."""


@dataclass(frozen=True, kw_only=True)
class FormatVersion:
    """Version of the file format."""

    major: int = MAJOR
    minor: int = MINOR

    def __post_init__(self) -> None:
        if self.major != MAJOR:
            newer, older = "a newer sali-cache can read it", "`batch prefill` writes it again"
            raise VersionError(
                f"written in format {self}, this reader knows {MAJOR}.{MINOR}; "
                f"{newer if self.major > MAJOR else older}"
            )
        _require_at_least(0, "format.minor", self.minor)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class _Identity:
    """Refuses a digest that is none; in errors it is called as in the header."""

    def __post_init__(self) -> None:
        section = type(self).__name__.removesuffix("Identity").lower()
        for name, value in vars(self).items():
            if name.endswith("sha256"):
                _require_digest(f"{section}.{name}", value)


@dataclass(frozen=True, kw_only=True)
class ModelIdentity(_Identity):
    """The model that computed the keys and values; only the same one can use them."""

    id: str
    revision: str | None
    family: str
    config_sha256: str
    weights_sha256: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class PromptIdentity(_Identity):
    """What turned samples and text into the prompt."""

    processor_sha256: str
    chat_template_sha256: str


@dataclass(frozen=True, kw_only=True)
class VideoIdentity(_Identity):
    """The video, known by its content; the name is for people."""

    sha256: str
    name: str


@dataclass(frozen=True, kw_only=True)
class ManifestIdentity(_Identity):
    """The manifest that the file was planned from."""

    sha256: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Which part of the video the file is about; a short video is one segment."""

    number: int
    """0, 1, ... in order of time."""
    count: int
    """Segments of the whole video."""
    first_sample: int
    """Sample of the video that is sample 0 of the file."""

    def __post_init__(self) -> None:
        for name in ("number", "first_sample"):
            _require_at_least(0, f"segment.{name}", getattr(self, name))
        _require_at_least(self.number + 1, "segment.count", self.count)
        if self.number == 0 and self.first_sample != 0:
            raise ValueError(
                f"segment.first_sample of segment 0 must be 0, got {self.first_sample}"
            )


WHOLE_VIDEO = Segment(number=0, count=1, first_sample=0)


@dataclass(frozen=True, kw_only=True)
class PolicyIdentity:
    """The way the tokens and their tiers were chosen."""

    name: str
    parameters: Mapping[str, int | float | str | bool]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes that fix every tensor of the file. head_dim and group_size count channels."""

    layers: int
    heads: int
    head_dim: int
    group_size: int
    raw_dtype: str
    position_axes: int
    samples: int
    stored_samples: int
    """Samples that are no pointers."""
    rows: int
    columns: int
    tokens: Mapping[str, int]
    """Stored tokens by the name of their tier: FP16, INT8, INT4."""
    index_layers: tuple[int, ...]
    """Layers whose keys the index bounds; none: the file cannot be searched."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "head_dim", "group_size", "position_axes"):
            _require_at_least(1, f"shape.{name}", getattr(self, name))
        for name in ("samples", "stored_samples", "rows", "columns"):
            _require_at_least(0, f"shape.{name}", getattr(self, name))
        if self.stored_samples > self.samples:
            raise ValueError(
                f"shape.stored_samples must be at most {self.samples}, got {self.stored_samples}"
            )
        layers = self.index_layers
        if list(layers) != sorted(set(layers)) or not all(0 <= at < self.layers for at in layers):
            raise ValueError(
                f"shape.index_layers must be rising and below {self.layers}, got {list(layers)}"
            )
        if self.head_dim % 2 or self.head_dim % self.group_size:
            raise ValueError(
                "shape.head_dim must be even and a multiple of shape.group_size, "
                f"got {self.head_dim} and {self.group_size}"
            )
        if self.raw_dtype not in RAW_DTYPES:
            raise ValueError(f"shape.raw_dtype must be one of {RAW_DTYPES}, got {self.raw_dtype!r}")
        if set(self.tokens) != {tier.name for tier in STORED_TIERS}:
            names = ", ".join(tier.name for tier in STORED_TIERS)
            raise ValueError(f"shape.tokens must name {names}, got {sorted(self.tokens)}")
        for name, count in self.tokens.items():
            _require_at_least(0, f"shape.tokens.{name}", count)

    @property
    def token_count(self) -> int:
        return sum(self.tokens.values())

    @property
    def layer_numbers(self) -> int:
        """Numbers of a token in one layer, K and V."""
        return 2 * self.heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the tokens stood in the full prompt, and where the question goes on."""

    slots: int
    """Slots of the full prefix, before anything was dropped."""
    computed: int
    """Tokens that entered the language model; rows of the others were made of theirs."""
    positions: str
    next_position: tuple[int, ...]
    """Position of the question's first token, one number per axis."""

    def __post_init__(self) -> None:
        for name in ("slots", "computed"):
            _require_at_least(0, f"layout.{name}", getattr(self, name))
        if self.positions not in POSITIONS:
            raise ValueError(f"layout.positions must be one of {POSITIONS}, got {self.positions!r}")


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How keys and values lie in the file: in which blocks, and encoded how."""

    name: str
    """`plain`, the rows of tiers as memory has them, or `klt`."""
    quality: str
    step: float | None = None
    """Of the quantiser of `klt`."""
    group_layers: int
    """Layers of a block; the last group may have fewer."""
    block_samples: int
    """Stored samples of a block; the last one may have fewer."""
    calibration: str | None = None
    """SHA-256 of the calibration file that blocks of `klt` need; None: the basis is in the file."""
    text_tokens: int = 0
    """First tokens, whose rows are in the calibration and not in the file."""

    def __post_init__(self) -> None:
        for what, value, known in (
            ("name", self.name, CODECS),
            ("quality", self.quality, QUALITIES),
        ):
            if value not in known:
                raise ValueError(f"codec.{what} must be one of {known}, got {value!r}")
        is_plain = self.name == "plain"
        if is_plain != (self.quality == "lossless") or is_plain != (self.step is None):
            raise ValueError(
                f"codec.quality {self.quality!r} with codec.step {self.step} is none of "
                f"{self.name!r}: plain is lossless and has no step"
            )
        if self.step is not None and not 0 < self.step < math.inf:
            raise ValueError(f"codec.step must be positive and finite, got {self.step}")
        for name in ("group_layers", "block_samples"):
            _require_at_least(1, f"codec.{name}", getattr(self, name))
        _require_at_least(0, "codec.text_tokens", self.text_tokens)
        if self.calibration is not None:
            _require_digest("codec.calibration", self.calibration)
        if (is_plain and self.calibration) or (self.text_tokens and not self.calibration):
            raise ValueError(
                f"codec.calibration {self.calibration} does not fit {self.name!r} with "
                f"{self.text_tokens} codec.text_tokens"
            )

    @property
    def has_bases(self) -> bool:
        """Whether the file holds the bases of its blocks itself."""
        return self.name == "klt" and self.calibration is None


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How answers from the file differ from those from exact keys and values, as measured."""

    kl: float
    """Mean Kullback-Leibler divergence a token, nats."""
    agreement: float
    """Share of tokens that are likeliest both ways."""
    questions: int
    tokens: int
    """What both are means over."""

    def __post_init__(self) -> None:
        if not 0 <= self.kl < math.inf:
            raise ValueError(f"fidelity.kl must be finite and at least 0, got {self.kl}")
        if not 0 <= self.agreement <= 1:
            raise ValueError(f"fidelity.agreement must be in 0..1, got {self.agreement}")
        for name in ("questions", "tokens"):
            _require_at_least(1, f"fidelity.{name}", getattr(self, name))
            if getattr(self, name) >= 1 << 32:
                raise ValueError(f"fidelity.{name} must be below 2^32, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything about a cache file but its tensors.

    The first stands before its JSON, the last three in the file's seal; a writer leaves `digests`
    and `header_sha256` None.
    """

    format: FormatVersion = FormatVersion()
    tool: str
    model: ModelIdentity
    prompt: PromptIdentity
    video: VideoIdentity
    manifest: ManifestIdentity
    segment: Segment
    policy: PolicyIdentity
    shape: Shape
    layout: Layout
    codec: Codec
    fidelity: Fidelity | None = None
    digests: bytes | None = None
    """XXH3-128 of each tensor's bytes in the order of the file."""
    header_sha256: str | None = None

    def __post_init__(self) -> None:
        if len(self.layout.next_position) != self.shape.position_axes:
            raise ValueError(
                f"layout.next_position needs {self.shape.position_axes} numbers, "
                f"got {len(self.layout.next_position)}"
            )
        if self.shape.token_count > self.layout.slots:
            raise ValueError(
                f"{self.shape.token_count} tokens do not fit {self.layout.slots} slots"
            )
        if self.layout.computed > self.shape.token_count:
            raise ValueError(
                f"layout.computed must be at most {self.shape.token_count}, "
                f"got {self.layout.computed}"
            )
        samples, rows, columns = self.shape.samples, self.shape.rows, self.shape.columns
        if samples * rows * columns > self.layout.slots:
            raise ValueError(
                f"{samples} samples of shape.rows x shape.columns = {rows} x {columns} cells do "
                f"not fit {self.layout.slots} slots"
            )
        self._check_codec()
        if self.header_sha256 is not None:
            _require_digest("header_sha256", self.header_sha256)

    def _check_codec(self) -> None:
        codec, shape = self.codec, self.shape
        if codec.group_layers > shape.layers:
            raise ValueError(
                f"codec.group_layers must be at most {shape.layers}, got {codec.group_layers}"
            )
        vector = codec.group_layers * shape.layer_numbers
        if codec.name == "klt" and vector > LARGEST_VECTOR:
            raise ValueError(
                f"codec.group_layers {codec.group_layers} are {vector} numbers a token, "
                f"at most {LARGEST_VECTOR} fit a basis"
            )
        if codec.text_tokens > shape.token_count:
            raise ValueError(
                f"codec.text_tokens must be at most {shape.token_count}, got {codec.text_tokens}"
            )

    @property
    def block_count(self) -> int:
        """Blocks of each group of layers; at least one."""
        return max(1, -(-self.shape.stored_samples // self.codec.block_samples))

    @property
    def group_count(self) -> int:
        return -(-self.shape.layers // self.codec.group_layers)

    def groups(self) -> list[range]:
        """The layers of each group."""
        layers, size = self.shape.layers, self.codec.group_layers
        return [range(first, min(first + size, layers)) for first in range(0, layers, size)]

    @property
    def fp16_kv_bytes(self) -> int:
        """FP16 K and V of all slots, pruned or not: what every compression is measured against."""
        return 4 * self.layout.slots * self.shape.layers * self.shape.heads * self.shape.head_dim

    def to_json(self) -> str:
        """Canonical JSON of all that it holds; ValueError for a number not finite."""
        parts = dataclasses.asdict(self)
        return dump_canonical({name: parts[name] for name in parts if name not in _BESIDE})

    @classmethod
    def from_json(cls, text: str, version: FormatVersion) -> "Header":
        """Read what `to_json` wrote in a version of the format.

        ValueError for no JSON, or a key or value that FORMAT.md does not have.
        """
        value = load_strict(text)
        if isinstance(value, dict):
            for name in value.keys() & set(_BESIDE):
                raise ValueError(f"unknown key header.{name}")
            value = value | dict.fromkeys(_BESIDE) | {"format": dataclasses.asdict(version)}
        return build(cls, value, "header")
