"""How the demo's processes tell what they did: reports through a small topic of their own.

Owns the report, the child's side (`Reporter`) and the conductor's side (`Part`, a row of the table;
`Life`, one process of it). Counts are cumulative and latencies are those since the last report, so
a process may be killed at any instruction: what it had not reported is all that is missing.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import deque
from dataclasses import asdict, dataclass, field

import numpy as np

import shmflow

EVERY = 0.25  # seconds between two reports of one process
WINDOW_NS = 2_000_000_000  # what the table's fps look back on
RECENT = 256  # how many latencies the table's percentiles look back on


@dataclass(slots=True)
class Report:
    """What one process has done since it started."""

    part: str  # whose row it is: "producer", "reader 1", …
    pid: int
    state: str = "starting"  # then ready, running, done or failed
    text: str = ""  # failed: why
    how: str = ""  # zero-copy or copied
    shape: tuple[int, ...] = ()  # producer: of its frames
    fps: float | None = None  # producer: what it aims at
    frames: int = 0  # written, or read and checked
    wrong: int = 0  # frames whose checksum was not right
    misplaced: int = 0  # frames whose number does not follow from the one before and the loss told
    changed: int = 0  # held frames that were not the same at the end
    checked: int = 0  # held frames that were looked at again at the end
    lost: int = 0
    lag: int = 0
    held: int = 0  # frames held now
    pinned: int = 0  # frames read without a copy
    copied: int = 0  # frames read as a copy
    waits: int = 0  # producer: how often a write waited for a reader


class Reporter:
    """The child's side: fill `report`, call `tick` often; it publishes when it is time."""

    def __init__(self, topic: str, part: str) -> None:
        self.topic = shmflow.Topic(topic, "w", create=False)
        self.report = Report(part, os.getpid())
        self.latencies = array("q")
        self.due = 0.0

    def is_due(self) -> bool:
        return time.monotonic() >= self.due

    def publish(self, state: str, text: str = "") -> None:
        self.report.state, self.report.text = state, text
        self.topic.write(np.array(self.latencies, dtype=np.int64), meta=asdict(self.report))
        self.latencies = array("q")
        self.due = time.monotonic() + EVERY

    def close(self) -> None:
        self.topic.close()


@dataclass
class Life:
    """One process, as its reports tell it."""

    report: Report
    marks: deque[tuple[int, int]] = field(default_factory=deque)  # (timestamp_ns, frames)

    def take(self, report: Report, timestamp_ns: int) -> None:
        self.report = report
        self.marks.append((timestamp_ns, report.frames))
        while len(self.marks) > 2 and self.marks[1][0] < timestamp_ns - WINDOW_NS:
            self.marks.popleft()

    @property
    def fps(self) -> float:
        if len(self.marks) < 2:
            return 0.0
        (begin, before), (end, after) = self.marks[0], self.marks[-1]
        return (after - before) * 1e9 / max(1, end - begin)


@dataclass
class Part:
    """A row of the table: one process, or one after the other when it is killed and restarted."""

    name: str
    role: str
    lives: dict[int, Life] = field(default_factory=dict)  # by pid, in the order they started
    latencies: array[int] = field(default_factory=lambda: array("q"))
    kills: int = 0
    waiting: bool = True  # the process last started has not reported yet

    def take(self, message: shmflow.Message) -> Report:
        assert message.meta is not None
        report = Report(**message.meta)
        life = self.lives.setdefault(report.pid, Life(report))
        life.take(report, message.timestamp_ns)
        self.latencies.frombytes(message.array.tobytes())
        self.waiting = False
        return report

    @property
    def is_producer(self) -> bool:
        return self.name == "producer"

    @property
    def last(self) -> Life | None:
        return next(reversed(self.lives.values())) if self.lives and not self.waiting else None

    @property
    def is_ready(self) -> bool:
        return self.last is not None and self.last.report.state != "failed"

    def total(self, name: str) -> int:
        return sum(getattr(life.report, name) for life in self.lives.values())

    def percentiles(self, *, recent: bool) -> tuple[float, float] | None:
        """Latency p50 and p99 in ns, of the last frames or of all."""
        values = self.latencies[-RECENT:] if recent else self.latencies
        if not values:
            return None
        p50, p99 = np.percentile(np.array(values), (50, 99))
        return float(p50), float(p99)
