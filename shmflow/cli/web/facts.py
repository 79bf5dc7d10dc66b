"""What the page is told of topics: one shared sampler, however many browsers look.

Owns the Watch that samples are taken with, the history of rates, and the shape of what is told.
Samples are taken when somebody asks, at most EVERY: nobody looks, nothing is done.

1. `told` may be called from any thread; it blocks for as long as a sample takes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from shmflow import _names
from shmflow._core import Topic
from shmflow._errors import Error
from shmflow.cli.blame import sentences
from shmflow.cli.watch import Flow, Sample, Watch, flow_between
from shmflow.cli.web.ages import Ages
from shmflow.cli.web.newest import FORGET_AFTER

EVERY = 0.25  # s
WINDOW = 5  # samples that a rate is told from: one second
KEPT = 120  # samples of rates
GAP = 2.0  # s without a question: the history begins anew
BLOCKS = 500  # told of a ring


class Facts:
    """Facts of the topics with these names, or of all there are."""

    def __init__(self, names: Iterable[str] | None) -> None:
        self._watch = Watch(names)
        self._ages = Ages()
        self._lock = threading.Lock()
        self._recent: dict[str, deque[Sample]] = {}
        self._flows: dict[str, Flow] = {}  # over the recent ones
        self._history: dict[str, deque[tuple[float, float]]] = {}
        self._holders: dict[str, tuple[int, str, int] | None] = {}  # of the writer lock, last
        self._sampled = 0.0

    def close(self) -> None:
        self._ages.close()
        with self._lock:
            self._watch.close()

    def let_go(self) -> None:
        """Closes all monitors if nobody has asked lately: they would keep what is removed."""
        with self._lock:
            if time.monotonic() - self._sampled > FORGET_AFTER:
                self._watch.close()

    def told(self, wanted: Sequence[str]) -> dict[str, Any]:
        """All topics in short, those that are wanted in full."""
        with self._lock:
            self._sample(wanted)
            full = {name: self._full(self._flows[name]) for name in wanted if name in self._flows}
            return {
                "folder": _names.folder(),
                "topics": [self._short(flow) for flow in self._flows.values()],
                "details": full,
            }

    def _sample(self, wanted: Sequence[str]) -> None:
        now = time.monotonic()
        if now - self._sampled >= EVERY:
            if now - self._sampled > GAP:  # rates are those of now, not since somebody last looked
                self._recent.clear()
                self._history.clear()
                self._take()
                time.sleep(0.1)
            self._take()
            self._sampled = time.monotonic()
            self._flows = {n: flow_between(r[0], r[-1]) for n, r in self._recent.items()}
            for name in set(self._history) - set(self._flows):
                del self._history[name]
                self._holders.pop(name, None)
            for name, flow in self._flows.items():
                kept = self._history.setdefault(name, deque(maxlen=KEPT))
                kept.append((flow.hz, flow.bytes_per_s))
        followed: dict[str, Topic] = {}
        for name in wanted:
            if name in self._flows and not self._flows[name].now.error:
                with contextlib.suppress(Error, OSError):  # another file has got the name
                    monitor = self._watch.monitor(name)
                    if monitor is not None:
                        followed[name] = monitor
        self._ages.follow(followed)

    def _take(self) -> None:
        samples = {sample.name: sample for sample in self._watch.sample()}
        for name in set(self._recent) - set(samples):
            del self._recent[name]
        for name, sample in samples.items():
            kept = self._recent.setdefault(name, deque(maxlen=WINDOW))
            if kept and kept[-1].inode != sample.inode:
                kept.clear()
            kept.append(sample)

    def _short(self, flow: Flow) -> dict[str, Any]:
        now = flow.now
        return {
            "name": now.name,
            "state": now.state,
            "error": now.error,
            "head": now.head,
            "hz": flow.hz,
            "bytes_per_s": flow.bytes_per_s,
            "readers": now.readers,
            "writers": now.writers,
        }

    def _full(self, flow: Flow) -> dict[str, Any]:
        now, history = flow.now, list(self._history.get(flow.now.name, ()))
        told = self._short(flow) | {
            "tail": now.tail,
            "retained": now.retained,
            "capacity": now.capacity,
            "depth": now.depth,
            "asked_depth": now.asked_depth,
            "history_hz": [hz for hz, _ in history],
            "history_bytes": [nbytes for _, nbytes in history],
            "ages": self._ages.told(now.name),
            "age_of_last": max(0.0, time.time() - now.last_ns / 1e9) if now.last_ns else None,
            "participants": [
                {
                    "pid": p.pid,
                    "command": p.command,
                    "mode": p.mode,
                    "alive": p.alive,
                    "lossless": p.lossless,
                    "group": p.group,
                    "lag": p.lag,
                    "lost": p.lost,
                    "held_blocks": p.held_blocks,
                    "held_bytes": p.held_bytes,
                    "writer_waits": p.writer_waits,
                    "hz": flow.rate_of(p),
                }
                for p in now.participants
            ],
            "blame": [],
            "ring": None,
        }
        try:
            monitor = None if now.error else self._watch.monitor(now.name)
            if monitor is not None:
                holder = monitor._lock_holder()
                told["blame"] = sentences(flow, self._holders.get(now.name), holder)
                self._holders[now.name] = holder
                told["ring"] = ring(monitor)
        except (Error, OSError):
            pass  # it went meanwhile: the next sample tells
        return told


def ring(monitor: Topic) -> dict[str, Any] | None:
    """Blocks as [offset, bytes, number or 0, pid of the writer, [pids of holders]]."""
    told = monitor._blocks(BLOCKS)
    if told is None:
        return None
    capacity, lane, count, found = told
    # Neither a message, nor held, nor claimed by anybody: room.
    blocks = [b for b in found if b[2] or b[5] or b[6]]
    return {
        "capacity": capacity,
        "lane": lane,
        "count": count - (len(found) - len(blocks)),
        "blocks": [[off, n, seq, pid, pids] for off, n, seq, _, _, pid, pids in blocks],
    }
