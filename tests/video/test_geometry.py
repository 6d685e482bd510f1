import numpy as np
import pytest

from batch.video import Geometry
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
    "change", [{"fit": "crop"}, {"resample": "nearest"}, {"rows": 0}, {"rows": 8.0}]
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
