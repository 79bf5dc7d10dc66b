"""Any array as a picture of 8 bits, for eyes: windows and the web page draw the same.

Owns what of an array is shown (`part`, `kind_of`), how its values become grey or colour
(`picture`), and the encoders (OpenCV, else Pillow). Knows nothing of topics, windows and the web.

1. A picture is (h, w) grey or (h, w, 3) with blue first, uint8, C order.
2. Nothing here writes to the array that it is given, and no value (NaN, infinity) makes it fail.
"""

from __future__ import annotations

import io
import math
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Picture = NDArray[np.uint8]

KINDS = ("auto", "image", "plot", "bytes")
ORDERS = ("auto", "bgr", "rgb")
BAYERS = ("auto", "none", "rggb", "bggr", "grbg", "gbrg")
RANGES = ("auto", "full", "stretch")
NARROW = 8  # a side shorter than this makes no image of its own accord


@dataclass(frozen=True, slots=True)
class Choice:
    """How somebody wants to see a topic. ValueError for what cannot be chosen."""

    kind: str = "auto"  # of KINDS
    order: str = "auto"  # of three channels: ORDERS
    bayer: str = "auto"  # of one channel: BAYERS
    range: str = "auto"  # which values are black and white: RANGES
    index: tuple[int, ...] = ()  # into the axes that are not shown, from the first on

    def __post_init__(self) -> None:
        for value, allowed in (
            (self.kind, KINDS),
            (self.order, ORDERS),
            (self.bayer, BAYERS),
            (self.range, RANGES),
        ):
            if value not in allowed:
                raise ValueError(f"{value[:40]!r} is none of {', '.join(allowed)}")

    def with_meta(self, meta: Mapping[str, Any]) -> Choice:
        """What is 'auto' is taken from a message's meta["encoding"]: 'rgb8', 'bayer_rggb8'."""
        encoding = str(meta.get("encoding", "")).lower()
        order, bayer = self.order, self.bayer
        if order == "auto":
            order = "rgb" if encoding.startswith("rgb") else "bgr"
        if bayer == "auto":
            bayer = encoding[6:10] if encoding[6:10] in BAYERS[2:] else "none"
            bayer = bayer if encoding.startswith("bayer_") else "none"
        return Choice(self.kind, order, bayer, self.range, self.index)


# ---- what is shown -------------------------------------------------------------------------------


def is_number(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biufc"


def has_letters_only(array: Array) -> bool:
    """Are all numbers in its texts, fields included, such that a letter can have?"""
    if array.dtype.names is not None:
        return all(has_letters_only(array[name]) for name in array.dtype.names)
    if array.dtype.kind != "U" or array.dtype.itemsize == 0:
        return True
    codes = np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)
    return bool(np.ascontiguousarray(array).ravel().view(codes).max(initial=0) <= sys.maxunicode)


def sound(array: Array) -> Array:
    """The array, or the bytes of its items where it holds texts of what are no letters: NumPy fails
    at these, or makes strings of them that nothing can print."""
    if has_letters_only(array):
        return array
    return np.ascontiguousarray(array).view(f"V{array.dtype.itemsize}").reshape(array.shape)


def shown_axes(shape: tuple[int, ...], wanted: str = "auto") -> int:
    """How many of the last axes are shown at once; the others are picked by index."""
    if wanted == "plot":
        return min(len(shape), 1)
    channels = len(shape) >= 3 and 1 <= shape[-1] <= 4
    if channels and (wanted == "image" or min(shape[-3:-1]) >= NARROW):
        return 3
    return min(len(shape), 2)


def kind_of(dtype: np.dtype[Any], shape: tuple[int, ...], wanted: str = "auto") -> str:
    """What suits an array, or what is wanted, if that can be."""
    if dtype.names is not None:
        return "bytes" if wanted == "bytes" else "table"
    if wanted == "bytes":
        return "bytes"
    if not is_number(dtype) or not shape or math.prod(shape) == 0:
        return "text"
    if wanted == "image":
        return "image"
    if wanted == "plot":
        return "plot"
    if len(shape) == 1:
        return "bytes" if dtype == np.uint8 else "plot"
    count = shown_axes(shape)
    return "image" if count == 3 or min(shape[-2:]) >= NARROW else "plot"


def part(array: Array, choice: Choice) -> Array:
    """The axes that are shown, at the chosen index of the others (bounded, 0 if none is given)."""
    leading = array.ndim - shown_axes(array.shape, choice.kind)
    for axis in range(leading):
        index = choice.index[axis] if axis < len(choice.index) else 0
        array = array[min(max(index, 0), array.shape[0] - 1)]
    return array


# ---- values to grey and colour -------------------------------------------------------------------


def to_bytes(values: Array, how: str) -> Picture:
    """Values of any kind of number as 0 to 255. 'stretch': least to greatest, 'full': what the
    type can tell (floats: 0 to 1), 'auto': full for 8 bits, else stretch."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8 and how != "stretch":
        return values.astype(np.uint8)
    if values.dtype.kind == "c":
        values = np.abs(values)
    with np.errstate(over="ignore"):  # wider than 64 bits: infinity
        floats: NDArray[np.floating[Any]] = values.astype(
            np.float64 if values.dtype.itemsize > 4 else np.float32
        )
    whole = np.isfinite(floats)
    if how == "full" or (values.dtype == np.int8 and how == "auto"):
        low, high = 0.0, 1.0
        if values.dtype.kind in "iu":
            low, high = float(np.iinfo(values.dtype).min), float(np.iinfo(values.dtype).max)
    elif whole.any():
        low = float(floats.min(where=whole, initial=math.inf))
        high = float(floats.max(where=whole, initial=-math.inf))
    else:
        low, high = 0.0, 1.0
    # Halves, for the distance of two floats may be no float.
    span = (high / 2 - low / 2) or 1.0
    with np.errstate(all="ignore"):
        scaled = (floats / 2 - low / 2) / span * 255
    scaled[np.isneginf(floats) | np.isnan(floats)] = 0  # no value is black
    scaled[np.isposinf(floats)] = 255
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)


def demosaic(mosaic: Array, pattern: str) -> Array:
    """A Bayer mosaic at half its size: a cell of 2x2 becomes one pixel, blue first."""
    height, width = mosaic.shape[0] // 2 * 2, mosaic.shape[1] // 2 * 2
    cells = {"r": [], "g": [], "b": []}  # type: dict[str, list[Array]]
    for place, colour in enumerate(pattern):
        cells[colour].append(mosaic[place // 2 : height : 2, place % 2 : width : 2])
    one, two = cells["g"]
    green = one // 2 + two // 2 + (one % 2 + two % 2) // 2 if one.dtype.kind in "iu" else one
    return np.stack([cells["b"][0], green, cells["r"][0]], axis=-1)


def picture(array: Array, choice: Choice, longest: int | None = None) -> Picture:
    """The part of an array that was chosen, as a picture; of a larger one than `longest` pixels
    each second, third ... row and column."""
    shown = part(array, choice)
    while shown.ndim < 2:
        shown = shown[np.newaxis]
    if shown.ndim == 3 and shown.shape[2] == 1:
        shown = shown[:, :, 0]
    if shown.ndim == 2 and choice.bayer in BAYERS[2:] and min(shown.shape) >= 2:
        shown = demosaic(shown, choice.bayer)
        rgb = False
    else:
        rgb = choice.order == "rgb"
    if longest is not None:
        step = -(-max(shown.shape[:2]) // longest)
        shown = shown[::step, ::step]
    if shown.ndim == 3:
        shown = shown[:, :, :3]  # a fourth channel is how much it covers
        shown = shown[:, :, ::-1] if rgb and shown.shape[2] == 3 else shown
    result = to_bytes(shown, choice.range)
    if result.ndim == 3 and result.shape[2] == 2:
        result = np.dstack([result, np.zeros_like(result[:, :, 0])])
    return np.ascontiguousarray(result)


# ---- files ---------------------------------------------------------------------------------------


_IMPORTING = threading.Lock()  # OpenCV's import is seen half done by other threads


def _opencv() -> Any:
    """The module, or None."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def encode(image: Picture, format: Literal["jpeg", "png"], quality: int = 80) -> bytes:
    """A picture as a file. ImportError if neither OpenCV nor Pillow is there."""
    with _IMPORTING:
        cv2 = _opencv()
    if cv2 is not None:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == "jpeg" else []
        done, data = cv2.imencode(".jpg" if format == "jpeg" else ".png", image, options)
        if done:
            return bytes(data)
    from PIL import Image

    file = io.BytesIO()
    shown = image if image.ndim == 2 else np.ascontiguousarray(image[:, :, ::-1])
    Image.fromarray(shown).save(file, format, **({"quality": quality} if format == "jpeg" else {}))
    return file.getvalue()
