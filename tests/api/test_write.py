"""Writing: numbers, creation on demand, waiting for another writer, several writers, the end."""

from __future__ import annotations

import gc
import queue
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmflow

LARGE = 5000


@pytest.fixture
def topic(topic_name: str) -> Iterator[shmflow.Topic]:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        yield topic
        gc.collect()
        topic.unlink()


STOPPED = """
    import sys, shmflow
    topic = shmflow.Topic(sys.argv[1], "w", create=False)
    print("attached", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other(topic: shmflow.Topic, spawn: Callable[..., Any]) -> Any:
    """A child that is attached to the topic as its second participant."""
    child = spawn(STOPPED, topic.name)
    child.expect("attached")
    return child


def test_write_returns_numbers_from_1_without_gaps(topic: shmflow.Topic) -> None:
    assert [topic.write(bytes(i * 100)) for i in range(100)] == list(range(1, 101))
    assert topic.head == 100
    assert (topic.stats().written, topic.stats().written_bytes) == (100, sum(range(100)) * 100)


def test_several_writers_share_one_numbering(topic_name: str, background: Any) -> None:
    with shmflow.Topic(topic_name, capacity="16 MiB") as reader:
        writers = [shmflow.Topic(topic_name, "w") for _ in range(3)]

        def write(which: int) -> list[int]:
            size = (2, 600, 3000)[which]
            return [writers[which].write(np.full(size, which * 1000 + i)) for i in range(500)]

        threads = [background(write, which) for which in range(3)]
        numbers = [thread.outcome() for thread in threads]
        assert sorted(n for part in numbers for n in part) == list(range(1, 1501))
        assert reader.lost == 0
        last = [-1, -1, -1]
        for _ in range(1500):
            message = reader.read_message(timeout=0)
            which, i = divmod(int(message.array[0]), 1000)
            assert (message.array == message.array[0]).all()
            assert numbers[which][i] == message.seq
            assert i == last[which] + 1
            last[which] = i
            del message
        assert shmflow.Topic(topic_name, "monitor").writers == 3
        for writer in writers:
            writer.close()
        reader.unlink()


def test_threads_share_a_writer(topic_name: str, background: Any) -> None:
    with shmflow.Topic(topic_name, capacity="8 MiB") as topic:
        threads = [
            background(lambda n: [topic.write(np.full(n, n)) for _ in range(300)], n)
            for n in (1, 100, 20000)
        ]
        numbers = [n for thread in threads for n in thread.outcome()]
        assert sorted(numbers) == list(range(1, 901))
        topic.unlink()


def test_first_write_makes_a_topic_that_fits_it(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w") as topic:
        assert shmflow.topics() == []
        assert (topic.capacity, topic.depth, topic.head) == (None, None, None)
        topic.write(np.zeros(1_000_000, "u1"))
        assert topic.capacity >= 16 * 1_000_000
        assert topic.max_message >= 1_000_000
        assert [info.name for info in shmflow.topics()] == [topic_name]
        topic.unlink()


def test_small_first_write_makes_at_least_1_mib(topic_name: str) -> None:
    with shmflow.Topic(topic_name) as topic:
        topic.write(1)
        assert topic.capacity == 1 << 20
        topic.unlink()


def test_larger_message_replaces_an_unsized_topic_nobody_else_uses(topic_name: str) -> None:
    with shmflow.Topic(topic_name) as topic:
        topic.write(1)
        with pytest.raises(shmflow.MessageTooLarge):
            topic.write(bytes(10 << 20))  # in use by this very Topic
    with shmflow.Topic(topic_name) as topic:
        topic.write(bytes(10 << 20))
        assert topic.max_message >= 10 << 20
        topic.unlink()


def test_capacities_of_one_two_and_three_messages(topic_name: str) -> None:
    for count in (1, 2, 3):
        for size in (4096, 100_000):
            with shmflow.Topic(topic_name, capacity=count * size, max_message=size) as topic:
                for i in range(20):
                    assert topic.write(np.full(size, i, "u1"), timeout=0) == i + 1
                    array = topic.read(timeout=0)
                    assert (array == i).all()
                    del array
                topic.unlink()


def test_depth_1_keeps_the_newest_only(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, capacity="1 MiB", depth=1) as topic,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        for i in range(10):
            topic.write(np.full(LARGE, i))
        message = reader.read_message(timeout=0)
        assert (message.seq, message.lost) == (10, 9)
        del message
        topic.unlink()


def test_readers_that_hold_everything_never_stop_a_writer(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w", capacity="1 MiB", max_message="256 KiB") as writer:
        readers = [shmflow.Topic(topic_name, "r", max_held="1 MiB") for _ in range(3)]
        held: list[tuple[np.ndarray[Any, Any], int]] = []
        sizes = [5000, 262144, 70000, 16, 130000]
        for i in range(100):
            writer.write(np.full(sizes[i % 5], i, "u1"), timeout=0)
            if i < 30:
                held.append((readers[i % 3].read(timeout=0, latest=True), i))
        for array, i in held:
            assert (array == i).all()
        assert sum(reader.stats().held_bytes for reader in readers) > 500_000
        assert writer.stats().writer_waits == 0
        held.clear()
        del array
        for reader in readers:
            reader.close()
        writer.unlink()


def test_full_names_the_writer_that_is_stopped(
    topic: shmflow.Topic, other: Any, hold_lock: Callable[..., None]
) -> None:
    topic.write(b"before")
    other.stop()
    hold_lock(topic.name, 1)
    for data in (b"x", np.zeros(LARGE)):
        for timeout in (0, 0.05, 0.3):
            with pytest.raises(shmflow.Full) as caught:
                topic.write(data, timeout=timeout)
            assert isinstance(caught.value, (queue.Full, TimeoutError))
            text = str(caught.value)
            assert f"to {topic.name!r} within {timeout:g} s" in text
            assert f"held by pid {other.pid} (child0.py), which is stopped" in text
            assert "kill -CONT" in text
    # Reading, facts and loans that discard go on meanwhile.
    assert bytes(topic.read(timeout=0)) == b"before"
    assert topic.stats().written == 1 and len(topic.participants()) == 2
    with shmflow.Topic(topic.name, "monitor") as monitor:
        assert bytes(monitor.read(timeout=0)) == b"before"
    topic.loan(LARGE, timeout=0).discard()
    other.cont()
    hold_lock(topic.name, None)
    assert topic.write(b"after", timeout=0) == 2


def test_lock_of_a_dead_writer_is_taken_however_short_the_timeout(
    topic: shmflow.Topic, other: Any, hold_lock: Callable[..., None]
) -> None:
    topic.write(b"before")
    hold_lock(topic.name, 1)
    other.kill()
    assert topic.write(b"after", timeout=0) == 2
    assert [bytes(topic.read(timeout=0)) for _ in range(2)] == [b"before", b"after"]


def test_waiting_write_goes_on_when_the_lock_is_free(
    topic: shmflow.Topic, other: Any, hold_lock: Callable[..., None], background: Any
) -> None:
    hold_lock(topic.name, 1)
    writing = background(topic.write, b"x")
    time.sleep(0.2)
    assert writing.is_alive() and topic.head == 0
    other.kill()
    assert writing.outcome() == 1


def test_close_ends_a_waiting_write(
    topic_name: str, spawn: Any, hold_lock: Callable[..., None], background: Any
) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        child = spawn(STOPPED, topic_name)
        child.expect("attached")
        hold_lock(topic_name, 1)
        writing = [background(topic.write, data) for data in (b"x", np.zeros(LARGE))]
        time.sleep(0.2)
        topic.close()
        for thread in writing:
            with pytest.raises(shmflow.Closed):
                thread.outcome()
        del thread, writing
    child.send()
    child.finish()
    shmflow.unlink(topic_name)


WAITING = """
    import sys, shmflow
    topic = shmflow.Topic(sys.argv[1], "w", create=False)
    print("writing", flush=True)
    try:
        topic.write(bytes(int(sys.argv[2])))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    topic.close()
"""


@pytest.mark.parametrize("size", [1, 50000])
def test_ctrl_c_ends_a_waiting_write(
    topic: shmflow.Topic, spawn: Any, hold_lock: Callable[..., None], size: int
) -> None:
    hold_lock(topic.name, 0)  # ours: alive, and it will not let go
    child = spawn(WAITING, topic.name, size)
    child.expect("writing")
    time.sleep(0.2)
    child.process.send_signal(signal.SIGINT)
    child.expect("interrupted", timeout=5)
    child.finish()
    hold_lock(topic.name, None)
    assert topic.write(b"goes on", timeout=0) == 1
    assert bytes(topic.read(timeout=0)) == b"goes on"


def test_after_shutdown_writes_raise_closed(topic: shmflow.Topic) -> None:
    with shmflow.Topic(topic.name, "w") as second:
        second.write(b"a")
        topic.write(b"b")
        topic.shutdown()
        for writer in (topic, second):
            for call in (
                lambda w: w.write(b"x"),
                lambda w: w.write(bytes(50000)),
                lambda w: w.loan(50000).publish(),
                lambda w: w.loan(3).publish(),
            ):
                with pytest.raises(shmflow.Closed, match="shut down by a participant"):
                    call(writer)
        topic.shutdown()  # again: nothing more happens
        assert [bytes(topic.read(timeout=0)) for _ in range(2)] == [b"a", b"b"]
        with pytest.raises(shmflow.Closed):
            topic.read()


def test_shutdown_ends_a_waiting_write(
    topic: shmflow.Topic, other: Any, hold_lock: Callable[..., None], background: Any
) -> None:
    hold_lock(topic.name, 1)
    writing = background(topic.write, b"x")
    ending = background(topic.shutdown)
    time.sleep(0.2)
    other.kill()
    ending.outcome()
    try:
        assert writing.outcome() == 1  # it came first
    except shmflow.Closed:
        assert topic.head == 0


def test_write_goes_to_the_next_generation_after_unlink(topic: shmflow.Topic) -> None:
    assert topic.write(b"one") == 1
    topic.unlink()
    assert topic.write(b"two") == 1
    assert topic.generation == 2
    assert topic.stats().written == 2
    assert topic.capacity == 1 << 20
