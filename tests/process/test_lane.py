"""When readers hold all of main, a writer waits for one thing only: another's copy in the lane.

A C program is stopped between its claim of the lane and its publication, outside the writer lock.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from failpoints import Actor, Stopped

import shmflow

BLOCK = 128 * 1024
CAPACITY = 16 * BLOCK
MAX_MESSAGE = 4 * BLOCK  # two of these do not fit the lane, whatever it has for descriptions


class Crowded:
    """A topic whose main is held to the last block by this process."""

    def __init__(self, name: str) -> None:
        self.writer = shmflow.Topic(name, capacity=CAPACITY, max_message=MAX_MESSAGE)
        self.reader = shmflow.Topic(name, "r", max_held=CAPACITY)
        self.held = []
        for number in range(16):
            self.writer.write(np.full(BLOCK, number, np.uint8))
            self.held.append(self.reader.read(timeout=0))
        assert self.reader.stats().held_bytes == CAPACITY

    def check_held(self) -> None:
        for number, array in enumerate(self.held):
            assert (array == number).all(), "a held frame has changed"

    def close(self) -> None:
        self.held.clear()
        self.writer.close()
        self.reader.close()


@pytest.fixture
def crowded(topic_name: str) -> Iterator[Crowded]:
    crowded = Crowded(topic_name)
    yield crowded
    crowded.close()


def stop_in_the_lane(crowded: Crowded, actor: Actor) -> bool:
    """Stops the actor at a store of a large write at which it has the lane, but not the lock."""
    for point in itertools.count(1):
        actor.arm(point, signal.SIGSTOP)
        try:
            actor.do(f"write {MAX_MESSAGE} 255")
        except Stopped:
            if crowded.writer._lock_holder() is None and is_busy(crowded):
                return True
            actor.go_on()
            actor.answer("write")
        else:
            return False
    return False


def is_busy(crowded: Crowded) -> bool:
    try:
        crowded.writer.write(np.zeros(MAX_MESSAGE, np.uint8), timeout=0.02)
    except shmflow.Full as full:
        return "lane" in str(full)
    return False


def test_held_frames_never_make_a_single_writer_wait(crowded: Crowded) -> None:
    for size in (1, BLOCK - 1, BLOCK, MAX_MESSAGE) * 5:
        crowded.writer.write(np.full(size, 7, np.uint8), timeout=0)
    crowded.check_held()
    assert crowded.writer.stats().writer_waits == 0


def test_who_waits_for_the_lane_is_told_who_holds_the_rest(crowded: Crowded) -> None:
    with Actor() as actor:
        actor.open(crowded.writer.name)
        assert stop_in_the_lane(crowded, actor)
        waits = crowded.writer.stats().writer_waits
        with pytest.raises(shmflow.Full) as caught:
            crowded.writer.write(np.zeros(MAX_MESSAGE, np.uint8), timeout=0.05)
        text = str(caught.value)
        assert f"pid {os.getpid()}" in text and "2.0 MiB" in text and "lane" in text
        assert crowded.writer.stats().writer_waits == waits + 1
        # A loan does not wait: it is private, and publishing it does.
        with crowded.writer.loan(BLOCK) as array:
            array[:] = 9
            actor.go_on()
            actor.answer("write")
        assert crowded.writer.write(b"after", timeout=20) > 16
    crowded.check_held()


def test_who_dies_in_the_lane_gives_it_back(crowded: Crowded) -> None:
    with Actor() as actor:
        actor.open(crowded.writer.name)
        assert stop_in_the_lane(crowded, actor)
        actor.kill()
        crowded.writer.write(np.zeros(MAX_MESSAGE, np.uint8), timeout=20)
    crowded.check_held()
