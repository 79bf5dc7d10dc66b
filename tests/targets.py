"""What processes started by multiprocessing run: they import it, and cannot import a test file."""

from __future__ import annotations

from multiprocessing.connection import Connection

import shmflow


def echo(topic: shmflow.Topic, pipe: Connection) -> None:
    """Reads two messages and says what came; leaves when it is told to."""
    values = [int(topic.read(20)[0]) for _ in range(2)]
    pipe.send((values, topic.name, topic.mode))
    pipe.recv()
    topic.close()
