"""The metadata of our safetensors files: a header in few bytes, and the seal over it.

Knows bytes and JSON text; no keys of it.
"""

import base64
import hashlib
import itertools
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from cachefmt.header import Fidelity, FormatVersion, VersionError

SEAL_KEY = "seal"
DIGEST_BYTES = 16
"""Of a tensor: XXH3-128."""
MOST_JSON_BYTES = 1 << 20
_MOST_BYTES = 2 * MOST_JSON_BYTES
"""Of deflated JSON with its digests behind it."""

_DIGEST = b"\1"
"""In place of a SHA-256 as a value: no JSON has a control character."""
DICTIONARY = (
    b'{"codec":{"block_samples":16,"calibration":#,"group_layers":1,"name":"klt",'
    b'"quality":"standard","step":0.85,"text_tokens":0},'
    b'"layout":{"computed":0,"next_position":[0],"positions":"compact","slots":0},'
    b'"manifest":{"sha256":#},"model":{"config_sha256":#,"dtype":"float32","family":"llava_next",'
    b'"id":"","revision":null,"weights_sha256":#},"policy":{"name":"default","parameters":'
    b'{"block_samples":8,"reuse":"samples","timestamps":false}},"prompt":{"chat_template_sha256":#,'
    b'"processor_sha256":#},"segment":{"count":1,"first_sample":0,"number":0},"shape":'
    b'{"columns":8,"group_size":64,"head_dim":64,"heads":2,"index_layers":[],"layers":24,'
    b'"position_axes":1,"raw_dtype":"F16","rows":8,"samples":0,"stored_samples":0,"tokens":'
    b'{"FP16":0,"INT4":0,"INT8":0}},"tool":"sali-cache 0.1.0","video":{"name":".mp4","sha256":#}}'
).replace(b"#", _DIGEST)
"""What a header is likely to say. Part of the format: FORMAT.md has it, too."""

_SEAL = f'"{SEAL_KEY}":"'.encode()
"""Before it stand a header in base 85, or of a calibration JSON whose quotes have a backslash:
nothing in them looks like this."""
_BLANK = b"0" * 40
"""In place of a SHA-256 in base 85."""
_FIDELITY = struct.Struct("<ddII")
_SHA256_BYTES = 32
_SHA256 = re.compile(rb'"([0-9a-f]{64})"')
_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9}):")


class Seal(NamedTuple):
    """What of a header is known last; in the file all of it takes a fixed number of bytes.

    - header_sha256: hexadecimal, of the first bytes of the file.
    - fidelity: as of `Header`.
    - digests: of all tensors in the order of the file, DIGEST_BYTES each.
    """

    header_sha256: str
    fidelity: Fidelity | None
    digests: bytes

    def pack(self) -> str:
        fidelity = bytes(_FIDELITY.size)
        if self.fidelity is not None:
            one = self.fidelity
            fidelity = _FIDELITY.pack(one.kl, one.agreement, one.questions, one.tokens)
        return to_text(bytes.fromhex(self.header_sha256) + fidelity + self.digests)

    @classmethod
    def unpack(cls, text: object, tensors: int) -> Self:
        """The seal of a file with so many tensors; ValueError if it is none."""
        start = _SHA256_BYTES + _FIDELITY.size
        expected = start + tensors * DIGEST_BYTES
        data = from_text(text, SEAL_KEY, most_bytes=expected)
        if len(data) != expected:
            raise ValueError(
                f"a {SEAL_KEY} of {len(data)} bytes, expected {start} and {DIGEST_BYTES} for each "
                f"of {tensors} tensors"
            )
        sha256, packed, digests = data[:_SHA256_BYTES], data[_SHA256_BYTES:start], data[start:]
        fidelity = None
        if any(packed):
            kl, agreement, questions, tokens = _FIDELITY.unpack(packed)
            fidelity = Fidelity(kl=kl, agreement=agreement, questions=questions, tokens=tokens)
        return cls(sha256.hex(), fidelity, digests)

    def digest(self, number: int) -> bytes:
        """Of a tensor, by its place in the file."""
        return self.digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]


def sealed(first_bytes: bytes) -> bytes:
    """First bytes (length, JSON, padding) with their SHA-256 filled in, whatever stood there."""
    digest = hashlib.sha256(_with_digest(first_bytes, _BLANK)).digest()
    return _with_digest(first_bytes, to_text(digest).encode())


@contextmanager
def unsealing(first_bytes: bytes) -> Iterator[None]:
    """Read what these first bytes of a file say; ValueError where they do not match their seal.

    Where they do not, that is said behind whatever else is wrong with them: damage may look like
    anything. But a file of another major may be sealed otherwise.
    """
    problem = "the header does not match its seal: it was changed or damaged"
    is_sealed = sealed(first_bytes) == first_bytes
    try:
        yield
    except VersionError:
        raise
    except ValueError as error:
        if is_sealed:
            raise
        raise ValueError(f"{error}; {problem}") from error
    if not is_sealed:
        raise ValueError(problem)


def _with_digest(first_bytes: bytes, digest: bytes) -> bytes:
    start = first_bytes.find(_SEAL) + len(_SEAL)
    return first_bytes[:start] + digest + first_bytes[start + len(digest) :]


def versioned(metadata: Mapping[str, Any], key: str) -> tuple[FormatVersion, str]:
    """The format's version, with which the value of our key in a file's metadata begins, and the
    rest of it.

    Raises:
        VersionError: of another major, whose rest, and other keys, may be anything.
        ValueError: no version; or other keys.
    """
    value = metadata[key]
    found = _VERSION.match(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            f"metadata key {key!r} must be a string that begins with a version, as 2.0:"
        )
    version = FormatVersion(major=int(found[1]), minor=int(found[2]))
    if metadata.keys() != {key, SEAL_KEY}:
        raise ValueError(f"has the metadata keys {sorted(metadata)}, expected {[key, SEAL_KEY]}")
    return version, value[found.end() :]


def shorten(text: str) -> str:
    """The JSON of a header as it stands in the file; ValueError if it is too long.

    Digests do not deflate: they stand behind the rest, in half of their hexadecimal digits' bytes.
    """
    data = text.encode()
    if len(data) > MOST_JSON_BYTES:
        raise ValueError(f"the header has {len(data)} bytes, at most {MOST_JSON_BYTES} fit")
    digests = b"".join(bytes.fromhex(digits.decode()) for digits in _SHA256.findall(data))
    made = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    return to_text(made.compress(_SHA256.sub(_DIGEST, data)) + made.flush() + digests)


def lengthen(text: str, key: str) -> str:
    """What `shorten` got; ValueError if it made no such value of a key."""
    found = zlib.decompressobj(-15, DICTIONARY)
    try:
        data = found.decompress(from_text(text, key, most_bytes=_MOST_BYTES), MOST_JSON_BYTES)
    except zlib.error as error:
        raise ValueError(f"metadata key {key!r}: {error}") from error
    first, *others = data.split(_DIGEST)
    digests = found.unused_data
    if not found.eof or len(digests) != _SHA256_BYTES * len(others):
        raise ValueError(f"metadata key {key!r} is no deflated header")
    starts = range(0, len(digests), _SHA256_BYTES)
    written = (f'"{digests[at : at + _SHA256_BYTES].hex()}"'.encode() for at in starts)
    return b"".join([first, *itertools.chain(*zip(written, others, strict=True))]).decode()


def to_text(data: bytes) -> str:
    """Base 85; of it no character needs a backslash in JSON."""
    return base64.b85encode(data).decode()


def from_text(text: object, key: str, *, most_bytes: int) -> bytes:
    """What `to_text` got, as the value of a metadata key; ValueError if it made no such text.

    More bytes than that are refused unread: Python decodes a megabyte a second, in 30 times the
    memory.
    """
    if not isinstance(text, str):
        raise ValueError(f"metadata key {key!r} must be a string")
    size_bytes = len(text) * 4 // 5
    if size_bytes > most_bytes:
        raise ValueError(
            f"metadata key {key!r} has {size_bytes} bytes, expected {most_bytes} at most"
        )
    data = base64.b85decode(text)
    if to_text(data) != text:
        raise ValueError(f"metadata key {key!r} is not in base 85")
    return data
