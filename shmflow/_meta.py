"""Meta: a mapping that travels beside an array, as JSON.

Owns what a writer may give, and what becomes of it: strings, numbers, lists and dicts of these;
tuples turn into lists, NumPy's numbers and arrays of numbers into numbers and lists. Meta comes
back from shared memory, where a writer in C may have put anything: it is taken as input, bounded,
and refused with `ValueError` when it is not what it should be.
"""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from shmflow._errors import CorruptTopic

MAX_META = 64 * 1024
MAX_META_DEPTH = 100  # of lists and dicts inside each other

_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_PLAIN = frozenset({str, int, bool, type(None)})
_INSTEAD = {
    bytes: "base64.b64encode(it).decode(), or it.decode()",
    bytearray: "base64.b64encode(it).decode()",
    complex: "[it.real, it.imag]",
    np.complexfloating: "[it.real, it.imag]",
    np.datetime64: "str(it), or int(it.astype('M8[ns]').astype('i8'))",
    np.timedelta64: "int(it.astype('m8[ns]').astype('i8'))",
    set: "sorted(it)",
    frozenset: "sorted(it)",
    np.ndarray: "numpy.asarray(it).tolist()",
}


def pack_meta(meta: object) -> bytes:
    """JSON of a mapping. TypeError or ValueError that say what to do."""
    if not isinstance(meta, Mapping):
        raise TypeError(
            f"meta must be a mapping such as {{'exposure_us': 1200}}, not {type(meta).__name__}"
        )
    try:
        value = _json_of(meta, MAX_META_DEPTH)
    except _NotJson as error:
        raise error.kind(f"meta{''.join(reversed(error.path))}: {error}") from None
    try:
        packed = _ENCODE(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"meta: a text in it is no Unicode ({error})") from error
    except ValueError as error:  # an int of thousands of digits
        raise ValueError(f"meta: {error}") from error
    if len(packed) > MAX_META:
        raise ValueError(
            f"meta takes {len(packed)} bytes of JSON, at most {MAX_META} travel with a message; "
            "write large things as arrays of their own"
        )
    return packed


class _NotJson(Exception):
    """What cannot be meta; `path` grows on the way out, the outermost key last."""

    def __init__(self, kind: type[TypeError | ValueError], text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.path: list[str] = []


def _json_of(value: Any, depth: int) -> Any:
    """The JSON value of it: a tuple is a list, and so is an array of numbers."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (float, np.floating)):
        value = float(value)
        if not math.isfinite(value):
            raise _NotJson(
                ValueError,
                f"JSON has no number for {value}: give None, or a text such as {str(value)!r}",
            )
        return value
    if isinstance(value, (str, int)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer) and value.dtype.kind in "iu":  # a timedelta64 is one, to NumPy
        return int(value)
    if type(value) is np.ndarray and value.dtype.kind in "biuf":
        if value.size > MAX_META // 2:
            raise _NotJson(
                ValueError,
                f"an array of {value.size} numbers does not fit the {MAX_META} bytes of meta: "
                "write it as a message of its own",
            )
        return _json_of(value.tolist(), depth)
    if depth == 0 and isinstance(value, (list, tuple, Mapping)):  # or inside itself
        raise ValueError(f"meta: more than {MAX_META_DEPTH} lists and dicts inside each other")
    if isinstance(value, (list, tuple)):
        return [_inside(item, depth, at) for at, item in enumerate(value)]
    if isinstance(value, Mapping):
        found = {}
        for key, item in dict(value).items():  # a mapping need not have items()
            if not isinstance(key, str):
                raise _NotJson(
                    TypeError,
                    f"the key {key!r} is no text, and JSON has no others: write {str(key)!r}",
                )
            found[key] = _inside(item, depth, key)
        return found
    for kind, instead in _INSTEAD.items():
        if isinstance(value, kind):
            raise _NotJson(TypeError, f"{type(value).__name__} is no JSON value: write {instead}")
    raise _NotJson(
        TypeError,
        f"{type(value).__name__} is no JSON value: write what it consists of, as numbers, texts, "
        "lists and dicts of these",
    )


def _inside(value: Any, depth: int, key: str | int) -> Any:
    if type(value) in _PLAIN:
        return value
    try:
        return _json_of(value, depth - 1)
    except _NotJson as error:
        error.path.append(f"[{key!r}]")
        raise


def unpack_meta(packed: bytes) -> dict[str, Any]:
    """The mapping of a message's meta. ValueError if it is damaged."""
    deep = packed.count(b"[") + packed.count(b"{") > MAX_META_DEPTH
    try:
        value = json.loads(packed)
    except RecursionError:  # of who asks, not of what was sent
        if not deep:
            raise
        raise ValueError("it is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"it is no object but a {type(value).__name__}")
    if deep and _is_deeper(value, MAX_META_DEPTH - 1):
        raise ValueError(f"more than {MAX_META_DEPTH} lists and objects inside each other")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if type(value) is list else ()
    return any(depth == 0 or _is_deeper(v, depth - 1) for v in items if type(v) in (dict, list))


def meta_of(packed: bytes, seq: int, writer: int) -> dict[str, Any]:
    """What `Message.meta` gives. CorruptTopic if it is damaged, which any writer in C can send."""
    try:
        return unpack_meta(packed)
    except ValueError as error:
        raise CorruptTopic(
            errno.EINVAL,
            f"the meta of message {seq}, written by pid {writer}, is no JSON object ({error}): "
            f"{packed[:60]!r}; its array is whole; mend the program that wrote it",
        ) from error
