"""What tests of the commands that look at topics share: a topic that flows, made-up samples of one,
and the traces that somebody leaves who does more than look."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from shell import PATIENCE

import shmflow
from shmflow.cli.watch import Sample


@contextmanager
def flowing(writer: shmflow.Topic) -> Iterator[None]:
    """Meanwhile, a thread writes 80 bytes every few milliseconds."""
    end = threading.Event()

    def write() -> None:
        while not end.wait(0.003):
            writer.write(np.zeros(10), timeout=PATIENCE)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def person(**facts: Any) -> shmflow.Participant:
    """A reader that does nothing, but for these facts."""
    facts = {"pid": 7, "command": "x.py", "mode": "r", "alive": True, "group": ""} | facts
    return shmflow.Participant([facts.get(name, 0) for name in shmflow.Participant.__match_args__])


def sample(at: float, head: int, *people: shmflow.Participant, name: str = "t") -> Sample:
    """Of a topic that retains ten messages."""
    tail = max(1, head - 9)
    return Sample(name, at, "", 1, head, tail, capacity=1000, depth=10, participants=people)


def digest(file: Path) -> tuple[str, int]:
    """Its bytes, and when they last changed."""
    return hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns


def mappings_of(pid: int, file: Path) -> set[str]:
    """The protections of a process's mappings of that file."""
    lines = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {line[1] for line in lines if len(line) > 5 and line[5].startswith(str(file))}
