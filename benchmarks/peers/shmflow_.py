"""shmflow, as its manual page says to use it: a Topic for each side, everything else by default.

depth is the spec's; the capacity is what so many messages need and a few more, so that a view that
the reader holds takes no room from the flow. Small messages are read as copies, larger ones as
views: that is read()'s own rule. Three peers:

- Shmflow: a reader that is lapped loses the oldest and is told how many; a writer waits for nobody.
  A reader polls for at most 50 us, as much as has been paying, and sleeps then.
- ShmflowLossless: writers wait for the reader (back-pressure), as they do with queues and pipes.
- ShmflowSpin: a reader polls for a second before it sleeps: beside peers that only poll.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

import shmflow

from .base import Peer, Reader, Writer

HEAD = 256  # bytes: more than what a message takes beside its payload
SPARE = 4  # messages beyond the depth


class TopicWriter(Writer):
    def __init__(self, topic: shmflow.Topic) -> None:
        self.topic = topic
        # As a program would call them: without a method of ours in between.
        self.write = topic.write  # type: ignore[method-assign]
        self.write_many = topic.write_many  # type: ignore[method-assign]

    def write(self, array: np.ndarray) -> None:
        raise AssertionError("the topic's own is called")

    def close(self) -> None:
        self.topic.close()


class TopicReader(Reader):
    def __init__(self, topic: shmflow.Topic) -> None:
        self.topic = topic
        self._read, self._read_many = topic.read, topic.read_many

    def read(self, timeout: float) -> np.ndarray | None:
        return self._read(timeout, default=None)

    def read_many(self, limit: int, timeout: float) -> Sequence[np.ndarray]:
        return self._read_many(limit, timeout, stack=True)  # type: ignore[return-value]

    def close(self) -> None:
        self.topic.close()


class Shmflow(Peer):
    title = "shmflow"
    module = "shmflow"
    batches = True
    zero_copy = True
    lossy = True
    max_readers = 900
    options: ClassVar[dict[str, Any]] = {}  # of the reader's Topic

    def writer(self) -> Writer:
        spec = self.spec
        topic = shmflow.Topic(
            spec.name,
            "w",
            capacity=max((spec.depth + SPARE) * (spec.nbytes + HEAD), 1 << 20),
            max_message=spec.nbytes,
            depth=spec.depth,
            max_participants=spec.readers + spec.writers + 16,
        )
        return TopicWriter(topic)

    def reader(self, index: int) -> Reader:
        return TopicReader(shmflow.Topic(self.spec.name, "r", start="new", **self.options))

    def close(self) -> None:
        with contextlib.suppress(shmflow.TopicNotFound):  # its writer never came
            shmflow.unlink(self.spec.name)


class ShmflowLossless(Shmflow):
    title = "shmflow (lossless)"
    lossy = False
    options: ClassVar[dict[str, Any]] = {"lossless": True}


class ShmflowSpin(Shmflow):
    title = "shmflow (spinning)"
    polls = True
    options: ClassVar[dict[str, Any]] = {"spin": 1.0}
