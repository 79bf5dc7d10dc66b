"""What spawned processes run; multiprocessing finds it by name, which test modules have not."""

from __future__ import annotations

import numpy as np

import shmflow


def echo(topic: shmflow.Topic) -> None:
    """Tells on ``name/back`` what came, and the mode in which it arrived."""
    first = bytes(topic.read(timeout=10))
    with shmflow.Topic(topic.name + "/back", "w") as back:
        back.write(f"{first!r} {topic.mode}".encode())
    topic.close()


def tell_all(topic: shmflow.Topic) -> None:
    """Answers with the lag, then with what is there to be read, on '<name>/back'."""
    found = [topic.stats().lag]
    while (array := topic.read(0, default=None)) is not None:
        found.append(int(array))
    with shmflow.Topic(topic.name + "/back", "w") as back:
        back.write(np.array(found))
