"""What concerns topics as such, not one Topic: listing, removing, cleaning, building against.

Nothing here takes a participant's slot for longer than a call, or consumes a message.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from shmflow import _core, _names, _texts
from shmflow._errors import CorruptTopic, NotAllowed, TopicNotFound


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic, as `topics()` tells of it.

    name: as given to `Topic`.  size: bytes of its file.  capacity: bytes for messages.
    depth: the most messages retained, however small.  head: the newest one's number, 0 if none.
    retained: messages there now.  readers, writers: living participants that have read, written.
    participants: all living ones.  temporary: goes with its last participant.
    ended: was shut down.  error: why it cannot be used, or '' (then the numbers are 0).
    """

    name: str
    size: int
    capacity: int = 0
    depth: int = 0
    head: int = 0
    retained: int = 0
    readers: int = 0
    writers: int = 0
    participants: int = 0
    temporary: bool = False
    ended: bool = False
    error: str = ""


def _why(status: str) -> str:
    return _texts.HEADER_RUNGS.get(status) or _core._said(status)


def _info(name: str) -> TopicInfo | None:
    path = _names.path_of(name)
    status, facts = _core._peek(path)
    if status == "SF_DESERTED":
        _core._remove(path, True)  # a temporary one, whose last participant could not do it
    if status in ("SF_NOT_FOUND", "SF_DESERTED"):
        return None
    try:
        size = os.lstat(path).st_size
    except OSError:
        return None
    if status:
        return TopicInfo(name, size, error=_why(status))
    try:
        with _core.Topic(name, "monitor", create=False) as monitor:
            living = [p for p in monitor.participants() if p.alive]
            head, tail = monitor.head or 0, monitor.tail or 1
            return TopicInfo(
                name=name,
                size=size,
                capacity=facts["capacity"],
                depth=facts["depth"],
                head=head,
                retained=head + 1 - tail if tail <= head else 0,
                readers=sum("r" in p.mode for p in living),
                writers=sum("w" in p.mode for p in living),
                participants=len(living),
                temporary=facts["temporary"],
                ended=monitor.ended,
            )
    except TopicNotFound:
        return None
    except (CorruptTopic, NotAllowed, OSError) as error:
        return TopicInfo(name, size, error=str(error))


def topics() -> list[TopicInfo]:
    """All topics that have a file, sorted by name; those that cannot be used say why.

    Never blocks, disturbs nobody. An empty list if there are none.
    """
    found = [_info(name) for name in _names.names()]
    return [info for info in found if info is not None]


def unlink(name: str) -> None:
    """Remove a topic by name, used or idle, usable or damaged.

    Readers drain it and follow the next generation of that name; views stay valid; its memory
    goes with the last of them. Raises TopicNotFound, NotAllowed, ValueError for a bad name.
    """
    _names.check_name(name)
    path = _names.path_of(name)
    for _ in range(100):
        status = _core._remove(path, False)
        if status != "SF_RACE":  # another remover is at it
            break
        os.sched_yield()
    if status == "SF_NOT_FOUND":
        raise TopicNotFound(2, f"there is no topic {name!r}{_names.nearest(name)}", path)
    if status == "SF_DENIED":
        raise NotAllowed(13, f"no permission to remove {path}{_texts._permissions(path)}", path)
    if status and status != "SF_RACE":
        raise CorruptTopic(22, f"{path} cannot be removed as a topic: {_why(status)}", path)


def unlink_idle(name: str) -> bool:
    """Remove a topic if nobody is attached to it; whether it was removed. For tools."""
    path = _names.path_of(name)
    status = _core._remove(path, True)
    if status == "SF_DENIED":
        raise NotAllowed(13, f"no permission to remove {path}{_texts._permissions(path)}", path)
    return status == ""


def clean() -> int:
    """Take back what dead processes left; returns how many things that were.

    Slots, pins and claims of dead participants in all topics that this user may write, temporary
    topics that nobody is attached to any more, and unfinished files of creators that died. Topics
    that somebody may still want (idle, not temporary) stay: `unlink` them. Judged by locks that
    the kernel holds for living processes, so the living are never touched. Never blocks.
    """
    return sum(cleaned.participants + cleaned.removed for cleaned in clean_each())


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What `clean_each` took back in one file: places of dead participants, and the file itself.
    Without a name, the file was never a topic."""

    name: str
    path: str
    participants: int = 0
    removed: bool = False


def clean_each(dry_run: bool = False) -> list[Cleaned]:
    """What clean() does, told file by file; or what it would do."""
    look = _would_clean if dry_run else _clean_one
    found = [look(name, _names.path_of(name)) for name in _names.names()]
    for file in sorted(Path(_names.folder()).glob(".shmflow-*")):
        found.append(Cleaned("", str(file), removed=_drop_unfinished(file, dry_run)))
    return [cleaned for cleaned in found if cleaned.participants or cleaned.removed]


def _clean_one(name: str, path: str) -> Cleaned:
    status, facts = _core._peek(path)
    if status == "SF_DESERTED":
        return Cleaned(name, path, removed=_core._remove(path, True) == "")
    if status:
        return Cleaned(name, path)
    participants = _core._clean(path)
    # Cleaning attaches for a moment: a temporary topic may have gone with that.
    removed = facts["temporary"] and _core._remove(path, True) in ("", "SF_NOT_FOUND")
    return Cleaned(name, path, participants, removed)


def _would_clean(name: str, path: str) -> Cleaned:
    status, facts = _core._peek(path)
    if status == "SF_DESERTED":
        return Cleaned(name, path, removed=True)
    if status or not os.access(path, os.R_OK | os.W_OK):
        return Cleaned(name, path)
    try:
        with _core.Topic(name, "monitor", create=False) as monitor:
            people = monitor.participants()
    except (TopicNotFound, CorruptTopic, NotAllowed, OSError, ValueError):
        return Cleaned(name, path)
    dead = sum(not p.alive for p in people)
    return Cleaned(name, path, dead, facts["temporary"] and dead == len(people))


def _drop_unfinished(file: Path, dry_run: bool) -> bool:
    """A creator on a file system without O_TMPFILE needs seconds, not an hour."""
    try:
        if time.time() - file.stat().st_mtime > 3600:
            if not dry_run:
                file.unlink()
            return True
    except OSError:
        pass
    return False


def get_include() -> str:
    """The folder with shmflow's C sources: the Python-free core and its public header.

        cc app.c -I$INC $INC/core/*.c $INC/os/*.c -pthread

    with INC=$(python -c 'import shmflow; print(shmflow.get_include())') builds a C program that
    writes and reads the same topics (`#include "core/shmflow.h"`).
    """
    installed = Path(__file__).parent / "include"
    if installed.is_dir():
        return str(installed)
    return str(Path(__file__).parent.parent / "src")  # a source tree, installed with -e
