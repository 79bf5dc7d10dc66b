"""``shmflow top``: all topics, live.

Owns the rows, their order and the keys. What flows comes from watch.py, the picture goes to
screen.py, the keys come from keys.py.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from shmflow.cli import show
from shmflow.cli.names import Finite, no_topic
from shmflow.cli.show import Column

if TYPE_CHECKING:
    from shmflow.cli.keys import Keys
    from shmflow.cli.screen import Screen
    from shmflow.cli.watch import Flow

SPARK = 10  # reports that are remembered and drawn


@dataclass(slots=True)
class Row:
    """What is remembered of one topic."""

    flow: Flow
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=SPARK))
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=SPARK))

    def add(self, flow: Flow) -> None:
        self.flow = flow
        self.rates.append(flow.hz)
        self.lags.append(flow.now.lag)

    @property
    def lost_per_s(self) -> float:
        return sum(self.flow.lost.values()) / self.flow.seconds if self.flow.seconds > 0 else 0.0

    @property
    def style(self) -> str | None:
        """Red: writers wait for a reader; yellow: readers lose messages."""
        now = self.flow.now
        if any(p.lossless and p.lag >= now.depth for p in now.living):
            return "red"
        return "yellow" if self.lost_per_s else show.STATE_STYLES[now.state]

    def cells(self) -> list[str]:
        now = self.flow.now
        if now.error:
            return [now.name, *[""] * 10, now.state]
        return [
            now.name,
            show.rate(self.flow.hz),
            f"{show.sparkline(self.rates, SPARK):>{SPARK}}",
            f"{show.size(self.flow.bytes_per_s)}/s",
            str(now.lag),
            f"{show.sparkline(self.lags, SPARK):>{SPARK}}",
            str(now.readers),
            str(now.writers),
            show.size(now.held_bytes),
            show.rate(self.lost_per_s),
            "-" if now.age is None else show.span(now.age),
            now.state,
        ]


@dataclass(frozen=True, slots=True)
class Key:
    """A way to sort: by what, which column shows it, and whether the greatest comes first."""

    column: int
    value: Callable[[Row], float | str]
    falling: bool = True


COLUMNS = (
    Column("TOPIC"),
    Column("RATE/s", True),
    Column("", True),
    Column("BYTES", True),
    Column("LAG", True),
    Column("", True),
    Column("R", True),
    Column("W", True),
    Column("HELD", True),
    Column("LOST/s", True),
    Column("AGE", True),
    Column("STATE"),
)
# Columns that go first where the terminal is narrow.
LEAST_WANTED = (5, 2, 10, 8, 7, 6, 3, 9, 11, 4)
KEYS = {
    "name": Key(0, lambda row: row.flow.now.name, falling=False),
    "rate": Key(1, lambda row: row.flow.hz),
    "bytes": Key(3, lambda row: row.flow.bytes_per_s),
    "lag": Key(4, lambda row: row.flow.now.lag),
    "readers": Key(6, lambda row: row.flow.now.readers),
    "writers": Key(7, lambda row: row.flow.now.writers),
    "held": Key(8, lambda row: row.flow.now.held_bytes),
    "lost": Key(9, lambda row: row.lost_per_s),
    "age": Key(10, lambda row: row.flow.now.age or 0.0, falling=False),
    "state": Key(11, lambda row: row.flow.now.state, falling=False),
}


def fitting(table: Sequence[Sequence[str]], kept: int, width: int) -> list[int]:
    """The numbers of the columns that fit, as many as do; `kept` stays."""
    widths = [max(map(len, cells)) + 2 for cells in zip(*table, strict=True)]
    left = list(range(len(widths)))
    for number in LEAST_WANTED:
        if sum(widths[at] for at in left) > width and number != kept:
            left.remove(number)
    return left


class Board:
    """All rows, in the order that was asked for."""

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self.reverse = False
        self.rows: dict[str, Row] = {}

    def add(self, flows: list[Flow]) -> None:
        there = {flow.now.name for flow in flows}
        for name in set(self.rows) - there:
            del self.rows[name]
        for flow in flows:
            row = self.rows.get(flow.now.name)
            if row is None or row.flow.now.inode != flow.now.inode:
                row = self.rows[flow.now.name] = Row(flow)
            row.add(flow)

    def press(self, key: str) -> None:
        """s, right: the next column; left: the one before; r: the other way round."""
        names = list(KEYS)
        at = names.index(self.sort)
        if key in ("s", "right"):
            self.sort, self.reverse = names[(at + 1) % len(names)], False
        elif key == "left":
            self.sort, self.reverse = names[at - 1], False
        elif key == "r":
            self.reverse = not self.reverse

    def ordered(self) -> list[Row]:
        rows = sorted(self.rows.values(), key=lambda row: row.flow.now.name)
        key = KEYS[self.sort]
        # Both sorts are stable: equals stay in the order of their names.
        return sorted(rows, key=key.value, reverse=key.falling != self.reverse)

    def draw(self, screen: Screen, keys_work: bool) -> None:
        key = KEYS[self.sort]
        arrow = "▼" if key.falling != self.reverse else "▲"
        columns = [
            Column(column.title + arrow, column.right) if number == key.column else column
            for number, column in enumerate(COLUMNS)
        ]
        rows = self.ordered()
        below = "q quit   s ← → sort   r reverse" if keys_work else "Ctrl-C quits"
        if not rows:
            text = no_topic()
            below = f"{text[0].upper()}{text[1:]}"
        cells = [row.cells() for row in rows]
        if screen.is_full:
            table = [[column.title for column in columns], *cells]
            chosen = fitting(table, key.column, show.terminal_width())
            columns = [columns[at] for at in chosen]
            cells = [[row[at] for at in chosen] for row in cells]
        screen.draw(self.above(), columns, cells, [row.style for row in rows], below)

    def above(self) -> str:
        from shmflow._names import folder

        flows = [row.flow for row in self.rows.values()]
        total = show.size(sum(flow.bytes_per_s for flow in flows))
        text = f"{time.strftime('%H:%M:%S')}  {show.counted(len(flows), 'topic')}"
        text += f"  {show.rate(sum(flow.hz for flow in flows))} messages/s  {total}/s"
        try:
            space = os.statvfs(folder())
        except OSError:
            return text
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        whole = space.f_blocks * space.f_frsize
        return f"{text}  {folder()}: {show.size(used)} of {show.size(whole)} used"


def watch_keys(board: Board, screen: Screen, keys: Keys, until: float) -> bool:
    """Obeys keys until that time; False: it was q."""
    from shmflow.cli.keys import SUSPEND

    while (left := until - time.monotonic()) > 0:
        for key in keys.wait(left):
            if key in ("q", "Q"):
                return False
            if key == SUSPEND:
                screen.leave()
                keys.suspend()
                screen.enter()
            board.press(key)
            board.draw(screen, keys.work)
    return True


def run(sort: str, every: float, count: int | None) -> None:
    from shmflow.cli.keys import Keys
    from shmflow.cli.screen import Screen
    from shmflow.cli.watch import Watch

    board = Board(sort)
    with Watch() as watch, Keys() as keys, Screen() as screen:
        watch.flows()
        due, drawn = time.monotonic(), 0
        wait = min(every, 0.2)  # the first picture comes soon
        while count is None or drawn < count:
            due = max(due + wait, time.monotonic())
            if not watch_keys(board, screen, keys, due):
                return
            board.add(watch.flows())
            board.draw(screen, keys.work)
            drawn, wait = drawn + 1, every


@click.command("top")
@click.option(
    "--sort",
    type=click.Choice(list(KEYS)),
    default="rate",
    show_default=True,
    help="The column to sort by.",
)
@click.option(
    "--every",
    type=Finite(0.05, 86400),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between two pictures.",
)
@click.option("-n", "--count", type=click.IntRange(min=1), help="End after this many pictures.")
def command(sort: str, every: float, count: int | None) -> None:
    """Watch all topics, live.

    They come and go as they are made and removed. On a terminal it fills the screen: q quits, s or
    the arrows choose the column to sort by, r turns the order round, Ctrl-Z suspends. Else each
    picture is printed after the other.

    LAG is that of the reader that is furthest behind, R and W are readers and writers, HELD what
    readers look at in the ring, LOST what was evicted before somebody read it. The bars show the
    last pictures, the greatest value of each topic at full height. A topic is red where writers
    wait for a lossless reader, yellow where readers lose messages.

    \b
    Exit status: 0 ended by q, Ctrl-C or -n.
    """
    try:
        run(sort, every, count)
    except (KeyboardInterrupt, EOFError):
        pass
