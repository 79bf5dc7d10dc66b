"""The forms in which ``shmflow echo`` prints a message: for people, as CSV, as JSON, single fields.

Owns how an array, a stamp and meta are written. Knows nothing of topics: a message goes in, text
comes out.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shmflow._core import Message
from shmflow.cli import show
from shmflow.cli.pictures import sound

HEX_LINES = 8  # of 16 bytes each, of a message that is not text
LONGEST_TEXT = 2000  # characters
SPACE = dict.fromkeys(map(ord, "\n\r\t"))  # not printable, and part of any text


def iso(timestamp_ns: int) -> str:
    """Local time with microseconds and the offset: 2031-05-06T07:08:09.123456+02:00."""
    seconds, ns = divmod(timestamp_ns, 10**9)
    try:
        moment = datetime.datetime.fromtimestamp(seconds).astimezone()
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return f"{timestamp_ns} ns"
    return moment.replace(microsecond=ns // 1000).isoformat(timespec="microseconds")


def text_of(array: Any) -> str | None:
    """The text that these bytes are, if they are a text at all."""
    if array.dtype != np.uint8 or array.ndim != 1:
        return None
    try:
        text = array.tobytes().decode()
    except UnicodeDecodeError:
        return None
    return text if text.translate(SPACE).isprintable() else None


def hex_dump(data: bytes) -> list[str]:
    """The first bytes as `hexdump -C` shows them, and how many there are in all."""
    lines = []
    for start in range(0, min(len(data), 16 * HEX_LINES), 16):
        row = data[start : start + 16]
        dots = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        lines.append(f"{start:06x}  {row.hex(' '):<47}  {dots}")
    if len(data) > 16 * HEX_LINES:
        lines.append(f"… {len(data):,} bytes in all")
    return lines


def picture_of(array: Any) -> str:
    """An array as NumPy prints it, abbreviated; bytes as text or as a hex dump."""
    if (text := text_of(array)) is not None:
        cut = len(text) > LONGEST_TEXT
        shown = text[:LONGEST_TEXT].replace("\r\n", "\n").replace("\r", "\\r")
        return shown + f"… {len(text):,} characters in all" * cut
    if array.dtype == np.uint8 and array.ndim == 1:
        return "\n".join(hex_dump(array.tobytes()))
    array = sound(array)
    return str(np.array2string(array, threshold=1000, edgeitems=3, max_line_width=100))


# ---- fields --------------------------------------------------------------------------------------


def field_text(message: Message, field: str) -> str:
    """One field as a person reads it."""
    match field:
        case "timestamp":
            return iso(message.timestamp_ns)
        case "array":
            return picture_of(message.array)
        case "shape":
            return str(message.array.shape)
        case "dtype":
            return str(message.array.dtype)
        case "bytes":
            return str(message.array.nbytes)
        case "meta":
            meta = show.meta_of(message)
            return show.DAMAGED_META if meta is None else show.json_text(meta)
    return str(getattr(message, field))


def header(message: Message) -> str:
    """What there is to know of a message beside its array, on one line."""
    array = message.array
    parts = [
        f"#{message.seq}",
        iso(message.timestamp_ns),
        f"{array.dtype} {array.shape}",
        show.size(array.nbytes),
    ]
    if show.meta_of(message) != {}:
        parts.append(field_text(message, "meta"))
    if message.lost:
        parts.append(f"lost {message.lost:,} before this")
    return "  ".join(parts)


# ---- for programs --------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """What `tolist()` gives, as JSON has it: NaN and infinities are null, a complex number is a
    pair, a time is a text, bytes are Latin-1."""
    match value:
        case list() | tuple():
            return [plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case complex():
            return [plain(value.real), plain(value.imag)]
        case bytes():
            return value.decode("latin-1")
        case None | bool() | int() | str():
            return value
    if isinstance(value, np.floating):  # wider than Python's own
        return plain(float(value))
    if isinstance(value, np.complexfloating):
        return plain(complex(value))
    return str(value)


def nested(array: Any) -> Any:
    """An array as nested lists of JSON values."""
    array = sound(array)
    values = array.tolist()
    kind, width = array.dtype.kind, array.dtype.itemsize
    if kind in "biu" or (kind == "f" and width <= 8 and np.isfinite(array).all()):
        return values
    return plain(values)


def as_json(message: Message, fields: Sequence[str]) -> dict[str, Any]:
    """The fields as one object; the stamp in ns since 1970, as `timestamp_ns`."""
    array = message.array
    values: dict[str, Callable[[], Any]] = {
        "seq": lambda: message.seq,
        "timestamp": lambda: message.timestamp_ns,
        "dtype": lambda: array.dtype.str if array.dtype.names is None else str(array.dtype),
        "shape": lambda: list(array.shape),
        "bytes": lambda: array.nbytes,
        "meta": lambda: show.meta_of(message),
        "lost": lambda: message.lost,
        "writer": lambda: message.writer,
        "array": lambda: nested(array),
    }
    return {("timestamp_ns" if f == "timestamp" else f): values[f]() for f in fields}


def as_cells(message: Message, fields: Sequence[str]) -> list[str]:
    """The fields as cells of a CSV row; the stamp in ns since 1970, the array flat, value by value,
    or as one cell if it is a text."""
    cells: list[str] = []
    for field in fields:
        if field == "timestamp":
            cells.append(str(message.timestamp_ns))
        elif field == "shape":
            cells.append("x".join(map(str, message.array.shape)))
        elif field != "array":
            cells.append(field_text(message, field))
        elif (text := text_of(message.array)) is not None:
            cells.append(text)
        else:
            cells.extend(map(str, sound(message.array).ravel().tolist()))
    return cells
