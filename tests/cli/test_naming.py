"""Which model a command means: none is chosen silently."""

from pathlib import Path

import pytest

from tests import tiny
from tests.cli.running import batch, succeed


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which a person names the model for every command; not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "sali-cache.toml"


@pytest.mark.parametrize("command", ["analyze", "prefill", "index"])
def test_a_command_without_a_model_is_wrong_usage(
    clip: Path, tmp_path: Path, settings: Path, command: str
) -> None:
    what = clip.parent if command == "index" else clip
    result = batch(command, what, "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "name a model: --model" in result.stderr
    assert "SALI_MODEL" in result.stderr
    assert str(settings) in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_file_then_the_environment_then_the_option_name_it(
    clip: Path, tmp_path: Path, settings: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tiny.llava_next(tmp_path / "large", image_px=42)
    command = ("analyze", clip, "--out", tmp_path / "out", "--force")
    settings.write_text(f"model = '{large}'\n")
    assert batch(*command).stderr.startswith(f"model {large} ({settings})\n")
    monkeypatch.setenv("SALI_MODEL", str(model))
    assert batch(*command).stderr.startswith(f"model {model} (SALI_MODEL)\n")
    assert not batch(*command, "--model", large).stderr.startswith("model ")


@pytest.mark.parametrize("text", ["model = 3", "modell = 'x'", "model", "model = 'x'\nfps = 2"])
def test_a_file_of_settings_that_is_none_is_named(
    clip: Path, tmp_path: Path, settings: Path, text: str
) -> None:
    settings.write_text(text)
    result = batch("analyze", clip, "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {settings}: ")


def test_index_remembers_the_model_of_its_caches(
    clip: Path, tmp_path: Path, settings: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.write_text("model = 'demo'\n")
    out = tmp_path / "out"
    succeed("index", clip.parent, "--out", out, "--model", model, "--phase", "analyze")
    assert batch("index", clip.parent, "--out", out, "--phase", "analyze").stderr.startswith(
        "model demo ("  # no caches yet, of which it could be
    )
    succeed("index", clip.parent, "--out", out, "--model", model)
    monkeypatch.setenv("SALI_MODEL", "demo")
    again = batch("index", clip.parent, "--out", out)
    assert again.stderr.startswith(f"model {model} (as the caches in {out})\n")
    assert "1 skipped" in again.stderr


def test_a_model_of_an_unknown_family_is_told_before_it_is_loaded(
    clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    result = batch("analyze", clip, "--out", tmp_path / "out", "--model", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tmp_path}: model_type 'clip' is not supported; supported are int" in result.stderr
