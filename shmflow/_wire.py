"""What travels beside the bytes: dtypes, meta, and sizes that people write.

A dtype travels as the literal that `numpy.lib.format` writes into .npy headers, never as a
pickle; meta travels as JSON. Both come back from shared memory, so both are taken as input:
parsed as data, bounded, refused with `ValueError` when they are not what they should be.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.format import descr_to_dtype, dtype_to_descr

# The core asks for these here.
from shmflow._names import format_size as format_size
from shmflow._names import parse_size as parse_size

MAX_META = 64 * 1024
MAX_DTYPE = 16 * 1024
CPU = 1  # kDLCPU of DLPack


def describe(dtype: np.dtype[Any]) -> bytes:
    """The wire form of a dtype, such as b'<f4'. TypeError for what cannot travel."""
    if dtype.hasobject:
        kind = "StringDType" if type(dtype).__name__ == "StringDType" else f"dtype {dtype}"
        raise TypeError(
            f"{kind} holds Python objects, which mean nothing in another process; "
            "convert first, e.g. array.astype('U16'), array.astype(float), or send bytes"
        )
    try:
        descr: Any = dtype_to_descr(dtype)
        text = repr(descr) if not isinstance(descr, str) else descr
        same = parse(text.encode("ascii", "backslashreplace")) == dtype
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"dtype {dtype} has no portable description ({error}); "
            "give its fields names and places that do not overlap"
        ) from error
    if not same:
        raise TypeError(
            f"dtype {dtype} would arrive as another type; "
            "send it as array.view('u1') or array.view('u2') and view it back"
        )
    wire = text.encode("ascii", "backslashreplace")
    if len(wire) > MAX_DTYPE:
        raise TypeError(f"the description of this dtype takes {len(wire)} bytes of {MAX_DTYPE}")
    return wire


# Strings, numbers, lists and tuples of these; or a plain code such as '<f4' or '<M8[25s]'.
_DESCR = re.compile(
    r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|[\[\](), 0-9])*+|[^\[('"].*""", re.DOTALL
)


def parse(wire: bytes) -> np.dtype[Any]:
    """The dtype of a wire form. ValueError if it is none, or one that holds objects."""
    text = wire.decode("ascii")
    try:
        # Beyond these characters literal_eval knows operators, and of a few thousand in a row it
        # says MemoryError: which must mean memory, since a reader passes over what is no dtype.
        if not _DESCR.fullmatch(text):
            raise ValueError("not the description of a dtype")
        descr: Any = ast.literal_eval(text) if text.startswith(("[", "(")) else text
        dtype = descr_to_dtype(descr)
    except MemoryError:
        raise
    except Exception as error:  # IndexError, AttributeError, a warning ...: it is input, see above
        raise ValueError(f"not a dtype: {text[:80]!r}") from error
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.subdtype is not None:
        raise ValueError(f"not a dtype that can travel: {text[:80]!r}")
    if dtype.itemsize == 0 and dtype.kind in "SU":  # NumPy makes arrays of S1 or U1 of it
        raise ValueError(f"not a dtype that can travel: {text[:80]!r}")
    return dtype


def pack_meta(meta: object) -> bytes:
    """JSON of a mapping. TypeError or ValueError that say what to do."""
    if not isinstance(meta, Mapping):
        raise TypeError(
            f"meta must be a mapping such as {{'exposure_us': 1200}}, not {type(meta).__name__}"
        )
    plain = dict(meta)  # what a mapping's own code raises is not about JSON
    try:
        text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        packed = text.encode("utf-8")
    except TypeError as error:
        raise TypeError(f"meta must consist of JSON values: {error}") from error
    except (ValueError, RecursionError) as error:  # the former also of text that is no Unicode
        raise ValueError(f"meta must consist of JSON values: {error}") from error
    if len(packed) > MAX_META:
        raise ValueError(
            f"meta takes {len(packed)} bytes of JSON, at most {MAX_META} travel with a message; "
            "write large things as arrays of their own"
        )
    return packed


def unpack_meta(packed: bytes) -> dict[str, Any]:
    """The mapping of a message's meta. ValueError if it is damaged."""
    try:
        value = json.loads(packed)
    except (ValueError, RecursionError) as error:
        raise ValueError("the meta of this message is damaged") from error
    if not isinstance(value, dict):
        raise ValueError("the meta of this message is damaged")
    return value


def as_array(data: object) -> np.ndarray[Any, Any]:
    """What `write` makes of anything that is not plainly an ndarray. TypeError with advice."""
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(
            "a masked array would lose its mask; write array.filled(value), and the mask "
            "as an array of its own if you need it"
        )
    if isinstance(data, (np.ndarray, np.generic)):
        return np.asarray(data)
    if isinstance(data, (bool, int, float, complex)):
        array = np.asarray(data)
        if array.dtype.hasobject:
            raise TypeError(f"{data} does not fit 64 bits; write a float, or bytes")
        return array
    if isinstance(data, str):
        raise TypeError("a str has no fixed bytes; write text.encode()")
    if data is None:
        raise TypeError(
            "None is no message (a camera that gave no frame, or a clip's end?); write an array "
            "or bytes"
        )
    if isinstance(data, dict):
        raise TypeError(
            "a dict has no dtype; write its arrays one by one, or json.dumps(it).encode(), or give "
            "it as meta= of another message"
        )
    if isinstance(data, set):
        raise TypeError("a set has no dtype of its own; write numpy.asarray(list(it))")
    if isinstance(data, (list, tuple)):
        raise TypeError(f"a {type(data).__name__} has no dtype of its own; write numpy.asarray(it)")
    if type(data).__name__ == "UMat":
        raise TypeError("a cv2.UMat lives in OpenCV's memory; write umat.get()")
    try:
        view = memoryview(data)  # type: ignore[arg-type]
    except TypeError:
        return _from_dlpack(data)
    try:
        return np.asarray(view)
    except (ValueError, TypeError) as error:
        raise TypeError(f"the buffer's format {view.format!r} is not one of NumPy's") from error


def _from_dlpack(data: object) -> np.ndarray[Any, Any]:
    if isinstance(data, type) or not hasattr(data, "__dlpack__"):
        raise TypeError(
            f"cannot write an object of type {type(data).__name__}: write an ndarray, a number, "
            "bytes or a buffer; numpy.asarray(it) may make one"
        )
    device = data.__dlpack_device__() if hasattr(data, "__dlpack_device__") else (CPU, 0)
    if device[0] != CPU:
        raise TypeError(
            f"this {type(data).__name__} lives on another device (DLPack device "
            f"{int(device[0])}:{int(device[1])}); bring it to the CPU first, e.g. tensor.cpu()"
        )
    try:
        return np.from_dlpack(data)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"cannot read this {type(data).__name__} through DLPack: {error}"
        ) from error
