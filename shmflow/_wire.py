"""What travels beside the bytes: dtypes, meta, and sizes that people write.

A dtype travels as the literal that `numpy.lib.format` writes into .npy headers, never as a
pickle; meta travels as JSON. What comes back from shared memory is input: dtypes are parsed in C
(dtype_wire.c, which has the grammar), where no error of the interpreter can be taken for one of the
data; meta here, bounded, refused with `ValueError` when it is not what it should be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

# The core asks for these here.
from shmflow._names import format_size as format_size
from shmflow._names import parse_size as parse_size

MAX_META = 64 * 1024
MAX_META_DEPTH = 100
MAX_DTYPE = 16 * 1024
MAX_DTYPE_DEPTH = 64  # dtype_wire.c has it too
CPU = 1  # kDLCPU of DLPack


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


def pack_meta(meta: object) -> bytes:
    """JSON of a mapping. TypeError or ValueError that say what to do."""
    if not isinstance(meta, Mapping):
        raise TypeError(
            f"meta must be a mapping such as {{'exposure_us': 1200}}, not {type(meta).__name__}"
        )
    try:
        text = json.dumps(dict(meta), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError("the meta of this message is damaged") from error
    except RecursionError as error:
        if _depth(packed) <= MAX_META_DEPTH:
            raise  # it is not the data's fault, but of who calls from so deep
        raise ValueError("the meta of this message is nested too deeply to be parsed") from error
    if not isinstance(value, dict):
        raise ValueError("the meta of this message is damaged")
    return value


def _depth(packed: bytes) -> int:
    """At most so many brackets of JSON within each other."""
    depth = most = 0
    for byte in packed:
        depth += (byte in b"[{") - (byte in b"]}")
        most = max(most, depth)
    return most


def as_array(data: object) -> np.ndarray[Any, Any]:
    """What `write` makes of anything that is not plainly an ndarray. TypeError with advice."""
    if _is_masked(data):
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


def _is_masked(data: object) -> bool:
    # NumPy imports this when it is first asked for it: where nobody did, there are none.
    masked = getattr(sys.modules.get("numpy.ma.core"), "MaskedArray", None)
    return masked is not None and isinstance(data, masked)


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
