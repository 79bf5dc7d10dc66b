"""Another participant of the topic under attack, in a process of its own.

Owns: messages that prove themselves, views that must not change, and the look at all that is in the
topic afterwards.
Does not own: the attack. Spoken to by lines: `begin NAME`, `check NAME`; answers `ok` or what is
wrong.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys

import numpy as np

import shmflow

SIZES = (16, 5000, 70_000, 6000, 300)
# What MALLOC_PERTURB_ of the attacked process puts into memory that it got or gave back.
HEAP = re.compile(rb"\x24{24}|\xdb{24}")


def make(number: int) -> np.ndarray:
    size = SIZES[number % len(SIZES)]
    array = np.full(size, 100 + number % 100, np.uint8)
    array[:8] = np.frombuffer(number.to_bytes(8, "little"), np.uint8)
    return array


class Peer:
    def __init__(self) -> None:
        self.count = 0
        self.topic: shmflow.Topic | None = None
        self.views: list[tuple[np.ndarray, bytes]] = []

    def begin(self, name: str) -> str:
        self.topic = shmflow.Topic(name, "rw", capacity="1 MiB", max_held="512 KiB")
        for _ in range(5):
            self.write()
        for _ in range(3):
            view = self.topic.read(0)
            self.views.append((view, view.tobytes()))
        return "ok"

    def write(self) -> None:
        assert self.topic is not None
        self.count += 1
        with contextlib.suppress(shmflow.Full, shmflow.TopicMismatch):
            self.topic.write(make(self.count), timeout=2, meta={"peer": self.count})

    def check(self, name: str) -> str:
        wrong = [self.look_at_views(), self.go_on(), self.look_at_all(name)]
        self.views.clear()
        if self.topic is not None:
            self.topic.close()
            self.topic = None
        with contextlib.suppress(shmflow.Error):
            shmflow.unlink(name)
        return next(filter(None, wrong), "ok")

    def look_at_views(self) -> str:
        changed = [at for at, (view, was) in enumerate(self.views) if view.tobytes() != was]
        return f"held views changed: {changed}" if changed else ""

    def go_on(self) -> str:
        if self.topic is None:
            return ""
        try:
            self.write()
            while (array := self.topic.read(0, default=None)) is not None:
                array.tobytes()
        except (shmflow.Closed, shmflow.MessageTooLarge, shmflow.TopicMismatch):
            pass  # somebody shut it down, or made another one under that name
        except Exception as error:
            return f"cannot go on: {type(error).__name__}: {error}"
        return ""

    def look_at_all(self, name: str) -> str:
        try:
            with shmflow.Topic(name, "r", create=False) as reader:
                while (message := reader.read_message(0, default=None)) is not None:
                    if wrong := self.look_at(message):
                        return wrong
                if reader._lock_holder() is not None:
                    return f"the writer lock stays with {reader._lock_holder()}"
        except (shmflow.TopicNotFound, shmflow.Closed):
            return ""
        except Exception as error:
            return f"cannot be read: {type(error).__name__}: {error}"
        return ""

    def look_at(self, message: shmflow.Message) -> str:
        raw, meta = message.array.tobytes(), message.meta
        if message.writer == os.getpid() and "peer" in meta:
            if raw != make(meta["peer"]).tobytes():
                return f"message {message.seq} of the peer has changed"
        elif HEAP.search(raw):
            return f"message {message.seq} carries the writer's heap: {raw[:16]!r}"
        return ""


def main() -> None:
    peer = Peer()
    for line in sys.stdin:
        verb, _, name = line.strip().partition(" ")
        try:
            answer = peer.begin(name) if verb == "begin" else peer.check(name)
        except Exception as error:
            answer = f"{verb}: {type(error).__name__}: {error}"
        print(answer.replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
