"""Every exception of shmflow: all under `Error`, each also what the standard library calls it.

Texts are written in `_texts`. Those that are OSErrors of the file system carry `errno` and
`filename`; str() of any of them is the text alone.
"""

from __future__ import annotations

import errno
import io
import queue


class Error(Exception):
    """The base of all exceptions that shmflow raises on its own account."""

    def __str__(self) -> str:
        return str(self.args[1] if len(self.args) > 1 else self.args[0] if self.args else "")


class _TimedOut(TimeoutError):
    """Carries the errno of a timeout, also after pickling."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.errno = errno.ETIMEDOUT


class Empty(Error, queue.Empty, _TimedOut):
    """No message came within the timeout. Also a `queue.Empty` and a `TimeoutError`."""


class Full(Error, queue.Full, _TimedOut):
    """A write could not get its turn or its room in time. Also `queue.Full`, `TimeoutError`.

    `written` tells how many messages of a `write_many` got through.
    """

    written: int = 0


class Closed(Error, EOFError):
    """The stream has ended (`shutdown`), or this Topic was closed. Also an `EOFError`."""


class NotRetained(Error, LookupError):
    """No message of that number is there: evicted, or not written yet. Also a `LookupError`."""


class TopicNotFound(Error, FileNotFoundError):
    """There is no topic of that name, and the call was not allowed to make one."""


class TopicExists(Error, FileExistsError):
    """`create=True`, but a topic of that name is there."""


class TopicMismatch(Error, ValueError):
    """A topic in use does not meet the capacity, depth or max_message that was asked for."""


class MessageTooLarge(Error, ValueError):
    """The message is larger than the topic's `max_message`."""


class CorruptTopic(Error, OSError):
    """The file under that name is not a usable topic: foreign, damaged, or another version's."""


class NotAllowed(Error, PermissionError):
    """The topic's permissions, or its owner, do not admit this."""


class NoSlot(Error, OSError):
    """Every participant slot of the topic is taken by a living process."""


class NoSpace(Error, OSError):
    """Shared memory, or the memory cgroup, has not enough room for the topic."""


class UnsupportedFileSystem(Error, OSError):
    """Topics cannot lie in this folder: its file system lacks what they stand on."""


class WrongMode(Error, io.UnsupportedOperation):
    """The Topic was opened in a mode that does not admit this call."""


# For users who look at them in a traceback: they belong to the package, not to this room.
for _class in [value for value in globals().values() if isinstance(value, type)]:
    _class.__module__ = "shmflow"
