"""Calibrations made of videos: what is in them, what does not end them, and who makes them."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batch.analysis.manifest import Manifest
from batch.errors import ManifestError, ModelError
from batch.making import calibrating, fitting
from batch.making.cache_plan import plan_cache
from batch.making.calibrating import Calibrator, count_in, most_tokens
from batch.making.computing import allocate, compute, keep, unrotated
from batch.making.manifests import make_manifest as analyze
from batch.models import OpenModel, open_model
from batch.settings import CacheSettings, ModelSettings
from cachefmt.calibration import Calibration
from cachefmt.calibration_files import calibration_path
from tests import tiny
from tests.clips import moving, write_clip
from tests.manifests import geometry_of, make_manifest, random_pictures
from tests.tiny import qwen

VIDEOS, SAMPLES = 4, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.llava_next(tmp_path_factory.mktemp("models") / "tiny", image_px=42)


@pytest.fixture(scope="module")
def model(folder: Path) -> OpenModel:
    return open_model(ModelSettings(name=str(folder), dtype="float32"))


def video(model: OpenModel, seed: int, samples: int = SAMPLES) -> Manifest:
    geometry = geometry_of(model.family)
    return make_manifest(random_pictures(samples, geometry, seed), geometry)


@pytest.fixture(scope="module")
def videos(model: OpenModel) -> list[Manifest]:
    return [video(model, seed) for seed in range(VIDEOS)]


@pytest.fixture(scope="module")
def calibration(
    model: OpenModel, videos: list[Manifest], tmp_path_factory: pytest.TempPathFactory
) -> Calibration:
    return calibrated(model, videos, tmp_path_factory.mktemp("fitted"))


def draw_clip(path: Path, *, height_px: int, width_px: int, seed: int = 0) -> Path:
    drawn = moving(20, height_px=height_px, width_px=width_px, step_px=2, seed=seed)
    return write_clip(path, drawn)


def calibrated(
    model: OpenModel, videos: list[Manifest], folder: Path, **settings: Any
) -> Calibration:
    calibrator = Calibrator(model, CacheSettings(), **settings)
    for one in videos:
        calibrator.add(one)
    path = calibration_path(folder, "tiny")
    assert calibrator.publish(path)
    assert [file.name for file in folder.iterdir() if file != path] == []
    return Calibration.open(path)


def states_of(model: OpenModel, manifest: Manifest) -> tuple[Tensor, NDArray[np.int64]]:
    """Unrotated keys and values of all tokens, and the place of each."""
    planned = plan_cache(manifest, model.load(), CacheSettings(block_samples=2), dtype="float32")
    prefix = allocate(planned, model.family)
    layers = range(model.family.decoder.layers)
    found = []
    with torch.inference_mode(), closing(compute(planned, model.family, prefix)) as blocks:
        for computed in blocks:
            found.append(unrotated(computed, planned, model.family, layers).clone())
            keep(computed.cache, planned.plan.tier[computed.block])
    return torch.cat(found), planned.tables.places(planned.header.shape)


def test_it_knows_the_mean_of_each_place_and_the_directions_of_what_varies(
    model: OpenModel, videos: list[Manifest], calibration: Calibration
) -> None:
    geometry = geometry_of(model.family)
    found = [states_of(model, one) for one in videos]
    x, place = torch.cat([states for states, _ in found]), np.concatenate([at for _, at in found])
    (basis,) = calibration.bases(geometry.rows, geometry.columns)
    by = basis.scale[:, :, None, None]
    for one in np.unique(place[place >= 0]):
        mean = x[torch.from_numpy(place == one)].mean(0)
        off = (basis.mean[one].view(mean.shape) - mean) / by
        assert off.abs().max() < 0.2
    inside = torch.from_numpy(place >= 0)
    again = basis.synthesise(basis.analyse(x[inside], place[place >= 0]), place[place >= 0])
    lost = ((again - x[inside]) / by).square().mean()
    assert lost < 0.02
    assert calibration.header.tokens == int(inside.sum())
    assert 0 < basis.components < basis.vector


def test_the_rows_of_the_text_before_every_video_are_those_of_any_other(
    model: OpenModel, calibration: Calibration
) -> None:
    x, place = states_of(model, video(model, seed=99))
    text = int(np.argmax(place >= 0))
    assert text == len(calibration.header.text_ids) > 0
    torch.testing.assert_close(calibration.text_rows.float(), x[:text], atol=2e-3, rtol=2e-3)


def test_no_more_components_than_are_asked_for_and_large_vectors_by_a_sketch(
    model: OpenModel, videos: list[Manifest], tmp_path: Path, calibration: Calibration
) -> None:
    few = calibrated(model, videos, tmp_path, components=8)
    assert few.header.shape.components == (8,)
    assert few.header.most_components == 8
    (exact,), (sketched,) = (one.bases(3, 3) for one in (calibration, few))
    first, found = (nn.functional.normalize(one.directions) for one in (exact, sketched))
    assert ((first[:2] @ found.T).square().sum(1) > 0.9).all()


def test_layers_share_a_basis_as_long_as_their_numbers_are_not_too_many(
    model: OpenModel, videos: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "LARGEST_VECTOR", 40)
    found = calibrated(model, videos, tmp_path)
    assert found.header.shape.group_layers == 1
    assert [basis.vector for basis in found.bases(3, 3)] == [32, 32]


def test_what_was_saved_is_gone_on_with_to_the_same_bytes(
    model: OpenModel, videos: list[Manifest], calibration: Calibration, tmp_path: Path
) -> None:
    saved = tmp_path / ".part"
    first = Calibrator(model, CacheSettings())
    for one in videos[:2]:
        first.add(one)
    first.save(saved)
    second = Calibrator(model, CacheSettings(quality="small"))
    assert second.resume(saved, videos)
    assert [second.has(one) for one in videos] == [True, True, False, False]
    for one in videos[2:]:
        second.add(one)
    path = tmp_path / "resumed"
    second.publish(path)
    assert path.read_bytes() == calibration.path.read_bytes()


def test_what_was_saved_of_other_settings_or_cut_off_is_begun_anew(
    model: OpenModel, videos: list[Manifest], tmp_path: Path
) -> None:
    saved = tmp_path / ".part"
    first = Calibrator(model, CacheSettings())
    first.add(videos[0])
    first.save(saved)
    others = [
        Calibrator(model, CacheSettings(positions="original")),
        Calibrator(model, CacheSettings(), components=7),
    ]
    assert not any(other.resume(saved, videos) for other in others)
    assert not Calibrator(model, CacheSettings()).resume(saved, videos[1:])
    whole = saved.read_bytes()
    again = Calibrator(model, CacheSettings())
    for damaged in (whole[:-1], whole.replace(b"0.product", b"0.produkt"), whole[:8]):
        saved.write_bytes(damaged)
        assert not again.resume(saved, videos)
        assert (again.tokens, again.videos) == (0, [])
    assert not again.resume(tmp_path / "missing", videos)
    first.save(saved)
    assert again.resume(saved, videos)  # nothing of the damaged ones is left in it
    assert again.tokens == first.tokens


def test_one_video_that_cannot_be_used_does_not_stop_the_others(
    model: OpenModel, videos: list[Manifest], tmp_path: Path
) -> None:
    damaged = replace(videos[1], pictures=[b"no picture"] * SAMPLES)
    paths = [tmp_path / f"{number}.parquet" for number in range(4)]
    for path, one in zip(paths, [videos[0], damaged, videos[2]], strict=False):
        one.write(path)
    calibrator, failed = Calibrator(model, CacheSettings()), dict[Path, Exception]()
    count_in(calibrator, paths, failed=failed.__setitem__)
    assert list(failed) == [paths[1], paths[3]]
    assert all(isinstance(error, ManifestError) for error in failed.values())
    assert len(calibrator.videos) == 2
    per_video = calibrator.tokens // 2
    assert calibrator.tokens == 2 * per_video > 0
    cells = geometry_of(model.family).cells
    assert most_tokens(paths) == 3 * SAMPLES * cells


def test_only_the_first_samples_of_a_long_video_count(
    model: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "SAMPLES_OF_A_VIDEO", 3)
    long, short = Calibrator(model, CacheSettings()), Calibrator(model, CacheSettings())
    long.add(video(model, seed=1, samples=9))
    short.add(video(model, seed=1, samples=3))
    assert long.tokens == short.tokens


def test_rows_of_reused_cells_are_not_counted_in(model: OpenModel) -> None:
    geometry = geometry_of(model.family)
    still = make_manifest(random_pictures(9, geometry), geometry, source=[0, 1, *[1] * 7])
    calibrator, other = (Calibrator(model, CacheSettings(reuse=way)) for way in ("cells", "none"))
    calibrator.add(still)
    other.add(still)
    assert calibrator.tokens == other.tokens


def test_a_video_that_does_not_fit_the_context_counts_by_its_first_segment(
    tmp_path: Path,
) -> None:
    narrow = open_model(
        ModelSettings(name=str(tiny.llava_next(tmp_path / "m", context=300)), dtype="float32")
    )
    calibrator = Calibrator(narrow, CacheSettings())
    calibrator.add(video(narrow, seed=1, samples=20))
    assert 0 < calibrator.tokens < 20 * geometry_of(narrow.family).cells


def test_without_memory_for_a_block_smaller_ones_are_taken(
    model: OpenModel, videos: list[Manifest]
) -> None:
    def harm_above(most: int) -> Callable[[int], None]:
        def progress(samples: int) -> None:
            if samples > most:
                raise MemoryError

        return progress

    calibrator = Calibrator(model, CacheSettings())
    calibrator.add(videos[0], progress=harm_above(1))
    assert calibrator.has(videos[0])
    undisturbed = Calibrator(model, CacheSettings())
    undisturbed.add(videos[0])
    assert (calibrator.tokens, calibrator.videos) == (undisturbed.tokens, undisturbed.videos)
    with pytest.raises(MemoryError, match="a block of one sample does not fit"):
        calibrator.add(videos[1], progress=harm_above(0))
    assert not calibrator.has(videos[1])


def test_videos_of_other_shapes_share_one_mean(tmp_path: Path) -> None:
    model = open_model(
        ModelSettings(name=str(qwen.qwen2_vl(tmp_path / "qwen", most_px=400)), dtype="float32")
    )
    wide, high = (
        write_clip(
            tmp_path / f"{height}.mp4", moving(20, height_px=height, width_px=width, step_px=2)
        )
        for height, width in ((32, 64), (64, 32))
    )
    manifests = [
        Manifest.read(analyze(clip, tmp_path, model=ModelSettings(name=str(tmp_path / "qwen"))))
        for clip in (wide, high)
    ]
    grids = [(one.geometry.rows, one.geometry.columns) for one in manifests]
    assert grids[0] != grids[1]
    (tmp_path / "out").mkdir()
    found = calibrated(model, manifests, tmp_path / "out")
    assert (found.header.shape.rows, found.header.shape.columns) == grids[0]
    x, place = states_of(model, manifests[1])
    (basis,) = found.bases(*grids[1])
    assert len(basis.mean) == 1
    mean = x[torch.from_numpy(place >= 0)].mean(0)
    off = (basis.mean[0].view(mean.shape) - mean) / basis.scale[:, :, None, None]
    assert off.abs().max() < 0.2


def test_a_model_whose_keys_cannot_be_moved_takes_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(ModelSettings(name=str(folder)))
    text = model.family.config.get_text_config(decoder=True)
    monkeypatch.setattr(text, "rope_parameters", {"rope_type": "dynamic", "rope_theta": 10000.0})
    with pytest.raises(ModelError, match="it takes no calibration"):
        Calibrator(model, CacheSettings())


def test_of_two_processes_that_make_it_at_once_the_first_one_has_it(
    folder: Path, tmp_path: Path
) -> None:
    clips = [
        write_clip(
            tmp_path / f"{seed}.mp4", moving(20, height_px=48, width_px=64, step_px=2, seed=seed)
        )
        for seed in range(4)
    ]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "batch", "calibrate", "--model", folder, "--out", out]
    both = [
        subprocess.Popen(
            [*map(str, command), *map(str, part)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for part in (clips[:2], clips[2:])
    ]
    said = [process.communicate()[1].decode() for process in both]
    path = calibration_path(out, folder.name)
    made = {one.name for one in Calibration.open(path).header.videos}
    assert made in ({"0.mp4", "1.mp4"}, {"2.mp4", "3.mp4"})
    assert [process.returncode for process in both].count(0) >= 1, said
    assert not list(out.glob(".*"))
