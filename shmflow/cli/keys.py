"""Single keys from the terminal, for views that fill it.

Owns the terminal's settings while it reads: no echo, no waiting for Enter. Whatever ends it, also
SIGTERM and a hang-up, the terminal is as it was. Without a terminal, or in the background, it
yields no key and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from types import FrameType

ARROWS = {b"A": "up", b"B": "down", b"C": "right", b"D": "left"}
ESCAPE = b"\x1b"
SUSPEND = "\x1a"  # Ctrl-Z, as a key


def parse_keys(data: bytes) -> list[str]:
    """'q', 'left', ...; sequences of other keys are passed over."""
    keys = []
    at = 0
    while at < len(data):
        if data[at : at + 1] == ESCAPE and data[at + 1 : at + 2] in (b"[", b"O"):
            at += 2
            while at < len(data) and not 0x40 <= data[at] <= 0x7E:  # parameters, until the final
                at += 1
            keys += [ARROWS[data[at : at + 1]]] if data[at : at + 1] in ARROWS else []
        elif data[at] < 0x80 and data[at : at + 1] != ESCAPE:
            keys.append(chr(data[at]))
        at += 1
    return keys


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


class Keys:
    """A context manager; `wait` gives what was pressed."""

    def __init__(self) -> None:
        self._fd = -1
        self._before: list[object] = []
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Keys:
        with contextlib.suppress(OSError, ValueError, termios.error):
            fd = sys.stdin.fileno()
            if os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp():
                self._before = termios.tcgetattr(fd)
                self._fd = fd
        if self._fd >= 0 or sys.stdout.isatty():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                    self._handlers[number] = signal.signal(number, _end)
        if self._fd >= 0:
            self._take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._handlers.clear()
        self._fd = -1

    @property
    def work(self) -> bool:
        """Is there anybody to press one?"""
        return self._fd >= 0

    def _take(self) -> None:
        with contextlib.suppress(termios.error):
            tty.setcbreak(self._fd, termios.TCSADRAIN)
            mine = termios.tcgetattr(self._fd)
            mine[6][termios.VSUSP] = b"\0"  # Ctrl-Z comes as a key: a stop needs a tidy screen
            termios.tcsetattr(self._fd, termios.TCSADRAIN, mine)

    def give_back(self) -> None:
        """The terminal as it was before; a terminal that has gone needs nothing."""
        if self._fd >= 0:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]

    def suspend(self) -> None:
        """Stops this job, as Ctrl-Z does; back when it goes on."""
        self.give_back()
        os.kill(0, signal.SIGTSTP)
        self._take()

    def wait(self, seconds: float) -> list[str]:
        """What is pressed within this time, as soon as something is; [] if nothing was."""
        if self._fd < 0:
            time.sleep(max(0.0, seconds))
            return []
        if not select.select([self._fd], [], [], max(0.0, seconds))[0]:
            return []
        try:
            data = os.read(self._fd, 1024)
        except OSError:
            data = b""
        if not data:  # the terminal is gone
            raise EOFError
        return parse_keys(data)
