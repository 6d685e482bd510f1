"""The manifest that a cache was made of. Knows where commands put it; knows no rows."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from batch.analysis.manifest import Manifest
from batch.analysis.tiers import PROFILES
from batch.errors import ManifestError
from cachefmt import Header


def find_manifest(path: Path, header: Header) -> Manifest:
    """The manifest that a cache was made of, beside it or in its archive, as its budget raised it.

    Args:
        path: of the cache, its file or its folder of segments.

    Raises:
        ManifestError: it is in none of these places.
    """
    times = float(header.policy.parameters.get("threshold_scale", 1))
    for file in _places(path, header):
        with suppress(ManifestError):
            manifest = Manifest.read(file)
            if manifest.sha256 == header.manifest.sha256:
                return manifest.raised(times)
            if header.policy.name in PROFILES:  # tiers were given anew when it was prefilled
                manifest = manifest.with_tiers(header.policy.name)
                if manifest.sha256 == header.manifest.sha256:
                    return manifest.raised(times)
    raise ManifestError(
        f"{path}: the manifest it was made of, {header.manifest.sha256[:8]}, is not at "
        f"{path.with_suffix('.parquet')}, nor in an archive around it, and nothing "
        f"else holds its pictures. Make it again:  batch analyze --out {path.parent} "
        f"{header.video.name}"
    )


def _places(path: Path, header: Header) -> Iterator[Path]:
    yield path.with_suffix(".parquet")
    for folder in path.absolute().parents:
        yield from sorted(folder.glob(f"analyses/*/manifests/*/{header.video.sha256}.parquet"))
