"""Arrays from one process to others, on one machine, at the speed of memory.

    import shmflow

    topic = shmflow.Topic("cam")          # in the process that has frames
    topic.write(frame)

    for frame in shmflow.Topic("cam", "r"):   # in any number of others
        ...

A topic is a ring of messages (NumPy arrays, bytes) in shared memory. Every reader sees every
message, at its own pace, without a copy; no reader slows a writer, unless it is lossless; no
broker runs.
`help(shmflow.Topic)` is the manual page.

Importing this package imports neither NumPy nor the native core; the first use of a name does, and
then imports all of it: no call does later, where a fork or a signal handler may be in between.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmflow._admin import TopicInfo, clean, get_include, topics, unlink
    from shmflow._core import Loan, Message, Messages, Participant, Stats, Topic, wait
    from shmflow._errors import (
        Closed,
        CorruptTopic,
        Empty,
        Error,
        Full,
        MessageTooLarge,
        NoSlot,
        NoSpace,
        NotAllowed,
        NotRetained,
        TopicExists,
        TopicMismatch,
        TopicNotFound,
        UnsupportedFileSystem,
        WrongMode,
    )
    from shmflow._sync import Sync, sync

__version__ = "0.1.0"

_HOMES = {
    "_core": ("Topic", "Loan", "Message", "Messages", "Participant", "Stats", "wait"),
    "_admin": ("TopicInfo", "clean", "get_include", "topics", "unlink"),
    "_errors": (
        "Closed",
        "CorruptTopic",
        "Empty",
        "Error",
        "Full",
        "MessageTooLarge",
        "NoSlot",
        "NoSpace",
        "NotAllowed",
        "NotRetained",
        "TopicExists",
        "TopicMismatch",
        "TopicNotFound",
        "UnsupportedFileSystem",
        "WrongMode",
    ),
    "_sync": ("Sync", "sync"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Closed",
    "CorruptTopic",
    "Empty",
    "Error",
    "Full",
    "Loan",
    "Message",
    "MessageTooLarge",
    "Messages",
    "NoSlot",
    "NoSpace",
    "NotAllowed",
    "NotRetained",
    "Participant",
    "Stats",
    "Sync",
    "Topic",
    "TopicExists",
    "TopicInfo",
    "TopicMismatch",
    "TopicNotFound",
    "UnsupportedFileSystem",
    "WrongMode",
    "__version__",
    "clean",
    "get_include",
    "sync",
    "topics",
    "unlink",
    "wait",
]


def _load() -> dict[str, Any]:
    # As statements, for tools that freeze programs find these, and do not look into _core.
    from shmflow import _admin, _aio, _core, _errors, _sync, _texts, _wire  # noqa: F401

    return {"_admin": _admin, "_core": _core, "_errors": _errors, "_sync": _sync}


def _has_core(folder: str) -> bool:
    return any(os.path.exists(f"{folder}/_core{suffix}") for suffix in EXTENSION_SUFFIXES)


def _leave_the_checkout() -> None:
    """Python that is started in a checkout finds this file there, and no core beside it: then all
    else comes from the installed package."""
    here = os.path.dirname(__file__)
    if not os.path.exists(f"{here}/../src/core/layout.h") or _has_core(here):
        return
    for entry in sys.path:
        if _has_core(folder := os.path.join(entry or os.curdir, "shmflow")):
            __path__.insert(0, folder)
            return
    raise ImportError(
        f"shmflow was imported from its source tree ({here}), where its core is not built, and "
        f"{sys.executable} has no other: `pip install .` in the source tree, or `pip install -e .` "
        "to work on it"
    )


_leave_the_checkout()


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'shmflow' has no attribute {name!r}")
    value = getattr(_load()[home], name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
