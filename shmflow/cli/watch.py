"""What flows, from counters: samples of topics, and rates between two samples.

Owns the monitors that samples are taken with. Reads counters and headers only: no slot, no message,
no store into a topic. A topic that is removed and made anew is followed by its file's identity.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shmflow import _core, _names
from shmflow._core import Participant, Topic
from shmflow._errors import Error

Key = tuple[int, int]  # of a participant: pid, attached_ns


@dataclass(frozen=True, slots=True)
class Sample:
    """One topic at one moment. `error` says why it cannot be used; then the rest is empty."""

    name: str
    at: float  # time.monotonic(), s
    error: str = ""
    inode: int = 0
    head: int = 0  # number of the newest message, 0: none yet
    tail: int = 1  # of the oldest retained one
    last_ns: int = 0  # stamp of the newest message
    ended: bool = False
    capacity: int = 0
    depth: int = 0
    asked_depth: int = 0  # 0: as many as fit
    participants: tuple[Participant, ...] = ()
    denied: bool = False  # the error is that this user may not look at it

    @property
    def living(self) -> list[Participant]:
        return [p for p in self.participants if p.alive]

    @property
    def readers(self) -> int:
        return sum("r" in p.mode for p in self.living)

    @property
    def writers(self) -> int:
        return sum("w" in p.mode for p in self.living)

    @property
    def retained(self) -> int:
        return max(0, self.head + 1 - self.tail)

    @property
    def held_bytes(self) -> int:
        return sum(p.held_bytes for p in self.living)

    @property
    def lag(self) -> int:
        """Of the living reader that is furthest behind."""
        return max((p.lag for p in self.living), default=0)

    @property
    def age(self) -> float | None:
        """Seconds since the stamp of the newest message; None if there is none."""
        return (time.time_ns() - self.last_ns) / 1e9 if self.last_ns else None

    @property
    def state(self) -> str:
        """'live' (somebody is attached), 'idle' (nobody is), 'ended', 'dead' (only those that were
        killed and not cleaned up), 'private' (not for this user), 'broken'."""
        if self.error:
            return "private" if self.denied else "broken"
        if self.ended:
            return "ended"
        if self.living:
            return "live"
        return "dead" if self.participants else "idle"


@dataclass(frozen=True, slots=True)
class Flow:
    """What happened to one topic between two samples."""

    before: Sample
    now: Sample
    seconds: float
    messages: int
    bytes: int
    read: dict[Key, int] = field(default_factory=dict)  # by each reader
    written: dict[Key, int] = field(default_factory=dict)  # by each writer
    lost: dict[Key, int] = field(default_factory=dict)  # by each reader
    waits: dict[Key, int] = field(default_factory=dict)  # of each writer, for room

    @property
    def hz(self) -> float:
        return self.messages / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    def rate_of(self, participant: Participant) -> float:
        """Messages per second that a participant read or, if it only writes, wrote."""
        counts = self.read if "r" in participant.mode else self.written
        return counts.get(key_of(participant), 0) / self.seconds if self.seconds > 0 else 0.0


def key_of(participant: Participant) -> Key:
    return participant.pid, participant.attached_ns


def flow_between(before: Sample, now: Sample) -> Flow:
    """Counts of another generation, or of a topic that broke, begin anew."""
    seconds = now.at - before.at
    if before.inode != now.inode or before.error or now.error:
        return Flow(before, now, seconds, 0, 0)
    old = {key_of(p): p for p in before.participants}
    read, written, lost, waits, nbytes = {}, {}, {}, {}, 0
    for p in now.participants:
        key, was = key_of(p), old.get(key_of(p))
        read[key] = max(0, p.read - (was.read if was else 0))
        written[key] = max(0, p.written - (was.written if was else 0))
        lost[key] = max(0, p.lost - (was.lost if was else 0))
        waits[key] = max(0, p.writer_waits - (was.writer_waits if was else 0))
        nbytes += max(0, p.written_bytes - (was.written_bytes if was else 0))
    messages, told = max(0, now.head - before.head), sum(written.values())
    if told and messages > told:  # the rest is of writers that have left meanwhile
        nbytes += nbytes * (messages - told) // told
    return Flow(before, now, seconds, messages, nbytes, read, written, lost, waits)


class Arrivals:
    """How old messages are when they appear to who looks at topics again and again."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, int]] = {}  # which topic of that name, its newest

    def look(self, name: str, topic: object, monitor: Topic) -> float | None:
        """Seconds from the newest message's stamp until now, if it came since the last look at this
        topic (told from others of its name by `topic`). Of several that came, that is the last."""
        seen = self._seen.get(name)
        if seen == (topic, monitor.head or 0):  # quicker to ask
            return None
        newest = monitor._last()
        number, stamp_ns = newest[:2] if newest is not None else (0, 0)
        self._seen[name] = topic, number
        is_new = number and seen is not None and seen[0] == topic and seen[1] != number
        return (time.time_ns() - stamp_ns) / 1e9 if is_new else None

    def forget(self, name: str) -> None:
        self._seen.pop(name, None)


class Watch:
    """Samples of the topics with these names, or of all there are; a context manager.

        with Watch() as watch:
            before = watch.sample()
            ...
            flows = watch.flows()     # since the last call

    Keeps one monitor open per topic: a mapping, no more. Topics come and go between samples.
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        fixed = None if names is None else list(names)
        self._names: Callable[[], list[str]] = _names.names if fixed is None else lambda: fixed
        self._monitors: dict[str, tuple[int, Topic, int]] = {}  # inode, monitor, bytes
        _core._guard()  # a file that its owner cuts meanwhile reads as zeros
        self._before: dict[str, Sample] = {}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for name in list(self._monitors):
            self._drop(name)

    def monitor(self, name: str) -> Topic | None:
        """The monitor of the file that has the name now; None if there is none."""
        try:
            file = os.stat(_names.path_of(name))
        except OSError:
            self._drop(name)
            return None
        there = self._monitors.get(name)
        if there is not None and (there[0], there[2]) == (file.st_ino, file.st_size):
            return there[1]
        self._drop(name)
        monitor = Topic(name, "monitor", create=False)
        self._monitors[name] = file.st_ino, monitor, file.st_size
        return monitor

    def opened(self) -> list[tuple[str, int, Topic]]:
        """(name, inode, monitor) of what the last sample found: for looks in between."""
        return [(name, inode, monitor) for name, (inode, monitor, _) in self._monitors.items()]

    def inode(self, name: str) -> int:
        """Of the file that the monitor is of; 0 if there is none."""
        return self._monitors[name][0] if name in self._monitors else 0

    def sample(self) -> list[Sample]:
        """One of each topic that is there, sorted by name."""
        names = self._names()
        for name in set(self._monitors) - set(names):
            self._drop(name)
        found = [self._sample(name) for name in names]
        return [sample for sample in found if sample is not None]

    def flows(self) -> list[Flow]:
        """What happened since the last call; for a topic that is new, an empty flow."""
        now = {sample.name: sample for sample in self.sample()}
        flows = [flow_between(self._before.get(name, s), s) for name, s in now.items()]
        self._before = now
        return flows

    def _sample(self, name: str) -> Sample | None:
        at = time.monotonic()
        try:
            monitor = self.monitor(name)
            if monitor is None:
                return None
            last = monitor._last()
            return Sample(
                name=name,
                at=at,
                inode=self._monitors[name][0],
                head=monitor.head or 0,
                tail=monitor.tail or 1,
                last_ns=last[1] if last else 0,
                ended=monitor.ended,
                capacity=monitor.capacity or 0,
                depth=monitor.depth or 0,
                asked_depth=(monitor._layout() or {}).get("asked_depth", 0),
                participants=tuple(monitor.participants()),
            )
        except FileNotFoundError:  # removed just now
            self._drop(name)
            return None
        except (Error, OSError, ValueError) as error:  # ValueError: a file that no topic is called
            self._drop(name)
            text = getattr(error, "strerror", None) or str(error)
            return Sample(name, at, error=text, denied=isinstance(error, PermissionError))

    def _drop(self, name: str) -> None:
        there = self._monitors.pop(name, None)
        if there is not None:
            with contextlib.suppress(OSError):
                there[1].close()
