"""What is written, as an array; and how its dtype travels beside the bytes.

A dtype travels as the literal that `numpy.lib.format` writes into .npy headers, never as a
pickle. It comes back from shared memory as input and is parsed in C (dtype_wire.c, which has the
grammar), where no error of the interpreter can be taken for one of the data. Meta: _meta.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from shmflow._errors import Error

# The core asks for these here.
from shmflow._meta import meta_of as meta_of
from shmflow._meta import pack_meta as pack_meta
from shmflow._names import format_size as format_size
from shmflow._names import parse_size as parse_size

MAX_DTYPE = 16 * 1024
MAX_DTYPE_DEPTH = 64  # core/wire.h has it too
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
    wire = _form(dtype, _as_bytes(dtype), 0).encode("ascii")
    if len(wire) > MAX_DTYPE:
        raise TypeError(
            f"the description of this dtype takes {len(wire)} bytes, at most {MAX_DTYPE} travel; "
            f"send {_as_bytes(dtype)} and view it back, or fewer fields with shorter names"
        )
    return wire


def refuse(dtype: np.dtype[Any]) -> NoReturn:
    """Of one that readers would take for another."""
    raise TypeError(
        f"dtype {dtype} would arrive as another type; send {_as_bytes(dtype)} and view it back"
    )


def _as_bytes(dtype: np.dtype[Any]) -> str:
    """The array as something that always travels."""
    size = dtype.itemsize
    return f"array.view('{'u' if size in (1, 2, 4, 8) and dtype.names is None else 'V'}{size}')"


def _form(dtype: np.dtype[Any], instead: str, depth: int) -> str:
    if dtype.names is None:
        # What a type of NumPy's own is called elsewhere means the same there.
        if dtype.isbuiltin == 2 or dtype.kind not in "biufcmMSUV":
            raise TypeError(
                f"dtype {dtype} is not one of NumPy's own, and readers may not have it; send "
                f"{instead} and view it back"
            )
        return dtype.str
    if depth == MAX_DTYPE_DEPTH:
        raise TypeError(
            f"a dtype of more than {MAX_DTYPE_DEPTH} structures within each other does not "
            f"travel; send {instead} and view it back"
        )
    fields: Mapping[str, Any] = dtype.fields or {}
    parts: list[str] = []
    end = 0
    for name in dtype.names:
        kind, offset, *titles = fields[name]
        if offset < end:
            _refuse_places(dtype, instead)
        if offset > end:
            parts.append(f"('', '|V{offset - end}')")
        end = offset + kind.itemsize
        key = _quoted(name)
        if titles:
            if not isinstance(titles[0], str):
                raise TypeError(
                    f"the title {titles[0]!r} of field {name!r} is no string, and titles travel as "
                    "text; give it a str, or none"
                )
            key = f"({_quoted(titles[0])}, {key})"
        base, shape = kind.subdtype or (kind, ())
        form = _form(base, instead, depth + 1)
        form = form if base.names is not None else f"'{form}'"
        parts.append(f"({key}, {form}, {shape})" if shape else f"({key}, {form})")
    if dtype.itemsize > end:
        parts.append(f"('', '|V{dtype.itemsize - end}')")
    return f"[{', '.join(parts)}]"


def _quoted(name: str) -> str:
    # NumPy takes any str for a name, and repr() of its own np.str_ is no literal.
    return ascii(str.__str__(name))


def _refuse_places(dtype: np.dtype[Any], instead: str) -> NoReturn:
    fields: Mapping[str, Any] = dtype.fields or {}
    end = 0
    for offset, size in sorted((fields[n][1], fields[n][0].itemsize) for n in dtype.names or ()):
        if offset < end:
            raise TypeError(
                f"dtype {dtype} has fields that overlap; send {instead} and view it back"
            )
        end = offset + size
    raise TypeError(
        f"the fields of dtype {dtype} do not lie in the order of their names; send "
        "numpy.lib.recfunctions.repack_fields(array)"
    )


# ---- data ----------------------------------------------------------------------------------------


# Of these the values are the bytes. Of any other subclass nobody here knows: a Quantity has a unit,
# a FITS_rec a scale, a masked array a mask.
ARRAYS = frozenset({np.ndarray, np.memmap, np.matrix, np.recarray})


PLAIN = frozenset({bytes, bytearray, memoryview, bool, int, float, complex, *ARRAYS})
# What Python and NumPy say of a buffer that they cannot read, is closed or was released.
OF_BUFFERS = (ValueError, TypeError, BufferError, RuntimeError)


def as_array(data: object) -> np.ndarray[Any, Any]:
    """What `write` makes of anything that is not plainly an ndarray. TypeError with advice."""
    try:
        return _as_array(data)
    except (TypeError, MemoryError, RecursionError, Error):
        raise
    except Exception as error:  # of the object's own methods: it is no message
        if type(data) in PLAIN and not isinstance(error, OF_BUFFERS):
            raise  # it has none: a signal's handler raised, which says nothing of the data
        raise _unreadable(data, error) from error


def _unreadable(data: object, error: Exception) -> TypeError:
    return TypeError(
        f"cannot read this {type(data).__name__}: {error}; bring it to the CPU and to a dtype of "
        "NumPy's first, e.g. numpy.asarray(it)"
    )


def _as_array(data: object) -> np.ndarray[Any, Any]:
    if _is_masked(data):
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
    except RecursionError:
        raise
    except OF_BUFFERS as error:
        raise TypeError(
            f"the buffer's format {view.format!r}, of items of {view.itemsize} bytes, is not one "
            "of NumPy's; write the array that it is of, or memoryview(it).cast('B')"
        ) from error
    if array.dtype.names == () and array.dtype.itemsize:  # NumPy's reading of '5x', which is V5
        array = array.view((np.void, array.dtype.itemsize))
    return array


def _is_masked(data: object) -> bool:
    # NumPy imports this when it is first asked for it: where nobody did, there are none.
    masked = getattr(sys.modules.get("numpy.ma.core"), "MaskedArray", None)
    return masked is not None and isinstance(data, masked)


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
