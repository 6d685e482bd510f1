"""IDs of what is made of a video: the same exactly as long as the same would be made."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from batch.analysis.neural import SaliencyNetwork
from batch.archive.identity import IndexSettings, ModelFacts, Products
from batch.archive.store import Store
from batch.video import Geometry
from tests.archive.indexing import settings_of

MODEL = ModelFacts(
    name="tiny",
    revision=None,
    geometry=Geometry(height_px=56, width_px=56, rows=4, columns=4),
    config_sha256="c",
    processor_sha256="p",
    chat_template_sha256="t",
    weights_sha256="w",
    dtype="float32",
)


def products(settings: IndexSettings, out: Path) -> Products:
    return Products.of(settings, MODEL, Store(out))


def with_network(sha256: str, path: str) -> IndexSettings:
    settings = settings_of(Path("tiny"))
    network = SaliencyNetwork(sha256=sha256, path=Path(path))
    return replace(settings, analysis=replace(settings.analysis, saliency=network))


def ids(made: Products) -> tuple[str, str]:
    assert made.caches is not None
    return made.manifests.id, made.caches.id


def test_a_network_is_part_of_manifests_and_caches_and_where_it_lies_is_not(
    tmp_path: Path,
) -> None:
    plain = ids(products(settings_of(Path("tiny")), tmp_path))
    one, moved, other = (
        ids(products(with_network(*named), tmp_path))
        for named in (("a" * 64, "here"), ("a" * 64, "there"), ("b" * 64, "here"))
    )
    assert one == moved
    for found in zip(plain, one, other, strict=True):
        assert len(set(found)) == 3


@pytest.mark.parametrize("is_asked", [False, True])
def test_what_is_written_down_names_a_network_only_if_there_is_one(
    tmp_path: Path, is_asked: bool
) -> None:
    settings = with_network("a" * 64, "here") if is_asked else settings_of(Path("tiny"))
    (_, written), _ = products(settings, tmp_path).settings
    known = set(asdict(settings.analysis)) - {"saliency"}
    added = {"model", "revision", "geometry", "manifest_version"}
    assert set(written) == known | added | ({"saliency_sha256"} if is_asked else set())
