"""How a command that has something to clear up is left.

Owns what SIGTERM does to it, and the removal of topics that were made for the moment. Ctrl-C is
Python's own, and ends in the group.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """SIGTERM leaves through the same doors as Ctrl-C."""

    def leave(signum: int, frame: FrameType | None) -> None:
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def remove_all(prefix: str) -> None:
    """Remove the topics whose names begin so: a Ctrl-C may come when one has just been made and
    belongs to nobody yet."""
    from shmflow._admin import unlink
    from shmflow._names import names

    for name in names():
        if name.startswith(prefix):
            with contextlib.suppress(OSError):
                unlink(name)
