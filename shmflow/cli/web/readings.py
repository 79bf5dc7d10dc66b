"""What is no picture, as JSON for the page: plots, bytes, tables of fields, values.

Owns the bounds: whatever a message holds, its reading is small. Knows nothing of topics.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shmflow.cli.pictures import Array, Choice, part, sound

POINTS = 1000  # of a line at most
LINES = 8  # of a plot at most
BYTES = 1024  # shown as hex and as text
ROWS = 50  # records of a table
TEXT = 2000  # letters of values


def thinned(line: Array) -> list[float | None]:
    """At most POINTS values that look like the line: the least and the greatest of each stretch.
    What is not finite is None."""
    if line.dtype.kind == "c":
        line = np.abs(line)
    with np.errstate(over="ignore"):  # wider than 64 bits: infinity
        values = line.astype(np.float64)
    if len(values) > POINTS:
        edges = np.linspace(0, len(values), POINTS // 2 + 1).astype(np.intp)[:-1]
        quiet = np.where(np.isfinite(values), values, np.nan)
        pairs = np.fmin.reduceat(quiet, edges), np.fmax.reduceat(quiet, edges)
        values = np.stack(pairs, axis=1).reshape(-1)
    finite = np.isfinite(values)
    return [float(v) if ok else None for v, ok in zip(values, finite, strict=True)]


def plot(array: Array, choice: Choice) -> dict[str, Any]:
    """Lines along the longer of two axes."""
    shown = np.atleast_2d(part(array, choice))
    if shown.shape[0] > shown.shape[1]:
        shown = shown.T
    lines = [thinned(line) for line in shown[:LINES]]
    known = [value for line in lines for value in line if value is not None]
    return {
        "lines": lines,
        "length": shown.shape[1],
        "left_out": max(0, shown.shape[0] - LINES),
        "low": min(known, default=None),
        "high": max(known, default=None),
    }


def raw(array: Array) -> bytes:
    """The first bytes of an array, as they lie in memory."""
    flat = array.ravel(order="K")
    few = np.ascontiguousarray(flat[: -(-BYTES // max(1, array.dtype.itemsize))])
    return few.tobytes()[:BYTES]


def bytes_(array: Array) -> dict[str, Any]:
    data = raw(array)
    rows = [data[at : at + 16] for at in range(0, len(data), 16)]
    text = data.decode("utf-8", "replace")
    return {
        "hex": [f"{16 * i:06x}  {row.hex(' ')}" for i, row in enumerate(rows)],
        "text": "".join(c if c.isprintable() or c in "\n\t" else "·" for c in text),
        "left_out": array.nbytes - len(data),
    }


def short(value: Any, letters: int = 80) -> str:
    with np.printoptions(threshold=20, precision=6, edgeitems=3):
        text = str(value)
    return text if len(text) <= letters else text[: letters - 1] + "…"


def table(array: Array) -> dict[str, Any]:
    """The fields of a structured array, each with its values in the first records."""
    records = array.ravel(order="K")[:ROWS]
    assert array.dtype.names is not None and array.dtype.fields is not None
    return {
        "fields": [
            {
                "name": name,
                "dtype": short(array.dtype.fields[name][0]),
                "values": [short(value) for value in sound(records[name])],
            }
            for name in array.dtype.names[:200]
        ],
        "left_out": array.size - len(records),
    }


def text(array: Array) -> dict[str, Any]:
    return {"text": short(sound(array), TEXT)}


def reading(array: Array, kind: str, choice: Choice) -> dict[str, Any]:
    """What the page draws of a message that is no image."""
    if kind == "plot":
        return plot(array, choice)
    if kind == "bytes":
        return bytes_(array)
    return table(array) if kind == "table" else text(array)
