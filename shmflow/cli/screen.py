"""A table that fills the terminal and is redrawn, with a line above and one below.

Owns the alternate screen: rich's, or a few control sequences where rich is not installed. Where
standard output is no terminal, each picture is printed after the other.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from shmflow.cli import show
from shmflow.cli.show import Column

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # other screen, cursor hidden


class Screen:
    """A context manager; `draw` shows a picture in place of the last one."""

    def __init__(self) -> None:
        self._rich: Any = None
        self.is_full = show.on_terminal()

    def __enter__(self) -> Screen:
        self.enter()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def enter(self) -> None:
        if show.has_rich():
            from rich.live import Live

            self._rich = Live(
                auto_refresh=False, screen=True, redirect_stdout=False, redirect_stderr=False
            )
            self._rich.start()
        elif self.is_full:
            self._put(ENTER)

    def leave(self) -> None:
        live, self._rich = self._rich, None
        with contextlib.suppress(OSError):  # a terminal that is gone needs nothing
            if live is not None:
                live.stop()
            elif self.is_full:
                self._put(LEAVE)

    def draw(
        self,
        above: str,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str]],
        styles: Sequence[str | None],
        below: str,
    ) -> None:
        if self._rich is not None:
            from rich.console import Group
            from rich.text import Text

            table = show.rich_table(columns, rows, styles)
            head = Text(above, style="bold", no_wrap=True, overflow="ellipsis")
            foot = Text(below, style="dim")
            self._rich.update(Group(head, table, foot), refresh=True)
            return
        lines = [above, *show.plain_table(columns, rows)]
        if self.is_full:
            width, height = shutil.get_terminal_size()
            foot = below.splitlines()
            shown = [*lines[: max(1, height - len(foot))], *foot]
            self._put("\x1b[H" + "\r\n".join(f"{x[: width - 1]}\x1b[K" for x in shown) + "\x1b[J")
        else:
            self._put("\n".join(lines) + "\n\n")

    def _put(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
