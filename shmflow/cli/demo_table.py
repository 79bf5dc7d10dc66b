"""The demo's live table: one row per process, redrawn on a terminal, printed line by line else.

Owns what a row shows and how it is spelt; both views show the same cells.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from shmflow.cli.demo_report import Part
from shmflow.cli.show import has_rich

# (title, width in characters, to the right)
COLUMNS = (
    ("process", 22, False),
    ("fps", 6, True),
    ("p50", 7, True),
    ("p99", 7, True),
    ("lag", 4, True),
    ("lost", 5, True),
    ("held", 4, True),
    ("", 16, False),
)


def span(ns: float) -> str:
    """A duration in seven characters at most."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            value = ns / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{ns / 1e3:.2f} µs"


def cells(part: Part) -> tuple[str, ...]:
    """The row of one process, as text."""
    name = f"{part.name}: {part.role}"
    if part.kills:
        name += f" ×{part.kills}"
    life = part.last
    if life is None:
        return (name, "", "", "", "", "", "", "starting")
    report = life.report
    if report.state == "failed":
        return (name, "", "", "", "", "", "", "failed")
    if part.is_producer:
        return (name, f"{life.fps:.1f}", "", "", "", "", "", report.how)
    percentiles = part.percentiles(recent=True)
    p50, p99 = map(span, percentiles) if percentiles else ("", "")
    counts = (str(report.lag), str(part.total("lost")), str(report.held))
    return (name, f"{life.fps:.1f}", p50, p99, *counts, report.how)


def lines(parts: Sequence[Part]) -> list[str]:
    """The table in plain text, at most 80 characters wide, its head first."""
    rows = [tuple(title for title, _, _ in COLUMNS), *map(cells, parts)]
    return [
        " ".join(
            f"{cell:>{width}}" if right else f"{cell:<{width}}"
            for cell, (_, width, right) in zip(row, COLUMNS, strict=True)
        ).rstrip()
        for row in rows
    ]


class PlainView:
    """Prints the table once a second."""

    EVERY = 1.0

    def __init__(self) -> None:
        self.due = time.monotonic() + self.EVERY

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, parts: Sequence[Part], caption: str) -> None:
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + self.EVERY
            self.finish(parts, caption)

    def finish(self, parts: Sequence[Part], caption: str) -> None:
        print(caption, *lines(parts), sep="\n", end="\n\n", flush=True)


class RichView:
    """Redraws the table in place, four times a second; leaves the last one standing."""

    EVERY = 0.25

    def __init__(self) -> None:
        from rich.live import Live

        self.live = Live(auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self.due = 0.0

    def __enter__(self) -> RichView:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def update(self, parts: Sequence[Part], caption: str) -> None:
        from rich.console import Group

        if time.monotonic() >= self.due:
            self.due = time.monotonic() + self.EVERY
            # The short last line has room for the ^C that a terminal echoes behind the cursor.
            self.live.update(Group(self._table(parts, caption), "Ctrl-C ends it "), refresh=True)

    def finish(self, parts: Sequence[Part], caption: str) -> None:
        self.live.update(self._table(parts, caption), refresh=True)

    def _table(self, parts: Sequence[Part], caption: str) -> Any:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        table = Table(
            title=caption,
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            padding=0,
        )
        for title, width, right in COLUMNS:
            justify: Any = "right" if right else "left"
            table.add_column(title, min_width=width, justify=justify, no_wrap=True)
        for part in parts:
            style = "red" if part.total("wrong") or part.total("changed") else None
            table.add_row(*cells(part), style=style)
        return table


def open_view() -> PlainView | RichView:
    """The view that fits where standard output goes."""
    return RichView() if has_rich() else PlainView()
