"""Readers wait for nobody: a writer is stopped at every store it makes under the writer lock.

A C program raises SIGSTOP on itself at its n-th store inside the critical section, n = 1, 2, 3 …
until a write has no more of them. While it stands there, reading, monitors, stats, participants
and closing go on, and who wants to write is told whom it waits for. Then it goes on, or is killed.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
from failpoints import Actor, Stopped

import shmflow

CAPACITY = 64 * 1024
MAX_MESSAGE = 16 * 1024
SMALL, LARGE = 700, 5000  # copied inside the critical section; claimed and published in two

# A write of each size finds main full, so that it evicts, and retires what is held.
FILL = [SMALL, LARGE] * 12


def equal_bytes(array: np.ndarray) -> int:
    """The byte that all of a message's bytes are; a torn one has several."""
    assert array.dtype == np.uint8 and array.size > 0
    assert (array == array[0]).all(), "a message is torn"
    return int(array[0])


def read_all(topic: shmflow.Topic) -> list[tuple[int, int, int]]:
    """What is in the ring, without waiting: (seq, size, byte) of each, contiguous."""
    found: list[tuple[int, int, int]] = []
    while (message := topic.read_message(timeout=0, default=None)) is not None:
        found.append((message.seq, message.array.size, equal_bytes(message.array)))
    seqs = [seq for seq, _, _ in found]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    return found


class Scene:
    """A full ring, three frames of it held by another process, and others who look on."""

    def __init__(self, name: str, holder: Actor) -> None:
        self.name = name
        self.holder = holder
        self.byte = 0
        self.writer = shmflow.Topic(name, capacity=CAPACITY, max_message=MAX_MESSAGE)
        self.reader = shmflow.Topic(name, "r")
        self.monitor = shmflow.Topic(name, "monitor")
        holder.open(name)
        self.hold_again()
        self.refill()

    def hold_again(self) -> None:
        """Another process lets go of three frames (their bytes are as they were), takes three."""
        self.holder.do("unpin")
        for _ in range(3):
            self.write(LARGE)
            while self.holder.do("pin").length < LARGE:
                pass

    def refill(self) -> None:
        for size in FILL:
            self.write(size)

    def write(self, size: int, timeout: float = 5) -> int:
        self.byte = self.byte % 250 + 1
        return self.writer.write(np.full(size, self.byte, np.uint8), timeout=timeout)

    def history(self) -> list[tuple[int, int, int]]:
        """What a newcomer finds in the ring."""
        with shmflow.Topic(self.name, "r", max_held=CAPACITY) as newcomer:
            return read_all(newcomer)


@pytest.fixture
def scene(topic_name: str) -> Iterator[Scene]:
    with Actor() as holder:
        scene = Scene(topic_name, holder)
        yield scene
        for topic in (scene.reader, scene.monitor, scene.writer):
            topic.close()


def stopped_at_each_point(name: str, size: int) -> Iterator[tuple[int, Actor]]:
    """A writer that is stopped inside a write of `size` bytes, at point 1, 2, 3 …"""
    for point in itertools.count(1):
        with Actor() as frozen:
            frozen.open(name)
            frozen.arm(point, signal.SIGSTOP, where="locked")
            try:
                frozen.do(f"write {size} 255")
            except Stopped:
                yield point, frozen
            else:
                return


def look_around(scene: Scene, frozen: Actor) -> None:
    """All that must go on while a writer stands inside the critical section."""
    name = scene.name
    # A newcomer attaches, reads all that is there, holds some of it, and leaves.
    with shmflow.Topic(name, "r", max_held=CAPACITY) as newcomer:
        there = read_all(newcomer)
        assert len(there) >= 4
        assert newcomer.stats().read == len(there)
    # A reader that was there before goes on, with views, copies and the newest.
    latest = scene.reader.read_message(timeout=0, latest=True, default=None)
    assert latest is None or abs(latest.seq - there[-1][0]) <= 1
    assert scene.reader.stats().held_bytes >= 0
    del latest
    while scene.reader.read(timeout=0, default=None) is not None:
        pass
    with pytest.raises(shmflow.Empty):
        scene.reader.read(timeout=0.01)
    # A monitor sees the same history, and everybody, the frozen one among the living.
    with shmflow.Topic(name, "monitor") as monitor:
        assert [seq for seq, _, _ in read_all(monitor)][-1] == there[-1][0]
        alive = {p.pid: p for p in monitor.participants() if p.alive}
        assert frozen.pid in alive and scene.holder.pid in alive
        assert alive[scene.holder.pid].held_blocks == 3
    assert scene.monitor.stats().writer_waits == 0
    assert name in [info.name for info in shmflow.topics()]
    assert shmflow.clean() == 0, "the stopped are not dead"


def full_names(scene: Scene, frozen: Actor) -> None:
    """A write with a timeout is told who it waits for."""
    with pytest.raises(shmflow.Full) as caught:
        scene.write(SMALL, timeout=0.02)
    assert f"pid {frozen.pid}" in str(caught.value)
    assert "stopped" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_readers_go_on_while_a_writer_is_stopped_at_every_point(scene: Scene, size: int) -> None:
    point = 0
    for point, frozen in stopped_at_each_point(scene.name, size):
        before = scene.history()
        look_around(scene, frozen)
        full_names(scene, frozen)
        frozen.go_on()
        assert frozen.answer("write").points >= point
        # Everything goes on: its message came, whole, and so do others'.
        after = scene.history()
        assert after[-1] == (before[-1][0] + (before[-1][2] != 255), size, 255)
        assert scene.write(LARGE) == after[-1][0] + 1
        scene.hold_again()
        scene.refill()
        frozen.finish()
    print(f"stopped at {point} points of a write of {size} bytes")
    assert point >= 20


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_a_stopped_writer_that_is_killed_gives_way_at_every_point(scene: Scene, size: int) -> None:
    points = 0
    for _, frozen in stopped_at_each_point(scene.name, size):
        points += 1
        before = {seq: rest for seq, *rest in scene.history()}
        full_names(scene, frozen)
        frozen.kill()
        started = time.monotonic()
        seq = scene.write(SMALL, timeout=10)
        assert time.monotonic() - started < 5
        # History is intact: what is still there is what it was, plus at most the dead's message.
        after = {seq: rest for seq, *rest in scene.history()}
        assert max(after) == seq
        for number, message in after.items():
            expected = before.get(number, [size, 255] if number < seq else [SMALL, scene.byte])
            assert message == expected
        assert seq - max(before) in (1, 2)
        assert not any(p.pid == frozen.pid for p in scene.writer.participants())
        scene.write(LARGE)
        scene.write(MAX_MESSAGE)
        scene.hold_again()
        scene.refill()
    print(f"killed at {points} points of a write of {size} bytes")
    assert points >= 20


def test_a_frozen_writer_does_not_keep_others_from_leaving(scene: Scene) -> None:
    for _, frozen in itertools.islice(stopped_at_each_point(scene.name, LARGE), 7, 8):
        topics = [shmflow.Topic(scene.name, mode) for mode in ("r", "rw", "w", "monitor")]
        arrays = [topics[0].read(timeout=0) for _ in range(4)]
        loan = topics[1].loan(LARGE)
        assert not loan.in_ring, "a loan waits a moment for the lock, then takes private memory"
        loan.discard()
        for topic in topics:
            topic.close()
        for array in arrays:
            equal_bytes(array)
        del arrays, loan
        frozen.go_on()
        frozen.answer("write")
        scene.write(LARGE)


def test_unlink_does_not_wait_for_a_frozen_writer(scene: Scene) -> None:
    for _, frozen in itertools.islice(stopped_at_each_point(scene.name, SMALL), 4, 5):
        before = scene.history()
        view = scene.reader.read(timeout=0, latest=True)
        content = view.tobytes()
        scene.writer.unlink()
        with shmflow.Topic(scene.name, capacity=CAPACITY) as fresh:
            assert fresh.write(np.full(LARGE, 9, np.uint8)) == 1
            message = scene.reader.read_message(timeout=5)
            if message.seq == before[-1][0] + 1:  # the frozen one's, published but for head
                message = scene.reader.read_message(timeout=5)
            assert (message.seq, equal_bytes(message.array)) == (1, 9)
            fresh.unlink()
        assert view.tobytes() == content
        frozen.go_on()
        frozen.send("close")
