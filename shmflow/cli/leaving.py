"""How a command that has something to clear up is left.

Owns what SIGTERM and a hang-up do to it, and the removal of topics that were made for the moment.
Ctrl-C is Python's own, and ends in the group.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

ENDS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """SIGTERM and a hang-up (nohup's case apart) leave through the same doors as Ctrl-C."""

    def leave(signum: int, frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    before = {}
    for number in ENDS:
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def remove_all(prefix: str) -> None:
    """Remove the topics whose names begin so: a Ctrl-C may come when one has just been made and
    belongs to nobody yet."""
    from shmflow._admin import unlink
    from shmflow._names import names

    for name in names():
        if name.startswith(prefix):
            with contextlib.suppress(OSError):
                unlink(name)
