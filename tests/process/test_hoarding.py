"""Readers that hold everything they can get never stop a writer.

Three processes read every message without ever letting one go, up to their max_held, which is all
there is; sizes are mixed, up to max_message. The ring flows around what is held, and through the
lane when there is nothing else.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest

import shmflow

CAPACITY = 4 << 20
MAX_MESSAGE = CAPACITY // 4
SIZES = [0, 1, 64, 3000, 4096, 5000, 40_000, 100_000, 300_000, MAX_MESSAGE - 1, MAX_MESSAGE]

HOARDER = """
    import sys, zlib
    import warnings
    import shmflow

    name, max_held, unit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("ignore", RuntimeWarning)  # "read() copies now": it is meant to
    topic = shmflow.Topic(name, "r", max_held=max_held)
    held = []
    print("ready")
    for line in sys.stdin:
        match line.split():
            case ["hoard", until]:
                until = int(until)
                while (message := topic.read_message(5)).seq < until:
                    array = message.array
                    assert zlib.crc32(array) == message.meta["crc"], f"{message.seq} is torn"
                    # A copy costs nobody anything; what is kept are views of the ring.
                    if array.base is not None and message.seq % unit != 0:
                        held.append((array, message.meta["crc"]))
                    del array, message
                del message
                print("held", topic.stats().held_bytes, topic.stats().pinned)
            case ["check"]:
                changed = [i for i, (array, crc) in enumerate(held) if zlib.crc32(array) != crc]
                print("changed", changed)
            case ["let", "go"]:
                held.clear()
                print("free", topic.stats().held_bytes)
    topic.close()
"""


class Writer:
    """Writes messages that tell their own checksum."""

    def __init__(self, topic: shmflow.Topic) -> None:
        self.topic = topic
        self.random = np.random.default_rng(7)

    def write(self, size: int) -> int:
        data = self.random.integers(0, 256, size, np.uint8)
        # Never a wait: a short timeout is enough, on however loaded a machine.
        return self.topic.write(data, meta={"crc": zlib.crc32(data)}, timeout=20)


@pytest.fixture
def hoarders(spawn: Callable, topic_name: str) -> Callable[..., list]:
    def start(*max_held: int) -> list:
        started = [spawn(HOARDER, topic_name, limit, 3 + i) for i, limit in enumerate(max_held)]
        for child in started:
            child.expect("ready")
        return started

    return start


def hoard(children: list, until: int) -> int:
    """All read what is there; how many bytes they hold, together."""
    for child in children:
        child.send(f"hoard {until}")
    return sum(int(child.readline().split()[1]) for child in children)


def check(children: list) -> None:
    for child in children:
        child.send("check")
    for child in children:
        child.expect("changed []")


def test_writers_of_every_size_go_on_while_three_readers_hold_all_they_can_get(
    topic_name: str, hoarders: Callable[..., list]
) -> None:
    with shmflow.Topic(topic_name, "w", capacity=CAPACITY, max_message=MAX_MESSAGE) as topic:
        writer = Writer(topic)
        children = hoarders(CAPACITY, CAPACITY, CAPACITY)
        held = 0
        for round in range(12):
            order = SIZES[round % len(SIZES) :] + SIZES[: round % len(SIZES)]
            last = [writer.write(size) for size in order][-1]
            held = hoard(children, last)
            assert held == sum(p.held_bytes for p in topic.participants())
        assert held > CAPACITY  # together; many are held by several
        # Main is all but full of what is held; every size still finds room, again and again.
        for _ in range(20):
            for size in SIZES:
                writer.write(size)
        check(children)
        # Main has no room for a large one any more: it comes by the lane, which is copied.
        with shmflow.Topic(topic_name, "r", start="new", max_held=CAPACITY) as reader:
            assert reader.stats().read == 0
            writer.write(MAX_MESSAGE)
            assert reader.read(5).nbytes == MAX_MESSAGE
            assert (reader.stats().copied, reader.stats().pinned) == (1, 0)
        stats = topic.stats()
        assert stats.writer_waits == 0
        assert stats.written == 32 * len(SIZES) + 1
        # What is read now was copied out of the lane, or is what others do not hold.
        hoard(children, topic.head)
        check(children)

        # When they let go, main is used again: large messages are pinned, not copied.
        for child in children:
            child.send("let go")
        for child in children:
            child.expect("free 0")
        assert sum(p.held_bytes for p in topic.participants()) == 0
        with shmflow.Topic(topic_name, "r", start="new", max_held=CAPACITY) as reader:
            assert reader.stats().read == 0
            for _ in range(8):
                writer.write(MAX_MESSAGE // 2)
                array = reader.read(5)
                assert array.nbytes == MAX_MESSAGE // 2
                del array
            assert reader.stats().pinned == 8
        assert topic.stats().writer_waits == 0


def test_history_is_kept_again_after_hoarders_let_go(
    topic_name: str, hoarders: Callable[..., list]
) -> None:
    size = 64 * 1024
    with shmflow.Topic(topic_name, "w", capacity=CAPACITY, max_message=MAX_MESSAGE) as topic:
        writer = Writer(topic)
        children = hoarders(CAPACITY, CAPACITY, CAPACITY)
        for _ in range(3):
            for _ in range(80):
                writer.write(size)
            hoard(children, topic.head)
        while_held = topic.head - topic.tail + 1
        for child in children:
            child.send("let go")
            child.expect("free 0")
        for _ in range(80):
            writer.write(size)
        blocks = CAPACITY // (size + 64)  # the meta lies in a prefix of 64 bytes
        assert topic.head - topic.tail + 1 >= blocks > while_held


def test_history_is_kept_again_after_a_hoarder_was_killed(
    topic_name: str, hoarders: Callable[..., list]
) -> None:
    """Its holds leave room enough to write by: nobody waits, and nobody uses the lane."""
    size = 64 * 1024
    with shmflow.Topic(topic_name, "w", capacity=CAPACITY, max_message=MAX_MESSAGE) as topic:
        writer = Writer(topic)
        (child,) = hoarders(CAPACITY // 2)
        for _ in range(50):
            writer.write(size)
        hoard([child], topic.head)
        for _ in range(80):
            writer.write(size)
        blocks = CAPACITY // (size + 64)
        assert topic.head - topic.tail + 1 < blocks
        child.kill()
        end = time.monotonic() + 30
        while topic.head - topic.tail + 1 < blocks and time.monotonic() < end:
            writer.write(size)
        assert topic.head - topic.tail + 1 >= blocks
        assert topic.stats().writer_waits == 0


def test_two_writers_share_the_lane_while_readers_hold_the_rest(
    topic_name: str, hoarders: Callable[..., list], spawn: Callable
) -> None:
    other = """
        import sys, zlib
        import numpy as np
        import shmflow

        random = np.random.default_rng(8)
        with shmflow.Topic(sys.argv[1], "w") as topic:
            for _ in range(int(sys.argv[2])):
                data = random.integers(0, 256, int(sys.argv[3]), np.uint8)
                topic.write(data, meta={"crc": zlib.crc32(data)}, timeout=20)
        print("done")
    """
    with shmflow.Topic(topic_name, "w", capacity=CAPACITY, max_message=MAX_MESSAGE) as topic:
        writer = Writer(topic)
        children = hoarders(CAPACITY, CAPACITY, CAPACITY)
        for _ in range(3):
            for _ in range(16):
                writer.write(CAPACITY // 16 - 64)
            hoard(children, topic.head)
        head = topic.head
        child = spawn(other, topic_name, 150, MAX_MESSAGE)
        for i in range(300):
            writer.write(SIZES[i % len(SIZES)])
        child.expect("done", timeout=60)
        child.finish()
        assert topic.head == head + 450
        check(children)
        hoard(children, topic.head)


def test_one_reader_may_always_hold_one_message_of_any_size(topic_name: str) -> None:
    """max_held below a message's size still admits one view, then copies, and says so once."""
    with shmflow.Topic(topic_name, capacity=CAPACITY, max_message=CAPACITY) as topic:
        with shmflow.Topic(topic_name, "r", max_held=1) as reader:
            topic.write(np.full(CAPACITY // 2, 1, np.uint8))
            first = reader.read(5)
            assert reader.stats().held_bytes == CAPACITY // 2
            topic.write(np.full(CAPACITY // 4, 2, np.uint8))
            with pytest.warns(RuntimeWarning, match="max_held"):
                second = reader.read(5)
            topic.write(np.full(CAPACITY, 3, np.uint8))
            third = reader.read(5)
            assert (first == 1).all() and (second == 2).all() and (third == 3).all()
            assert not (second.flags.writeable or third.flags.writeable)
            assert reader.stats()[:6] == (0, 0, 0, 3, 2, 1)
            del first
            assert reader.stats().held_bytes == 0
        assert topic.stats().writer_waits == 0
