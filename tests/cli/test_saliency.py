"""`--saliency` of every command that analyses: what it needs, and where the network arrives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.analysis.analyze import AnalysisSettings
from batch.analysis.neural import SaliencyNetwork
from tests import clips, networks
from tests.cli.running import batch


@pytest.fixture
def words(tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """The least of each command."""
    out = ("--out", tmp_path / "out", "--model", "demo")
    clips.write_clip(tmp_path / "clip.mp4", [clips.flat(48, 64)])
    return {
        "analyze": ("analyze", tmp_path / "clip.mp4", *out),
        "prefill": ("prefill", tmp_path / "clip.mp4", *out),
        "index": ("index", tmp_path, *out),
        "evaluate": ("evaluate",),
    }


@pytest.mark.parametrize("name", ["analyze", "prefill", "index", "evaluate"])
def test_a_network_goes_with_neural_saliency_and_the_other_way_round(
    words: dict[str, tuple[object, ...]], tmp_path: Path, name: str
) -> None:
    alone = batch(*words[name], "--saliency", "neural")
    assert (alone.exit_code, alone.stdout) == (2, "")
    assert "--saliency neural needs --saliency-model FILE" in alone.stderr
    network = networks.write_network(tmp_path / "net.onnx")
    unused = batch(*words[name], "--saliency-model", network)
    assert (unused.exit_code, unused.stdout) == (2, "")
    assert "--saliency-model goes with --saliency neural" in unused.stderr
    assert not (tmp_path / "out").exists()


def test_a_network_that_cannot_be_used_fails_the_command_before_any_video(
    model: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks.install(monkeypatch)
    chosen = ("--saliency", "neural", "--saliency-model")
    out = ("--out", tmp_path / "out", "--model", model)
    bad = networks.write_network(tmp_path / "bad.onnx", "1")
    result = batch("analyze", clip, *out, *chosen, bad)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {bad}: is no network for saliency" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_network_reaches_the_processes_that_analyse(
    model: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks.install(monkeypatch)
    network = networks.write_network(tmp_path / "net.onnx")
    seen: list[AnalysisSettings] = []

    def make_manifests(*given: Any, **options: Any) -> Iterator[Any]:
        seen.append(given[3])
        return iter(())

    monkeypatch.setattr("batch.making.manifests.make_manifests", make_manifests)
    out = ("--out", tmp_path / "out", "--model", model)
    for name in ("analyze", "prefill"):
        batch(name, clip, *out, "--saliency", "neural", "--saliency-model", network)
    assert [settings.saliency for settings in seen] == [SaliencyNetwork.of(network)] * 2
