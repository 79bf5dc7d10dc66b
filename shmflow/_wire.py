"""What is written, as an array; and how its dtype travels beside the bytes.

A dtype travels as the literal that `numpy.lib.format` writes into .npy headers, never as a
pickle. It comes back from shared memory, so it is taken as input: parsed as data, bounded,
refused with `ValueError` when it is not what it should be. Meta likewise: _meta.py.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
from numpy.lib.format import descr_to_dtype, dtype_to_descr

from shmflow._errors import Error

# The core asks for these here.
from shmflow._meta import meta_of as meta_of
from shmflow._meta import pack_meta as pack_meta
from shmflow._names import format_size as format_size
from shmflow._names import parse_size as parse_size

MAX_DTYPE = 16 * 1024
# Devices of DLPack whose memory the CPU reads: kDLCPU, kDLCUDAHost, kDLROCMHost, kDLCUDAManaged.
CPU = 1
READABLE = frozenset({CPU, 3, 11, 13})


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


# ---- data ----------------------------------------------------------------------------------------


# Of these the values are the bytes. Of any other subclass nobody here knows: a Quantity has a unit,
# a FITS_rec a scale, a masked array a mask.
ARRAYS = frozenset({np.ndarray, np.memmap, np.matrix, np.recarray})


def as_array(data: object) -> np.ndarray[Any, Any]:
    """What `write` makes of anything that is not plainly an ndarray. TypeError with advice."""
    try:
        return _as_array(data)
    except (TypeError, MemoryError, RecursionError, Error):
        raise
    except Exception as error:  # of the object's own methods: it is no message
        raise _unreadable(data, error) from error


def _unreadable(data: object, error: Exception) -> TypeError:
    return TypeError(
        f"cannot read this {type(data).__name__}: {error}; bring it to the CPU and to a dtype of "
        "NumPy's first, e.g. numpy.asarray(it)"
    )


def _as_array(data: object) -> np.ndarray[Any, Any]:
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(
            "a masked array would lose its mask; write array.filled(value), and the mask "
            "as an array of its own if you need it"
        )
    if isinstance(data, np.ndarray) and type(data) not in ARRAYS:
        raise TypeError(
            f"a {type(data).__name__} is an ndarray with a meaning of its own, which would be "
            "lost; write np.asarray(it) if its plain numbers are the message"
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
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        if isinstance(error, TypeError) or _has_dlpack(data):  # BufferError: JAX, on another device
            return _from_dlpack(data)
        raise
    try:
        array = np.asarray(view)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:
        raise TypeError(
            f"the buffer's format {view.format!r}, of items of {view.itemsize} bytes, is not one "
            "of NumPy's; write the array that it is of, or memoryview(it).cast('B')"
        ) from error
    if array.dtype.names == () and array.dtype.itemsize:  # NumPy's reading of '5x', which is V5
        array = array.view((np.void, array.dtype.itemsize))
    return array


def _has_dlpack(data: object) -> bool:
    return not isinstance(data, type) and hasattr(data, "__dlpack__")


def _from_dlpack(data: Any) -> np.ndarray[Any, Any]:
    if not _has_dlpack(data):
        raise TypeError(
            f"cannot write an object of type {type(data).__name__}: write an ndarray, a number, "
            "bytes or a buffer; numpy.asarray(it) may make one"
        )
    try:
        device = data.__dlpack_device__() if hasattr(data, "__dlpack_device__") else (CPU, 0)
        kind, number = int(device[0]), int(device[1])
        if kind in READABLE:
            return np.from_dlpack(data)
    except (MemoryError, RecursionError, Error):
        raise
    except Exception as error:
        raise _unreadable(data, error) from error
    raise TypeError(
        f"this {type(data).__name__} lives on another device (DLPack device {kind}:{number}); "
        "bring it to the CPU first, e.g. tensor.cpu()"
    )
