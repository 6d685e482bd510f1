import json
import os
import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.analysis.analyze import AnalysisSettings, analyze_video
from batch.analysis.manifest import Manifest, read_header
from batch.analysis.pictures import ROWS_TOGETHER
from batch.analysis.temporal import TemporalSettings
from batch.analysis.tiers import PROFILES, TierThresholds
from batch.errors import ManifestError
from batch.video import Geometry, Sampling
from cachefmt.tiers import Tier
from tests import clips
from tests.manifests import make_manifest, random_pictures

GEOMETRY = Geometry(height_px=56, width_px=56, rows=4, columns=4)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    """Five samples: a scene, twice still, an object, the object again."""
    scene = clips.texture(56, 56, contrast=20)
    changed = clips.with_square(scene, top=20, left=20, side=9)
    frames = [scene, scene, scene, changed, changed]
    path = clips.write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames, fps=1)
    return analyze_video(
        path,
        GEOMETRY,
        AnalysisSettings(
            sampling=Sampling(), temporal=TemporalSettings(), thresholds=PROFILES["default"]
        ),
    )


@pytest.fixture
def written(manifest, tmp_path):
    path = tmp_path / "clip.parquet"
    manifest.write(path)
    return path


def test_footage_tells_a_prompt_when_samples_were_taken_and_how_long_the_video_is(manifest):
    footage = manifest.footage.select(manifest.kept)
    assert (footage.geometry, footage.interval_s, footage.duration_s) == (GEOMETRY, 1.0, 5.0)
    assert footage.index.tolist() == [0, 3]
    assert (footage.pts_s.tolist(), footage.last_pts_s.tolist()) == ([0, 3], [0, 3])


def test_a_manifest_is_read_back_as_it_was_written(manifest, written):
    read = Manifest.read(written)
    assert replace(read.header, video=manifest.video) == manifest.header
    assert read.video == replace(manifest.video, path=read.video.path)
    assert read.video.name == "clip.mp4"
    assert list(read.pictures) == list(manifest.pictures)
    for name in ("frame", "pts_s", "tier"):
        assert np.array_equal(getattr(read, name), getattr(manifest, name))
    for name in ("flow_px", "difference", "saliency", "static", "redundancy", "source"):
        assert np.array_equal(getattr(read.signals, name), getattr(manifest.signals, name))
    assert read.analyze_seconds == pytest.approx(manifest.analyze_seconds, abs=1e-3)


def test_pointers_and_multiplicity_tell_what_stands_for_what(manifest):
    assert manifest.source.tolist() == [0, 0, 0, 3, 3]
    assert manifest.kept.tolist() == [True, False, False, True, False]
    assert manifest.multiplicity.tolist() == [3, 0, 0, 2, 0]
    assert (manifest.tier[1] == Tier.PRUNE).all()


def test_the_file_opens_with_arrow_alone_and_has_the_columns_of_the_contract(written):
    table = pq.read_table(written)
    assert {field.name: str(field.type) for field in table.schema} == {
        "sample": "int32",
        "frame": "int64",
        "pts_s": "double",
        "last_pts_s": "double",
        "redundancy": "float",
        "source": "int32",
        "flow_px": "fixed_size_list<element: float>[16]",
        "difference": "fixed_size_list<element: float>[16]",
        "saliency": "fixed_size_list<element: float>[16]",
        "tier": "fixed_size_list<element: uint8>[16]",
        "picture": "binary",
    }
    assert table["flow_px"].to_pylist() == [None] * 5  # the differences tell all
    assert [row is None for row in table["difference"].to_pylist()] == [True] + [False] * 4
    nulls = [row is None for row in table["picture"].to_pylist()]
    assert nulls == [False, True, True, False, True]
    header = json.loads(table.schema.metadata[b"sali-cache"])
    assert header["tiers"]["profile"] == "default"
    assert header["video"]["broken_frames"] == 0


def test_a_picture_is_the_sample_bit_by_bit(manifest, written):
    png = pq.read_table(written)["picture"][3].as_py()
    bgr = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    picture = Manifest.read(written).picture(3)
    assert np.array_equal(picture, bgr[..., ::-1])
    assert picture[24, 24, 0] > 180 > picture[24, 24, 2]


def test_the_picture_of_a_pointer_is_refused_with_the_sample_that_has_it(manifest):
    with pytest.raises(ManifestError, match=r"clip\.mp4: sample 4 is a pointer, take 3"):
        manifest.picture(4)


def test_equal_work_gives_an_equal_digest_whatever_the_time_it_took(manifest, written):
    slower = replace(manifest, analyze_seconds=99.0)
    assert slower.sha256 == manifest.sha256 == Manifest.read(written).sha256
    other = manifest.with_tiers("paper")
    assert other.sha256 != manifest.sha256
    assert replace(manifest, pts_s=manifest.pts_s + 1).sha256 != manifest.sha256


def test_other_thresholds_need_no_second_analysis(manifest):
    flat = TierThresholds(fp16=0.0, int8=0.0, int4=0.0, static=None)
    changed = manifest.with_tiers(flat)
    assert changed.tier[manifest.kept].max() == Tier.FP16
    assert (changed.tier[~manifest.kept] == Tier.PRUNE).all()
    assert changed.header.thresholds == flat
    assert np.array_equal(changed.with_tiers("default").tier, manifest.tier)


def test_tiers_without_pointers_are_refused_where_there_are_pointers(manifest):
    with pytest.raises(ManifestError, match=r"3 samples are pointers .* --profile none --force"):
        manifest.with_tiers("none")


def test_an_unknown_profile_is_refused_with_those_there_are(manifest):
    with pytest.raises(ManifestError, match="got profile 'best', supported are none, paper"):
        manifest.with_tiers("best")


def test_nothing_but_the_manifest_is_left_in_the_folder(manifest, written, monkeypatch):
    before = written.read_bytes()
    assert os.listdir(written.parent) == ["clip.parquet"]

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fail)
    with pytest.raises(OSError, match="no space"):
        manifest.write(written)
    assert os.listdir(written.parent) == ["clip.parquet"]
    assert written.read_bytes() == before


def test_a_missing_manifest_is_refused_by_name(tmp_path):
    for read in (Manifest.read, read_header):
        with pytest.raises(ManifestError, match=r"gone\.parquet: no such file"):
            read(tmp_path / "gone.parquet")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.95])
def test_a_truncated_manifest_is_refused_by_name(written, keep):
    clips.truncate(written, keep=keep)
    for read in (Manifest.read, read_header):
        with pytest.raises(ManifestError, match=r"clip\.parquet: not a whole manifest"):
            read(written)


def test_the_parquet_file_of_another_tool_is_refused_by_name(tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ManifestError, match=r"other\.parquet: .*another tool"):
        Manifest.read(path)


def rewrite(path, *, columns=None, header=None) -> None:
    """Write the file again with some columns or keys of the header replaced."""
    table = pq.read_table(path)
    for name, values in (columns or {}).items():
        field = table.schema.field(name)
        at = table.schema.get_field_index(name)
        table = table.set_column(at, field, pa.array(values, field.type))
    metadata = dict(table.schema.metadata)
    old = json.loads(metadata[b"sali-cache"])
    metadata[b"sali-cache"] = json.dumps({**old, **(header or {})}).encode()
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"version": 3}, "got version 3, this tool reads 2"),
        ({"extra": 1}, "extra"),
        ({"geometry": {**GEOMETRY.to_dict(), "depth": 3}}, "depth"),
        ({"geometry": {**GEOMETRY.to_dict(), "rows": 2}}, "columns"),
        ({"sampling": {"rate_hz": 1.0}}, "max_samples"),
        ({"sampling": 7}, "sampling: got keys int"),
    ],
)
def test_a_header_that_is_not_understood_is_refused(written, header, message):
    rewrite(written, header=header)
    with pytest.raises(ManifestError, match=message):
        Manifest.read(written)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sample": [0, 1, 2, 3, 5]}, "samples are not 0, 1, 2"),
        ({"source": [0, 0, 1, 3, 3]}, "pointer to a pointer|points to a pointer"),
        ({"source": [0, 0, 4, 3, 3]}, "earlier sample"),
        ({"source": [0, 0, 0, 3, 4]}, "has no picture"),
        ({"frame": [0, 2, 1, 3, 4]}, "order of time"),
        ({"tier": [[9] * 16] * 5}, "unknown tier"),
        ({"tier": [[0] * 16] * 5}, "pointer with stored cells"),
        ({"saliency": [[float("nan")] * 16] * 5}, "NaN"),
        ({"difference": [None, None] + [[0.0] * 16] * 3}, "lacks signals"),
        ({"difference": [None] + [[0.036] * 16] * 4}, "lacks signals"),  # these need flow
        ({"tier": [[None, *[3] * 15]] * 5}, "lacks signals"),
        ({"picture": [None] * 5}, "has no picture"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(written, columns, message):
    rewrite(written, columns=columns)
    with pytest.raises(ManifestError, match=message):
        Manifest.read(written)


@pytest.mark.parametrize("groups", [0, 1])
def test_a_manifest_without_samples_is_refused_whatever_its_row_groups(written, groups):
    table = pq.read_table(written)
    with pq.ParquetWriter(written, table.schema) as writer:
        for _ in range(groups):
            writer.write_table(table.slice(0, 0))
    with pytest.raises(ManifestError, match=r"clip\.parquet: .*it holds no samples"):
        Manifest.read(written)


def test_a_damaged_picture_is_refused_with_its_sample(manifest):
    pictures = [png and png[:40] for png in manifest.pictures]
    with pytest.raises(ManifestError, match="the picture of sample 3 is damaged"):
        replace(manifest, pictures=pictures).picture(3)


@pytest.mark.parametrize(
    "changed",
    [
        {"columns": {"picture": [b"a", None, None, b"b", None]}},
        {"columns": {"pts_s": [0.0, 1.0, 2.0, 3.0, 4.5]}},
        {"header": {"tool": "0.0.1"}},
    ],
)
def test_a_change_that_contradicts_nothing_is_found_too(written, changed):
    rewrite(written, **changed)
    with pytest.raises(ManifestError, match="does not match its digest"):
        Manifest.read(written)


def test_of_a_long_manifest_few_pictures_are_in_memory_at_a_time(tmp_path):
    count, geometry = 8 * ROWS_TOGETHER, Geometry(height_px=56, width_px=56, rows=4, columns=4)
    pictures = random_pictures(count, geometry)
    path = tmp_path / "long.parquet"
    make_manifest(pictures, geometry).write(path)
    stored = pictures.nbytes  # noise: a PNG is as large as the picture
    assert path.stat().st_size > 0.9 * stored
    held = pa.total_allocated_bytes()
    tracemalloc.start()
    read = Manifest.read(path)
    assert read.part(slice(40, count)).picture(50).tolist() == pictures[90].tolist()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < stored / 2
    assert pa.total_allocated_bytes() - held < stored / 4


def test_analysis_keeps_no_pictures_in_memory(tmp_path):
    geometry = Geometry(height_px=112, width_px=112, rows=2, columns=2)
    peaks, stored = {}, {}
    for count in (8, 64):
        noise = random_pictures(count, geometry, seed=count)
        path = clips.write_clip(tmp_path / f"{count}.mp4", noise, fps=1)
        settings = AnalysisSettings.of_profile()
        tracemalloc.start()
        manifest = analyze_video(path, geometry, settings, folder=tmp_path)
        _, peaks[count] = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        stored[count] = sum(len(png) for png in manifest.pictures)
        assert manifest.kept.all()
    assert peaks[64] - peaks[8] < (stored[64] - stored[8]) / 4
    assert not list(tmp_path.glob("tmp*"))
