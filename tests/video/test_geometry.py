import numpy as np
import pytest

from batch.errors import VideoError
from batch.video import DynamicGeometry, Geometry, Sampling, geometry_for, probe
from tests import clips


def square(size_px: int = 112, cells: int = 8) -> Geometry:
    return Geometry(height_px=size_px, width_px=size_px, rows=cells, columns=cells)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("size", [(97, 131), (400, 300), (112, 112)])
def test_a_frame_is_resized_bit_equal_to_transformers(resample, size):
    from PIL import Image
    from transformers.image_transforms import resize

    rgb = clips.noisy(clips.texture(*size), 9)
    geometry = Geometry(height_px=112, width_px=84, rows=8, columns=6, resample=resample)
    theirs = resize(
        rgb,
        (112, 84),
        resample=Image.Resampling[resample.upper()],
        input_data_format="channels_last",
    )
    assert np.array_equal(geometry.apply(rgb), theirs)


@pytest.mark.parametrize(
    ("size", "first"), [((300, 400), (38, 50)), ((400, 300), (50, 38)), ((3, 400), (1, 50))]
)
def test_a_frame_may_be_brought_to_a_longer_side_before_it_is_stretched(size, first):
    rgb = clips.noisy(clips.texture(*size), 9)
    sizes = {"rows": 8, "columns": 8, "resample": "lanczos"}
    small = Geometry(height_px=first[0], width_px=first[1], rows=1, columns=1, resample="lanczos")
    twice = Geometry(height_px=112, width_px=112, longest_px=50, **sizes)
    once = Geometry(height_px=112, width_px=112, **sizes)
    assert np.array_equal(twice.apply(rgb), once.apply(small.apply(rgb)))
    assert not np.array_equal(twice.apply(rgb), once.apply(rgb))


def test_a_cell_covers_its_own_pixels_row_by_row():
    geometry = Geometry(height_px=4, width_px=6, rows=2, columns=3)
    pixels = np.zeros((4, 6), np.float32)
    pixels[2:4, 4:6] = 1
    pixels[0, 2] = 1
    assert geometry.cell_means(pixels).tolist() == [0, 0.25, 0, 0, 0, 1]


def test_a_grid_that_does_not_divide_the_picture_is_refused():
    with pytest.raises(ValueError, match="112x112 px do not divide into 9x8 cells"):
        Geometry(height_px=112, width_px=112, rows=9, columns=8)


@pytest.mark.parametrize(
    "change",
    [
        {"fit": "crop"},
        {"fit": "crop", "shortest_px": 112, "longest_px": 200},
        {"longest_px": 0},
        {"resample": "nearest"},
        {"rows": 0},
        {"rows": 8.0},
    ],
)
def test_what_is_not_supported_is_refused(change):
    with pytest.raises(ValueError, match="geometry"):
        Geometry.from_dict({**square().to_dict(), **change})


def test_a_geometry_survives_a_dict_and_refuses_unknown_and_missing_keys():
    data = square().to_dict()
    assert Geometry.from_dict(data) == square()
    with pytest.raises(ValueError, match=r"unknown keys \['depth'\]"):
        Geometry.from_dict({**data, "depth": 3})
    del data["rows"]
    with pytest.raises(ValueError, match=r"missing keys \['rows'\]"):
        Geometry.from_dict(data)


SIZES = [(20, 600), (224, 224), (360, 640), (1080, 1920), (1920, 1080), (3, 500), (2160, 3840)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("least", "most"), [(3136, 12845056), (128 * 784, 768 * 784)])
def test_a_frames_pixels_are_bounded_as_by_qwen2_vl(height, width, least, most):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    rule = DynamicGeometry(cell_px=28, frames=2, least_px=least, most_px=most)
    found = rule.for_video(height, width, frames=9)
    theirs = smart_resize(height, width, factor=28, min_pixels=least, max_pixels=most)
    assert (found.height_px, found.width_px) == theirs
    assert (found.rows, found.columns) == (theirs[0] // 28, theirs[1] // 28)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("frames", [2, 5, 7, 64, 900])
@pytest.mark.parametrize(("least", "most"), [(4096, 25165824), (131072, 786432)])
def test_a_videos_pixels_are_bounded_as_by_qwen3_vl(height, width, frames, least, most):
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    rule = DynamicGeometry(cell_px=32, frames=2, least_px=least, most_px=most, bounds="video")
    found = rule.for_video(height, width, frames)
    theirs = smart_resize(frames, height, width, 2, 32, min_pixels=least, max_pixels=most)
    assert (found.height_px, found.width_px) == theirs


def test_a_video_of_one_frame_counts_it_twice():
    rule = DynamicGeometry(cell_px=32, frames=2, least_px=4096, most_px=2**17, bounds="video")
    assert rule.for_video(720, 1280, frames=1) == rule.for_video(720, 1280, frames=2)


def test_a_video_that_is_too_elongated_is_refused_by_name(tmp_path):
    rule = DynamicGeometry(cell_px=28, frames=2, least_px=3136, most_px=12845056)
    ribbon = probe(clips.write_clip(tmp_path / "ribbon.mp4", [clips.flat(8, 1604)]))
    with pytest.raises(VideoError, match=r"ribbon\.mp4: frames of 8x1604 px: one side may be at"):
        geometry_for(rule, ribbon, Sampling())


@pytest.mark.parametrize(
    "change", [{"least_px": 0}, {"most_px": 3000}, {"cell_px": 0}, {"resample": "nearest"}]
)
def test_a_rule_that_gives_no_geometry_is_refused(change):
    rule = {"cell_px": 28, "frames": 2, "least_px": 3136, "most_px": 12845056}
    with pytest.raises(ValueError, match="geometry: got"):
        DynamicGeometry(**{**rule, **change})


@pytest.mark.parametrize("bounds", ["frame", "video"])
def test_cells_of_every_video_are_among_those_that_may_be(bounds):
    rule = DynamicGeometry(cell_px=28, frames=2, least_px=100_000, most_px=110_000, bounds=bounds)
    for height_px in (1, 10, 30, 200, 333, 1080):
        for width_px in (height_px, 3 * height_px, 199 * height_px, 200 * height_px):
            for frames in (1, 2, 9, 500):
                found = rule.for_video(height_px, width_px, frames)
                assert rule.may_have(found.rows, found.columns)
                assert rule.may_have(found.columns, found.rows)
    assert not rule.may_have(2_000, 2_000)
    assert not rule.may_have(0, 1)
    assert square().may_have(8, 8)
    assert not square().may_have(8, 9)
