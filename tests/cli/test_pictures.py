"""Any array as a picture of 8 bits: each mapping, and the files made of them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from shmflow.cli.pictures import Choice, encode, kind_of, picture

PLAIN = Choice().with_meta({})


def shown(array, **choice) -> np.ndarray:
    return picture(np.asarray(array), Choice(**choice).with_meta({}))


def test_eight_bits_are_shown_as_they_are() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (shown(grey) == grey).all()
    assert (shown(grey[:, :, None]) == grey).all()
    assert (shown(grey, range="stretch") == np.rint(np.arange(64) * 255 / 63).reshape(8, 8)).all()
    assert shown(np.array([[-128, 0, 127]], np.int8)).tolist() == [[0, 128, 255]]


def test_sixteen_bits_are_stretched() -> None:
    assert shown(np.array([[1000, 1500, 2000]], np.uint16)).tolist() == [[0, 128, 255]]
    full = shown(np.array([[0, 32768, 65535]], np.uint16), range="full")
    assert full.tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floats_are_stretched_whatever_they_hold(dtype: str) -> None:
    values = np.array([[np.nan, -1, 0, 1, np.inf, -np.inf]], dtype)
    assert shown(values).tolist() == [[0, 0, 128, 255, 255, 0]]
    assert shown(np.array([[-1, 0.5, 2]], dtype), range="full").tolist() == [[0, 128, 255]]
    greatest = np.finfo(dtype).max
    assert shown(np.array([[-greatest, 0, greatest]], dtype)).tolist() == [[0, 128, 255]]


def test_what_has_no_range_is_no_error() -> None:
    assert (shown(np.full((9, 9), np.nan)) == 0).all()
    assert (shown(np.full((9, 9), 7.0)) == 0).all()
    assert (shown(np.full((9, 9), 2**63, np.uint64)) == 0).all()


def test_truth_is_white() -> None:
    assert shown(np.array([[True, False]])).tolist() == [[255, 0]]


def test_complex_numbers_are_shown_by_size() -> None:
    assert shown(np.array([[0, 3 + 4j, 10]])).tolist() == [[0, 128, 255]]


def test_three_channels_are_blue_first_unless_it_is_said() -> None:
    pixel = np.zeros((8, 8, 3), np.uint8) + np.array([10, 20, 30], np.uint8)
    assert shown(pixel)[0, 0].tolist() == [10, 20, 30]
    assert shown(pixel, order="rgb")[0, 0].tolist() == [30, 20, 10]
    told = picture(pixel, Choice().with_meta({"encoding": "rgb8"}))
    assert told[0, 0].tolist() == [30, 20, 10]
    chosen = picture(pixel, Choice(order="bgr").with_meta({"encoding": "rgb8"}))
    assert chosen[0, 0].tolist() == [10, 20, 30]


def test_two_and_four_channels_are_shown_as_three() -> None:
    four = np.zeros((8, 8, 4), np.uint8) + np.array([10, 20, 30, 40], np.uint8)
    assert shown(four)[0, 0].tolist() == [10, 20, 30]
    assert shown(four, order="rgb")[0, 0].tolist() == [30, 20, 10]
    assert shown(four[:, :, :2])[0, 0].tolist() == [10, 20, 0]


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "grbg", "gbrg"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_a_mosaic_is_shown_in_colour(pattern: str, dtype: str) -> None:
    values = {"r": 200, "g": 100, "b": 0}
    cell = np.array([values[colour] for colour in pattern], dtype).reshape(2, 2)
    mosaic = np.tile(cell, (5, 6))[:-1]  # an odd row is left out
    image = shown(mosaic, bayer=pattern, range="full" if dtype == "u1" else "stretch")
    blue, green, red = (0, 100, 200) if dtype == "u1" else (0, 128, 255)
    assert image.shape == (4, 6, 3)
    assert (image == [blue, green, red]).all()
    assert (picture(mosaic, Choice().with_meta({"encoding": f"bayer_{pattern}8"})).ndim) == 3


def test_slices_are_picked_and_bounded() -> None:
    volume = np.zeros((3, 4, 16, 16), np.uint8) + np.arange(12, dtype=np.uint8).reshape(3, 4, 1, 1)
    assert shown(volume)[0, 0] == 0
    assert shown(volume, index=(2, 1))[0, 0] == 9
    assert shown(volume, index=(-5, 99))[0, 0] == 3
    film = np.zeros((5, 16, 16, 3), np.uint8) + np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    assert shown(film, index=(4,)).shape == (16, 16, 3)


def test_large_ones_are_thinned() -> None:
    image = picture(np.zeros((3000, 1000, 3), np.uint8), PLAIN, 1280)
    assert image.shape == (1000, 334, 3) and image.flags.c_contiguous


@pytest.mark.parametrize(
    "dtype, shape, kind",
    [
        ("u1", (480, 640, 3), "image"),
        ("f4", (480, 640), "image"),
        ("?", (2, 480, 640, 1), "image"),
        ("f8", (600,), "plot"),
        ("i2", (1000, 6), "plot"),
        ("u1", (300,), "bytes"),
        ("f8", (), "text"),
        ("f8", (0, 10), "text"),
        ("U8", (10,), "text"),
        ([("x", "f4")], (10,), "table"),
    ],
)
def test_each_array_is_shown_as_suits_it(dtype, shape: tuple[int, ...], kind: str) -> None:
    assert kind_of(np.dtype(dtype), shape) == kind
    assert kind_of(np.dtype(dtype), shape, "bytes") == "bytes"


@pytest.mark.parametrize("module", ["cv2", "PIL"])
def test_files_hold_what_was_shown(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    import io

    if module == "PIL":
        monkeypatch.setitem(sys.modules, "cv2", None)
    else:
        pytest.importorskip("cv2")
    colour = np.zeros((16, 16, 3), np.uint8) + np.array([250, 120, 10], np.uint8)
    for array in (colour, np.ascontiguousarray(colour[:, :, 0])):
        with image.open(io.BytesIO(encode(array, "png"))) as png:
            read = np.asarray(png)
        assert (read == (array[:, :, ::-1] if array.ndim == 3 else array)).all()
        data = encode(array, "jpeg")
        assert data[:2] == b"\xff\xd8"
        with image.open(io.BytesIO(data)) as jpeg:
            near = np.asarray(jpeg).astype(int)
        assert (abs(near - read) < 8).all()


def test_what_cannot_be_chosen_is_refused() -> None:
    for wrong in ({"kind": "film"}, {"order": "gbr"}, {"bayer": "x"}, {"range": "0"}):
        with pytest.raises(ValueError, match="is none of"):
            Choice(**wrong)


def test_nothing_is_written_to() -> None:
    array = np.arange(768, dtype=np.float32).reshape(16, 16, 3)
    array.flags.writeable = False
    before = array.copy()
    for choice in ({}, {"order": "rgb"}, {"range": "full"}):
        shown(array, **choice)
    assert (array == before).all()
