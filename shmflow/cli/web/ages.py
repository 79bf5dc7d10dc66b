"""How old messages are when they can be seen: a thread that looks at heads, only while it is asked.

Owns the thread and the ages of the last messages. Looks every 2 ms at the header of the newest
message of each topic that somebody looks at: of a topic that is quicker, these are samples. Reads
no payload.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from shmflow._core import Topic
from shmflow._errors import Error
from shmflow.cli.watch import Arrivals

EVERY = 0.002  # s
KEPT = 500  # ages of a topic
LINGER = 3.0  # s after the last question
# Upper edges in seconds; the last bin has none.
EDGES = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def histogram(ages: list[float]) -> list[int]:
    counts = [0] * (len(EDGES) + 1)
    for age in ages:
        counts[sum(age > edge for edge in EDGES)] += 1
    return counts


class Ages:
    """Call `follow` again and again; what is not followed for LINGER seconds is let go of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._topics: dict[str, tuple[Topic, float]] = {}  # and until when
        self._arrivals = Arrivals()
        self._ages: dict[str, deque[float]] = {}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def follow(self, topics: Mapping[str, Topic]) -> None:
        with self._lock:
            until = time.monotonic() + LINGER
            self._topics |= {name: (topic, until) for name, topic in topics.items()}
            if self._thread is None and topics and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="ages", daemon=True)
                self._thread.start()

    def told(self, name: str) -> dict[str, Any]:
        with self._lock:
            ages = list(self._ages.get(name, ()))
        ages.sort()
        return {
            "edges": EDGES,
            "counts": histogram(ages),
            "median": ages[len(ages) // 2] if ages else None,
            "p99": ages[len(ages) * 99 // 100] if ages else None,
        }

    def close(self) -> None:
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            with self._lock:
                now = time.monotonic()
                for name, (topic, until) in list(self._topics.items()):
                    if now > until:
                        del self._topics[name]
                        self._arrivals.forget(name)
                        self._ages.pop(name, None)
                    else:
                        self._look(name, topic)
                if not self._topics:
                    self._thread = None
                    return

    def _look(self, name: str, topic: Topic) -> None:
        try:
            age = self._arrivals.look(name, topic, topic)
        except (Error, OSError):  # it was closed, or removed: the next question brings another
            return
        if age is not None:
            self._ages.setdefault(name, deque(maxlen=KEPT)).append(max(0.0, age))
