from dataclasses import replace

import numpy as np
import pytest

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.manifest import Manifest
from batch.analysis.temporal import TEMPORAL_PROFILES, TemporalSettings
from batch.analysis.tiers import PROFILES
from batch.making.manifests import make_manifests, manifest_paths
from batch.video import Geometry, Sampling, probe
from tests import clips

GEOMETRY = Geometry(height_px=56, width_px=56, rows=4, columns=4)
SETTINGS = AnalysisSettings(
    sampling=Sampling(),
    temporal=TemporalSettings(),
    thresholds=PROFILES["default"],
)


def analyze(path, *, temporal=SETTINGS.temporal, thresholds=SETTINGS.thresholds) -> Manifest:
    settings = replace(SETTINGS, temporal=temporal, thresholds=thresholds)
    return analyze_video(path, GEOMETRY, settings)


def still_with_a_cut(path):
    first, second = clips.texture(56, 56, seed=1), clips.texture(56, 56, seed=2)
    frames = [clips.noisy(first, 3, seed=i) for i in range(3)]
    frames += [clips.noisy(second, 3, seed=i) for i in range(3)]
    return clips.write_clip(path, frames, fps=1)


def test_a_cut_is_kept_and_what_follows_points_to_it(tmp_path):
    manifest = analyze(still_with_a_cut(tmp_path / "cut.mp4"))
    assert manifest.source.tolist() == [0, 0, 0, 3, 3, 3]
    assert manifest.signals.redundancy[3] < 0.5


def test_a_still_stretch_keeps_as_many_samples_as_asked_and_the_rest_point_to_the_last(tmp_path):
    path = still_with_a_cut(tmp_path / "cut.mp4")
    two = analyze(path, temporal=TemporalSettings(still_samples=2))
    assert two.source.tolist() == [0, 1, 1, 3, 4, 4]
    assert two.signals.static[[1, 2, 4, 5]].all()
    assert (two.signals.redundancy[[1, 4]] == 1).all()
    more = analyze(path, temporal=TemporalSettings(still_samples=3))
    assert more.kept.all()


def test_a_slow_drift_is_noticed_though_more_of_a_stretch_is_kept(tmp_path):
    path = slow_fade(tmp_path / "fade.mp4")
    manifest = analyze(path, temporal=TemporalSettings(still_samples=2))
    assert manifest.kept.all()
    changed = ~manifest.signals.static.all(axis=1)
    assert np.flatnonzero(changed).tolist() == [0, 2, 4, 6, 8]


def test_a_small_object_seen_for_one_sample_keeps_it_and_the_return(tmp_path):
    scene = clips.flat(56, 56)
    frames = [clips.noisy(scene, 5, seed=i) for i in range(6)]
    frames[3] = clips.noisy(clips.with_square(scene, top=18, left=32), 5, seed=3)
    manifest = analyze(clips.write_clip(tmp_path / "spark.mp4", frames, fps=1))
    assert manifest.source.tolist() == [0, 0, 0, 3, 4, 4]


def slow_fade(path):
    """Brighter by 6 grey levels a sample: below every threshold, 60 in all."""
    return clips.write_clip(path, [clips.flat(56, 56, (60 + 6 * i,) * 3) for i in range(10)], fps=1)


def test_a_slow_drift_is_noticed_against_the_last_kept_sample(tmp_path):
    manifest = analyze(slow_fade(tmp_path / "fade.mp4"))
    kept = np.flatnonzero(manifest.kept)
    assert kept.tolist() == [0, 2, 4, 6, 8]


def test_a_still_sample_that_is_kept_is_no_new_reference_for_a_slow_drift(tmp_path):
    path = slow_fade(tmp_path / "fade.mp4")
    one = analyze(path)
    two = analyze(path, temporal=TemporalSettings(still_samples=2))
    assert not one.kept.all()
    assert two.kept.all()
    np.testing.assert_array_equal(two.signals.difference, one.signals.difference)


def test_against_the_previous_sample_a_slow_drift_is_never_noticed(tmp_path):
    path = slow_fade(tmp_path / "fade.mp4")
    manifest = analyze(path, temporal=TEMPORAL_PROFILES["paper"])
    assert manifest.source.tolist() == [0] * 10


def test_a_cell_that_drifts_is_compared_with_the_sample_in_which_it_changed_last(tmp_path):
    """Though another cell changes all the time, so that the last kept sample is the one before."""
    frames = [clips.flat(56, 56) + np.uint8(4 * i) for i in range(7)]
    for i, frame in enumerate(frames):
        frame[28:] = clips.texture(28, 56, seed=i)
    path = clips.write_clip(tmp_path / "drift.mp4", frames, fps=1)
    kept, cells = (
        analyze(path, temporal=TemporalSettings(reference=reference))
        for reference in ("kept", "cells")
    )
    assert kept.kept.all()
    assert cells.kept.all()
    assert kept.signals.static[1:, 0].all()
    assert np.flatnonzero(~cells.signals.static[:, 0]).tolist() == [0, 3, 6]
    assert not cells.signals.static[:, -1].any()


def test_pointers_against_the_previous_sample_resolve_to_a_kept_one(tmp_path):
    path = still_with_a_cut(tmp_path / "cut.mp4")
    manifest = analyze(path, temporal=TemporalSettings(reference="previous"))
    assert manifest.source.tolist() == [0, 0, 0, 3, 3, 3]


def test_the_profile_none_keeps_every_sample_whole(tmp_path):
    manifest = analyze(still_with_a_cut(tmp_path / "cut.mp4"), thresholds=PROFILES["none"])
    assert manifest.kept.all()
    assert not manifest.tier.any()


def test_the_first_sample_has_no_change_and_is_not_static(tmp_path):
    manifest = analyze(still_with_a_cut(tmp_path / "cut.mp4"))
    assert not manifest.signals.static[0].any()
    assert manifest.signals.static[1].all()
    assert manifest.signals.redundancy[0] == 0


def test_the_same_video_gives_the_same_manifest(tmp_path):
    path = still_with_a_cut(tmp_path / "cut.mp4")
    assert analyze(path).sha256 == analyze(path).sha256


def run(paths, out, settings=SETTINGS, **options):
    results = make_manifests(paths, out, GEOMETRY, settings, **options)
    return {result.video.name: result for result in results}


def test_a_second_run_skips_what_is_done(tmp_path):
    path = still_with_a_cut(tmp_path / "a.mp4")
    first = run([path], tmp_path / "out")["a.mp4"]
    assert (first.error, first.skipped) == (None, False)
    written = first.manifest.read_bytes()
    second = run([path], tmp_path / "out")["a.mp4"]
    assert (second.error, second.skipped, second.manifest) == (None, True, first.manifest)
    assert second.manifest.read_bytes() == written


def test_a_manifest_of_other_settings_is_only_replaced_by_force(tmp_path):
    path, out = still_with_a_cut(tmp_path / "a.mp4"), tmp_path / "out"
    run([path], out)
    other = replace(SETTINGS, sampling=Sampling(rate_hz=0.5))
    refused = run([path], out, settings=other)["a.mp4"]
    assert "other work; rate_hz: got 1.0, expected 0.5; --force replaces it" in refused.error
    assert refused.manifest is None
    assert len(Manifest.read(out / "a.parquet").frame) == 6
    forced = run([path], out, settings=other, force=True)["a.mp4"]
    assert len(Manifest.read(forced.manifest).frame) == 3


def test_a_manifest_of_another_video_is_only_replaced_by_force(tmp_path):
    path, out = still_with_a_cut(tmp_path / "a.mp4"), tmp_path / "out"
    run([path], out)
    slow_fade(path)
    assert "other work; video: got SHA-256" in run([path], out)["a.mp4"].error
    forced = run([path], out, force=True)["a.mp4"]
    assert Manifest.read(forced.manifest).video.sha256 == probe(path).sha256


def test_one_bad_video_is_reported_and_the_others_are_done(tmp_path):
    good = still_with_a_cut(tmp_path / "good.mp4")
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    results = run([bad, good], tmp_path / "out", processes=2)
    assert "bad.mp4: not a video" in results["bad.mp4"].error
    assert results["bad.mp4"].manifest is None
    assert Manifest.read(results["good.mp4"].manifest).kept.any()


def test_what_of_a_damaged_video_is_missing_is_told_every_time(tmp_path):
    frames = clips.moving(60, height_px=96, width_px=128, step_px=2)
    damaged = clips.write_clip(tmp_path / "damaged.mp4", frames)
    fast = {"deadline": "realtime", "cpu-used": "-8"}  # positive: as fast as the load allows
    cut = clips.write_clip(tmp_path / "cut.webm", frames, codec="libvpx", options=fast)
    whole = run([damaged, cut], tmp_path / "whole").values()
    assert [(result.error, result.warning) for result in whole] == [(None, None)] * 2
    clips.damage(damaged, start=0.5, size_bytes=600)
    clips.truncate(cut, keep=0.6)
    for _ in range(2):
        results = run([damaged, cut], tmp_path / "out")
        assert "broken frames" in results["damaged.mp4"].warning
        assert "cut.webm: only 2.8 s of 6.0 s could be read" in results["cut.webm"].warning
    assert all(result.skipped for result in results.values())


def test_two_videos_of_one_stem_are_refused_before_any_work(tmp_path):
    paths = [tmp_path / "x" / "a.mp4", tmp_path / "y" / "a.mkv"]
    with pytest.raises(ValueError, match=r"x/a\.mp4 and .*y/a\.mkv would both"):
        make_manifests(paths, tmp_path / "out", GEOMETRY, SETTINGS)
    assert manifest_paths(paths[:1], tmp_path) == {paths[0]: tmp_path / "a.parquet"}
    assert not (tmp_path / "out").exists()


def test_a_video_with_the_longest_of_names_gets_a_shorter_one_for_its_manifest(tmp_path):
    names = ["é" * 125 + ".mp4", "é" * 124 + "x.mp4"]
    paths = [still_with_a_cut(tmp_path / name) for name in names]
    results = run(paths, tmp_path / "out")
    assert [result.error for result in results.values()] == [None, None]
    made = {result.manifest.name for result in results.values()}
    assert len(made) == 2
    assert all(len(name.encode()) < 220 and name.startswith("é" * 90) for name in made)
