"""How the command line shows things: numbers, states, tables, JSON lines, pictures that move.

Owns the choice between rich (where it is installed and standard output is a terminal) and plain
text. Plain tables are aligned with spaces; what a program reads is JSON.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from shmflow._core import Message

STATUS_EVERY = 0.2  # seconds between two states of a status line
BARS = " ▁▂▃▄▅▆▇█"
STATE_STYLES = {  # of a topic's row, as rich spells them
    "live": None,
    "idle": "dim",
    "ended": "dim",
    "dead": "yellow",
    "private": "dim",
    "broken": "red",
}


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False  # numbers


def on_terminal(stream: TextIO | None = None) -> bool:
    """Is it one that can move its cursor? None: standard output."""
    return (stream or sys.stdout).isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_rich() -> bool:
    return on_terminal() and importlib.util.find_spec("rich") is not None


# ---- numbers and names ---------------------------------------------------------------------------


def size(nbytes: float) -> str:
    """'12 B', '64.0 MiB'."""
    from shmflow._names import format_size

    return format_size(int(nbytes))


def counted(number: int, noun: str) -> str:
    """'1 message', '1,234 messages'."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def rate(hz: float) -> str:
    """Messages per second: '0', '0.50', '29.9', '1,234', '1.25 M'."""
    if hz >= 1e6:
        return f"{hz / 1e6:.2f} M"
    return f"{hz:,.0f}" if hz >= 1000 or hz == 0 else f"{hz:.{1 if hz >= 10 else 2}f}"


def span(seconds: float) -> str:
    """'12 µs', '3.4 ms', '2.0 s', '3 min', '5 h', '2 d'."""
    for unit, long in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * long:
            return f"{seconds / long:.0f} {unit}"
    for unit, short in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= short:
            value = seconds / short
            return f"{value:.{1 if value < 100 else 0}f} {unit}"
    return f"{max(seconds, 0) * 1e6:.0f} µs"


def user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values, the greatest as a full block; 0 is a space."""
    shown = list(values)[-width:]
    top = max(shown, default=0)
    if top <= 0:
        return " " * len(shown)
    return "".join(BARS[0 if v <= 0 else max(1, round(v / top * 8))] for v in shown)


# ---- what others wrote ---------------------------------------------------------------------------

# Control characters, and halves of pairs. Some of them move the cursor, or rename the window.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, kept: str = "") -> str:
    """What another process wrote (a file's name, meta), without what a terminal would obey: as
    Python spells it, but for the characters to keep."""
    return UNPRINTABLE.sub(lambda m: m[0] if m[0] in kept else repr(m[0])[1:-1], text)


def finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null is what it has instead. Other processes' meta may
    have them (1e999 is one)."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: finite(item) for key, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
    return value


def json_text(value: Any, **options: Any) -> str:
    """JSON that says the same everywhere: what a terminal obeys, or an output of another encoding
    has no letter for, as \\uXXXX."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    options |= {"ensure_ascii": plain, "allow_nan": False}
    try:
        text = json.dumps(value, **options)
    except ValueError:
        text = json.dumps(finite(value), **options)
    return UNPRINTABLE.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


def meta_of(message: Message) -> dict[str, Any] | None:
    """The message's meta; None where it is damaged, as a writer in C may send it: the rest of the
    message is none the worse for it."""
    from shmflow._errors import CorruptTopic

    try:
        return dict(message.meta)
    except CorruptTopic:
        return None


DAMAGED_META = "meta is damaged: no JSON object"


# ---- tables and JSON -----------------------------------------------------------------------------


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [[column.title for column in columns], *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    return [
        "  ".join(
            f"{cell:>{width}}" if column.right else f"{cell:<{width}}"
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in table
    ]


def rich_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], styles: Sequence[str | None] = ()
) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="ellipsis" if column.right else "fold",
        )
    for i, row in enumerate(rows):
        style = styles[i] if i < len(styles) else None
        table.add_row(*(Text(cell) for cell in row), style=style)
    return table


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], styles: Sequence[str | None] = ()
) -> None:
    """rich's table on a terminal, aligned columns else; `styles`: of rows, as rich spells them."""
    if has_rich():
        from rich.console import Console

        Console().print(rich_table(columns, rows, styles))
    else:
        for line in plain_table(columns, rows):
            click.echo(line)


def picture_of(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], styles: Sequence[str | None] = ()
) -> Any:
    """A table for `live`: rich's, or lines with an empty one at the end."""
    if has_rich():
        return rich_table(columns, rows, styles)
    return [*plain_table(columns, rows), ""]


def print_json(value: Any) -> None:
    """One value on one line, at once, for programs that read along."""
    click.echo(json_text(value, separators=(",", ":")))
    sys.stdout.flush()


# ---- pictures that move --------------------------------------------------------------------------


@contextlib.contextmanager
def live() -> Iterator[Callable[[Any], None]]:
    """Gives a function that shows a renderable (rich) or a list of lines: in place on a terminal,
    one after the other else. Whatever ends it, the terminal is as it was."""
    if has_rich():
        from rich.live import Live

        with Live(auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as picture:
            yield lambda shown: picture.update(shown, refresh=True)
        return

    def echo(shown: Any) -> None:
        for line in shown if isinstance(shown, list) else [str(shown)]:
            click.echo(line)
        sys.stdout.flush()

    yield echo


class StatusLine:
    """One line on stderr that tells how it goes, rewritten in place; nothing if no terminal."""

    def __init__(self) -> None:
        self.shows = on_terminal(sys.stderr)
        self.due = 0.0

    def tell(self, text: str) -> None:
        if self.shows:
            sys.stderr.write("\r\x1b[K" + text[: terminal_width() - 1])
            sys.stderr.flush()

    def is_due(self) -> bool:
        if not self.shows or (now := time.monotonic()) < self.due:
            return False
        self.due = now + STATUS_EVERY
        return True

    def clear(self) -> None:
        self.tell("")


def ticks(every: float, count: int | None = None) -> Iterator[float]:
    """Yields at fixed times, `every` seconds apart; `count` times if it is given. Ctrl-C ends it
    like anything else."""
    due = time.monotonic()
    done = 0
    while count is None or done < count:
        due += every
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due, time.monotonic() - every)
        yield time.monotonic()
        done += 1


def terminal_width() -> int:
    return shutil.get_terminal_size().columns
