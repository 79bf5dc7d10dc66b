"""Texts of errors: what was asked, what is there, what to do.

The native core calls `error()` with the name of a status and what it knows; here the facts are
gathered (by a monitor, which disturbs nobody) and put into words. Gathering facts never fails:
what cannot be learned is left out.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from typing import TYPE_CHECKING, Any

from shmflow import _errors as errors
from shmflow._names import bad_name as bad_name  # the core asks for it here
from shmflow._names import file_system, folder, format_size, nearest, path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shmflow._core import Participant, Topic

HEADER_RUNGS = {
    "SF_NOT_A_FILE": "it is not a regular file",
    "SF_SHORT": "it is shorter than a topic's header",
    "SF_FOREIGN": "it does not start like a topic: some other program made it",
    "SF_ENDIAN": "it was made on a machine of the other byte order",
    "SF_BAD_HEADER": "its header contradicts itself",
    "SF_TRUNCATED": "it does not have the length that its header tells",
    "SF_SPARSE": "it has holes, as a copy has, and a hole may find no memory when it is used",
    "SF_CORRUPT": "its tables contradict each other",
}

# What a file system cannot do, tried on a file of it.
FILE_SYSTEM_LACKS = {
    "SF_FS_LOCKS": "the lock that tells the living from the dead ends there with the descriptor",
    "SF_FS_SHARING": "it does not share memory between processes",
    "SF_FS_RESERVE": "it cannot reserve memory",
    "SF_FS_FUTEX": "nobody can be woken through a file of it",
}

# What the path of a topic belongs to: the exception, and its errno.
REFUSALS: dict[str, tuple[type[OSError], int]] = {
    "SF_NOT_FOUND": (errors.TopicNotFound, errno.ENOENT),
    "SF_GONE": (errors.TopicNotFound, errno.ENOENT),
    "SF_EXISTS": (errors.TopicExists, errno.EEXIST),
    "SF_NO_LOSSLESS_HERE": (errors.NotAllowed, errno.EPERM),
    "SF_NO_GROUP": (errors.NoSlot, errno.EUSERS),
    "SF_DENIED": (errors.NotAllowed, errno.EACCES),
    "SF_STRANGER": (errors.NotAllowed, errno.EPERM),
    "SF_NO_SLOT": (errors.NoSlot, errno.EUSERS),
    "SF_NO_CGROUP": (errors.NoSpace, errno.ENOMEM),
    "SF_FORMAT": (errors.CorruptTopic, errno.EINVAL),
    **dict.fromkeys(FILE_SYSTEM_LACKS, (errors.UnsupportedFileSystem, errno.EOPNOTSUPP)),
    "SF_BAD_MESSAGE": (errors.CorruptTopic, errno.EINVAL),
    **dict.fromkeys(HEADER_RUNGS, (errors.CorruptTopic, errno.EINVAL)),
}

NO_BEACON = {
    -errno.EMFILE: "needs a descriptor, and this process has as many as it may have; close what is "
    "not needed, or raise the limit: ulimit -n",
    -errno.ENFILE: "needs a descriptor, and the system has no more; close what is not needed, or "
    "raise fs.file-max",
    -errno.EAGAIN: "needs a thread, and the system gives no more; end some, or raise the limit: "
    "ulimit -u, pids.max of the cgroup",
}


def who(participant: Participant) -> str:
    """'pid 812 (cam.py)'."""
    return f"pid {participant.pid} ({participant.command})"


def duration(seconds: float) -> str:
    """'0.25 s', '14 s', '3 min', '2 h'."""
    if seconds < 10:
        return f"{seconds:.3g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def _living(topic: Topic) -> list[Participant]:
    """Who is attached; nobody where that cannot be told."""
    with contextlib.suppress(Exception):
        return [p for p in topic.participants() if p.alive]
    return []


def _unknown(topic: Topic) -> str:
    """Why it cannot be told who is attached, or ''."""
    try:
        topic.participants()
    except Exception as error:
        why = getattr(error, "errno", None)
        return f"who is alive cannot be told ({os.strerror(why) if why else error})"
    return ""


def _attached(topic: Topic) -> str:
    living = _living(topic)
    if not living:
        return _unknown(topic) or "nobody is attached"
    shown = ", ".join(who(p) for p in living[:4])
    return f"attached: {shown}" + (f" and {len(living) - 4} more" if len(living) > 4 else "")


def _writers(topic: Topic) -> str:
    writers = [p for p in _living(topic) if "w" in p.mode]
    if writers:
        return f"{len(writers)} writer{'s are' if len(writers) > 1 else ' is'} alive: " + ", ".join(
            who(p) for p in writers[:3]
        )
    return _unknown(topic) or "no writer is alive"


def empty(topic: Topic, timeout: float) -> errors.Empty:
    """No message came."""
    text = f"no message on {topic.name!r} in {timeout:g} s"
    last = None
    with contextlib.suppress(Exception):
        last = topic._last()
    if last is None:
        if not os.path.exists(path_of(topic.name)):
            text += f"; no writer has made the topic yet{nearest(topic.name)}"
        else:
            text += f"; none was ever written; {_writers(topic)}"
    else:
        _, stamp_ns, pid, command = last
        age = max(0.0, (time.time_ns() - stamp_ns) / 1e9)
        text += f"; the last came {duration(age)} ago; {_writers(topic)}"
        if text.endswith("no writer is alive"):
            text += f" (the last was pid {pid}{', ' + command if command else ''})"
    result = errors.Empty(text)
    result.errno = errno.ETIMEDOUT
    return result


def empty_set(missing: Sequence[Topic], topics: Sequence[Topic], timeout: float) -> errors.Empty:
    """No set came: of which topics there is nothing, and what is known of the first."""
    names, waited = (", ".join(repr(topic.name) for topic in some) for some in (topics, missing))
    facts = str(empty(missing[0], timeout)).partition("; ")[2]
    whose = f"of {missing[0].name!r}: " if len(missing) > 1 else ""
    result = errors.Empty(
        f"no set of {names} in {timeout:g} s: waiting for {waited}; {whose}{facts}; what was read "
        "of the others is kept, and the next step goes on"
    )
    result.errno = errno.ETIMEDOUT
    return result


def full(topic: Topic, status: str, timeout: float, length: int) -> errors.Full:
    """A write ran out of time."""
    text = f"could not write {format_size(length)} to {topic.name!r} within {timeout:g} s: "
    if status == "SF_NO_ROOM":
        holders = sorted((p for p in _living(topic) if p.held_bytes), key=lambda p: -p.held_bytes)
        text += "readers hold the rest of the ring, and another writer is using the lane"
        if holders:
            text += "; held by " + ", ".join(
                f"{who(p)}: {format_size(p.held_bytes)}" for p in holders[:3]
            )
        text += "; drop views that are no longer needed, or give the topic more capacity"
    elif status == "SF_LAGGING":
        text += f"what would have to go has yet to be read by {_laggards(topic)}"
        text += "; wait longer, let it read faster, or give the topic more depth and capacity"
    elif status == "SF_OWN_LAG":
        text = (
            f"could not write {format_size(length)} to {topic.name!r}: only this Topic itself, a "
            "lossless reader, has yet to read what would have to go, and cannot while it writes; "
            "read first, or write through a Topic of its own"
        )
    else:
        holder = None
        with contextlib.suppress(Exception):
            holder = topic._lock_holder()
        text += "the writer lock is held"
        if holder is not None:
            pid, command, blind = holder
            text += f" by pid {pid} ({command})" + _state_of(pid)
            if blind:
                return _timed_out(errors.Full(text + _blindness(topic.name, blind)))
        text += "; a stopped process keeps it until it goes on (kill -CONT) or ends"
    return _timed_out(errors.Full(text))


def _timed_out(error: errors.Full) -> errors.Full:
    error.errno = errno.ETIMEDOUT
    return error


def _blindness(name: str, number: int) -> str:
    """Why nobody can tell here whether the holder of the lock lives."""
    text = (
        f"; if that process is dead, its lock cannot be taken here: {path_of(name)} cannot be "
        f"opened any more ({os.strerror(number)})"
    )
    if number in (errno.EACCES, errno.EPERM):
        text += f", this process runs as uid {os.geteuid()} now; any other participant can"
        return f"{text}, and so can `shmflow clean` of a user who may; or give it permissions=0o660"
    return text + "; any other participant can"


def _laggards(topic: Topic) -> str:
    """Who is waited for: lossless readers, the one that is furthest behind first."""
    behind = sorted((p for p in _living(topic) if p.lossless and p.lag), key=lambda p: -p.lag)
    if not behind:
        unknown = _unknown(topic)
        return "a lossless reader" + (f"; {unknown}" if unknown else "")
    shown = [
        f"{who(p)}{f' of group {p.group!r}' if p.group else ''}: {p.lag} "
        f"message{'s' if p.lag > 1 else ''} behind{_state_of(p.pid)}"
        for p in behind[:3]
    ]
    more = f" and {len(behind) - 3} more" if len(behind) > 3 else ""
    return ", ".join(shown) + more


def _state_of(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        # UTF-8: any other codec would be imported by this call.
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
        return ", which is stopped" if state in "Tt" else ""
    return ""


def _mismatch(topic: Topic, details: dict[str, Any]) -> Exception:
    asked, there = [], []
    for key, show in (("capacity", format_size), ("depth", str), ("max_message", format_size)):
        want, have = details.get(f"asked_{key}"), details.get(f"found_{key}")
        if want and (have < want if key == "capacity" else have != want):
            asked.append(f"{key} {show(want)}")
            there.append(f"{key} {show(have) if have else 'unbounded'}")
    return errors.TopicMismatch(
        f"topic {topic.name!r} is in use with {', '.join(there)}, but {', '.join(asked)} was asked "
        f"for; {_attached(topic)}; leave the argument out to take what is there, end the others, "
        "or pass replace=True to start a new generation"
    )


def _kept(topic: Topic, details: dict[str, Any]) -> str:
    """What was to be replaced is still there."""
    size = details.get("replaced", 0)
    if not size:
        return ""
    return (
        f"; the topic of that name that was to be replaced keeps its {format_size(size)} and its "
        f"messages, {_attached(topic)}"
    )


def _no_space(topic: Topic, details: dict[str, Any]) -> Exception:
    space = os.statvfs(folder())
    if space.f_files and not space.f_favail:
        text = (
            f"{folder()} has no inode left for {topic.name!r}: all {space.f_files} are taken; "
            "remove files that are not needed, or mount it with a larger nr_inodes"
        )
        return errors.NoSpace(errno.ENOSPC, text, path_of(topic.name))
    text = (
        f"asked for {format_size(details.get('wanted', 0))} for {topic.name!r}, {folder()} has "
        f"{format_size(space.f_bavail * space.f_frsize)} free of "
        f"{format_size(space.f_blocks * space.f_frsize)}{_kept(topic, details)}; give a smaller "
        "capacity, remove topics "
        "that are not needed (shmflow.topics(), shmflow.unlink(name)), or enlarge it: in Docker "
        "start with --shm-size, elsewhere mount -o remount,size=..."
    )
    return errors.NoSpace(errno.ENOSPC, text, path_of(topic.name))


def error(status: str, number: int, said: str, topic: Topic, details: dict[str, Any]) -> Exception:
    """The exception for a status of the core; `said` is the core's own word for it."""
    name = topic.name
    path = path_of(name)
    quoted = f"topic {name!r}"
    if status in REFUSALS:
        kind, code = REFUSALS[status]
        return kind(code, _refusal(status, topic, details), path)
    match status:
        case "SF_CLOSED":
            return errors.Closed(f"this Topic of {name!r} was closed; open another one")
        case "SF_ENDED":
            return errors.Closed(
                f"{quoted} was shut down by a participant; no more messages will come, and none "
                "can be written; a new Topic that writes starts the next generation"
            )
        case "SF_MISMATCH":
            return _mismatch(topic, details)
        case "SF_NOT_RETAINED":
            return _not_retained(topic, details["seq"])
        case "SF_GROUP_POLICY":
            asked = details["lossless"]
            return errors.TopicMismatch(
                f"the members of group {details['group']!r} of {quoted} have joined "
                f"with lossless={not asked}, but lossless={asked} was asked for; it holds for a "
                "group as a whole: ask for the same, or take another group"
            )
        case "SF_TOO_LARGE":
            return errors.MessageTooLarge(
                f"a message of {format_size(details['length'])} does not fit {quoted}, which takes "
                f"at most {format_size(details['max_message'])} (capacity "
                f"{format_size(details['capacity'])}); open it with a larger max_message or "
                "capacity before anybody else is attached, or with replace=True"
            )
        case "SF_EXITING":
            return errors.Closed(
                f"{quoted} is temporary and was not made: this process is ending, and nobody would "
                "take it away"
            )
        case "SF_RACE":
            return errors.Error(
                f"{quoted} is being removed and made again by other processes, so often that this "
                "one never found it as it was a moment before; see what they do (shmflow top), "
                "then try again"
            )
        case "SF_NO_SPACE":
            return _no_space(topic, details)
        case "SF_BAD_VALUE":
            return ValueError(
                f"{quoted}: capacity, depth, max_message or max_participants is out of range"
            )
    if number in (-errno.ENOENT, -errno.ENOTDIR):
        text = f"the folder for topics, {folder()}, is not there (SHMFLOW_DIR)"
        return errors.TopicNotFound(errno.ENOENT, text, folder())
    if number == -errno.ENAMETOOLONG:
        return unopened(name, number)
    if details.get("call") == "fileno" and number in NO_BEACON:
        text = f"fileno() of {quoted} {NO_BEACON[number]}"
        return RuntimeError(text) if number == -errno.EAGAIN else OSError(-number, text, path)
    if -4096 < number < 0:
        return OSError(-number, f"{quoted}: {os.strerror(-number)}", path)
    return errors.Error(f"{quoted}: {said}")


def unopened(name: str, number: int) -> OSError:
    """A Topic for whose file there is no path: `number` is -errno."""
    there = os.environ.get("SHMFLOW_DIR", "")
    if number == -errno.ENAMETOOLONG:
        why = (
            f"the path of its file would be too long: SHMFLOW_DIR has {len(os.fsencode(there))} "
            "bytes; name a folder with a shorter path"
        )
    elif number == -errno.ENOENT:
        why = (
            f"SHMFLOW_DIR is {there!r}, and the current folder it starts from was removed; "
            "set it to a path that starts with '/'"
        )
    else:
        why = os.strerror(-number)
    return OSError(-number, f"cannot open topic {name!r}: {why}")


def _refusal(status: str, topic: Topic, details: dict[str, Any]) -> str:
    """The text of one of REFUSALS."""
    name = topic.name
    path = path_of(name)
    quoted = f"topic {name!r}"
    match status:
        case "SF_NOT_FOUND":
            return f"there is no {quoted} and this call may not make one{nearest(name)}"
        case "SF_GONE":
            return f"the generation of {quoted} that this belonged to was removed"
        case "SF_EXISTS":
            return (
                f"{quoted} exists already; {_attached(topic)}; leave create=True out to join it, "
                "or pass replace=True to start a new generation"
            )
        case "SF_NO_LOSSLESS_HERE":
            return (
                f"{quoted} was made with allow_lossless=False: its writers wait for nobody; "
                "read it without lossless=True"
            )
        case "SF_NO_GROUP":
            return (
                f"all groups of {quoted} have living members: {_groups(topic)}; join one of "
                "them, or let one end"
            )
        case "SF_DENIED":
            with contextlib.suppress(OSError):
                if os.statvfs(folder()).f_flag & os.ST_RDONLY:
                    return (
                        f"{folder()} is mounted read-only, and a topic is written to by all who "
                        "take part in it, readers too; mount it writable, or watch what is there "
                        f"with mode 'monitor' ({path})"
                    )
            return (
                f"no permission for {path}{_permissions(path)}; the owner may open the topic "
                "with permissions=0o660 (all of a group) or 0o644 (others: mode 'monitor')"
            )
        case "SF_STRANGER":
            return (
                f"{quoted} was made by another user{_permissions(path)}; pass permissions=0o660 "
                "if you mean to share your data with them"
            )
        case "SF_NO_SLOT":
            return (
                f"all {details.get('slots', '')} participant slots of {quoted} are taken; "
                f"{_attached(topic)}; close Topics that are not needed, or create it with a "
                "larger max_participants"
            )
        case "SF_NO_CGROUP":
            return (
                f"asked for {format_size(details.get('wanted', 0))} for {quoted}, the memory "
                f"cgroup admits {format_size(details.get('room', 0))} more"
                f"{_kept(topic, details)}; give a smaller capacity or raise the container's "
                "memory limit"
            )
        case "SF_BAD_MESSAGE":
            return (
                f"message {details['seq']} of {quoted}, written by pid {details['writer']}, is "
                "described in an impossible way: its dtype, shape and length do not agree, so "
                "nobody can read it; the others are not affected, and the next read goes on behind"
            )
        case "SF_FORMAT":
            return (
                f"{path} was made by another version of shmflow; restart its writers with this "
                f"one, or remove it: shmflow.unlink({name!r})"
            )
    if status in FILE_SYSTEM_LACKS:
        return unsupported(status)
    return (
        f"{path} is not a usable topic: {HEADER_RUNGS[status]}; remove it if nobody "
        f"needs it: shmflow.unlink({name!r})"
    )


def unsupported(status: str) -> str:
    """Why no topic can lie in the folder."""
    return (
        f"topics cannot lie in {folder()} ({file_system(folder())}): {FILE_SYSTEM_LACKS[status]}; "
        "take a folder of tmpfs: leave SHMFLOW_DIR out for /dev/shm, or mount one (in Docker: "
        "--tmpfs, or a volume)"
    )


def _permissions(path: str) -> str:
    with contextlib.suppress(OSError):
        info = os.lstat(path)
        return f" (owner uid {info.st_uid}, mode {info.st_mode & 0o777:#o}; you are {os.geteuid()})"
    return ""


def _not_retained(topic: Topic, seq: object) -> errors.NotRetained:
    text = f"message {seq} of topic {topic.name!r} is not retained"
    with contextlib.suppress(Exception):
        head, tail = topic.head, topic.tail
        if not head:
            text += ": none was written yet"
        elif tail is None or tail > head:
            text += f": of {head} messages none is"
        else:
            text += f": {tail} to {head} are; 'oldest', 'latest' and 'new' always work with seek()"
    return errors.NotRetained(text)


def _groups(topic: Topic) -> str:
    return ", ".join(sorted({repr(p.group) for p in _living(topic) if p.group}))


def contradiction(text: str) -> errors.WrongMode:
    """Things that cannot be asked for together."""
    return errors.WrongMode(text)


def loan_shape(asked: Any, there: tuple[int, ...]) -> ValueError:
    """A shape that a loan cannot be published with."""
    with contextlib.suppress(TypeError):
        sizes = tuple(asked)
        count = math.prod(sizes)
        if any(size < 0 for size in sizes):
            why = "no size may be negative"
        elif len(sizes) > 32:
            why = f"it has {len(sizes)} dimensions, at most 32 travel"
        elif count > math.prod(there):
            why = f"it has {count} elements, the loan has {math.prod(there)}"
        else:
            why = "it is too large but for its zeros"
        return _loan_shape(sizes, there, why)
    why = "no size may be negative" if asked < 0 else f"the loan has {math.prod(there)} elements"
    return _loan_shape(asked, there, why)


def _loan_shape(asked: object, there: tuple[int, ...], why: str) -> ValueError:
    return ValueError(
        f"cannot publish a loan of shape {there} as {str(asked)[:200]}: {why}; the loan is still "
        "open: publish it with a shape that fits, or discard it"
    )


def wrong_mode(topic: Topic, call: str) -> errors.WrongMode:
    """A call that the mode does not admit."""
    need = "'w' or 'rw'" if call in ("write", "loan", "shutdown") else "'r', 'rw' or 'monitor'"
    return errors.WrongMode(
        f"{call}() needs a Topic of mode {need}; this one of {topic.name!r} has mode {topic.mode!r}"
    )


def restore(
    name: str,
    mode: Any,  # one of the modes, as _core gave it
    identity: bytes,
    start: Any,
    max_held: int,
    spin_ns: int,
    permissions: int,
    lossless: bool,
    group: str | None,
    standing: tuple[bytes, int, bool, bool],
) -> Topic:
    """Unpickles a Topic: attaches by name, never creates, reads on where the pickled one stood.

    A topic that it was attached to must still be the one of that name: `TopicNotFound` otherwise.
    """
    from shmflow import _core

    if identity:
        there = _core._identity(path_of(name))
        if there != identity:
            what = "another topic of that name is there now" if there else "it was removed"
            raise errors.TopicNotFound(
                errno.ENOENT, f"topic {name!r}, which this was pickled from: {what}", path_of(name)
            )
    topic = _core.Topic.__new__(_core.Topic)
    topic._stand(*standing)
    topic.__init__(
        name,
        mode,
        start=start,
        max_held=max_held or None,
        create=False if identity or mode == "w" else None,
        spin=None if spin_ns < 0 else spin_ns / 1e9,
        permissions=permissions,
        lossless=bool(lossless),
        group=group,
    )
    return topic
