"""Reading: waiting, passing over, losing, copying, and who gets what among threads."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmflow

LARGE = 5000  # int32s: more than is copied


def number(array: np.ndarray[Any, Any]) -> int:
    assert (array == array.flat[0]).all()
    return int(array.flat[0])


def test_messages_come_in_order_each_once(topic: shmflow.Topic) -> None:
    for i in range(50):
        topic.write(np.full(LARGE if i % 2 else 5, i))
    assert [number(topic.read(timeout=0)) for _ in range(20)] == list(range(20))
    assert [number(topic.read(timeout=0)) for _ in range(30)] == list(range(20, 50))
    with pytest.raises(shmflow.Empty):
        topic.read(timeout=0)


def test_every_reader_sees_every_message(topic: shmflow.Topic) -> None:
    readers = [shmflow.Topic(topic.name, "r") for _ in range(3)]
    for i in range(10):
        topic.write(i)
    for reader in readers:
        assert [int(reader.read(timeout=0)) for _ in range(10)] == list(range(10))
        reader.close()


def test_empty_is_raised_when_the_timeout_passes(topic: shmflow.Topic) -> None:
    for timeout in (0, 0.0, 0.01, 0.05):
        with pytest.raises(shmflow.Empty) as caught:
            topic.read(timeout)
        assert isinstance(caught.value, (queue.Empty, TimeoutError))
        with pytest.raises(shmflow.Empty):
            topic.read_message(timeout=timeout)


def test_read_waits_at_least_its_timeout(topic: shmflow.Topic) -> None:
    began = time.monotonic()
    assert topic.read(0.15, default=None) is None
    assert time.monotonic() - began >= 0.15


def test_default_is_returned_instead_of_empty(topic: shmflow.Topic) -> None:
    nothing = object()
    assert topic.read(0, default=nothing) is nothing
    assert topic.read_message(0, default=None) is None
    assert topic.read(timeout=0, default=0) == 0
    with pytest.raises(shmflow.Empty):
        topic.read(0, default=...)
    topic.write(5)
    assert topic.read(0, default=nothing) == 5


def test_huge_timeouts_are_for_ever(topic: shmflow.Topic) -> None:
    for timeout in (1e9, 1e300, float("inf"), 10**30, None):
        topic.write(1)
        assert topic.read(timeout) == 1
        assert topic.write(1, timeout=timeout)
        topic.read(timeout=0)


def test_blocked_read_gets_what_comes(topic: shmflow.Topic, background: Any) -> None:
    for timeout in (None, 30):
        for data in (np.arange(4), np.arange(LARGE)):
            reading = background(topic.read, timeout)
            time.sleep(0.05)
            topic.write(data)
            np.testing.assert_array_equal(reading.outcome(), data)
            del reading


def test_latest_passes_over_and_tells_how_many(topic: shmflow.Topic) -> None:
    for i in range(10):
        topic.write(i)
    assert topic.read(timeout=0) == 0
    message = topic.read_message(timeout=0, latest=True)
    assert (message.array, message.seq, message.skipped, message.lost) == (9, 10, 8, 0)
    assert topic.skipped == topic.stats().skipped == 8
    assert topic.lost == 0
    topic.write(10)
    message = topic.read_message(timeout=0, latest=True)
    assert (message.array, message.skipped) == (10, 0)
    with pytest.raises(shmflow.Empty):
        topic.read(timeout=0, latest=True)
    assert topic.skipped == 8


def test_lapped_reader_is_told_exactly_how_many_it_lost(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB", depth=4) as topic:
        topic.write(0)
        assert topic.read(timeout=0) == 0
        for i in range(1, 11):
            topic.write(i)
        assert (topic.tail, topic.head) == (8, 11)
        message = topic.read_message(timeout=0)
        assert (message.array, message.seq, message.lost) == (7, 8, 6)
        assert topic.read_message(timeout=0).lost == 0
        assert topic.lost == topic.stats().lost == 6
        for i in range(11, 21):
            topic.write(i)
        message = topic.read_message(timeout=0, latest=True)
        assert (message.seq, message.lost, message.skipped) == (21, 8, 3)
        assert topic.stats().read == 4
        assert topic.stats().read + topic.lost + topic.skipped == topic.head
        topic.unlink()


def test_lost_and_read_always_add_up(topic_name: str) -> None:
    rng = np.random.default_rng(5)
    with (
        shmflow.Topic(topic_name, "w", capacity="256 KiB", max_message="64 KiB") as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        lost, last = 0, 0
        for _ in range(600):
            seq = writer.write(np.full(rng.integers(1, 60000), 7, "u1"))
            if rng.random() < 0.2:
                message = reader.read_message(timeout=0)
                assert message.seq == last + message.lost + 1
                last, lost = message.seq, lost + message.lost
                del message
        assert reader.lost == lost > 0
        assert reader.stats().lag == seq - last
        writer.unlink()


def test_start_says_where_a_reader_begins(topic: shmflow.Topic) -> None:
    for i in range(5):
        topic.write(i)
    expected = {"oldest": [0, 1, 2, 3, 4, 5], "latest": [4, 5], "new": [5]}
    readers = {start: shmflow.Topic(topic.name, "r", start=start) for start in expected}
    topic.write(5)
    for start, reader in readers.items():
        got = []
        while (array := reader.read(timeout=0, default=None)) is not None:
            got.append(int(array))
        assert got == expected[start], start
        assert (reader.lost, reader.skipped) == (0, 0), start
        reader.close()


def test_results_are_read_only_and_copies_are_yours(topic: shmflow.Topic) -> None:
    for count in (3, LARGE):
        data = np.arange(count)
        for _ in range(3):
            topic.write(data)
        plain = topic.read(timeout=0)
        assert not plain.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            plain[0] = 1
        if count == LARGE:
            with pytest.raises(ValueError, match="WRITEABLE"):
                plain.flags.writeable = True
        copied = topic.read(timeout=0, copy=True)
        assert copied.flags.writeable and copied.flags.owndata
        copied[:] = -1
        out = np.zeros_like(data)
        message = topic.read_message(timeout=0, out=out)
        assert message.array is out
        np.testing.assert_array_equal(out, data)
        np.testing.assert_array_equal(plain, data)
        del plain, message


def test_view_never_changes_whatever_is_written(topic: shmflow.Topic) -> None:
    topic.write(np.arange(LARGE))
    held = topic.read(timeout=0)
    for i in range(500):
        topic.write(np.full(LARGE, i))
    np.testing.assert_array_equal(held, np.arange(LARGE))
    part = held[10:20]
    del held
    for i in range(200):
        topic.write(np.full(LARGE, i))
    np.testing.assert_array_equal(part, np.arange(10, 20))
    assert topic.stats().held_blocks == 1
    del part
    assert topic.stats().held_blocks == topic.stats().held_bytes == 0


def test_views_stay_valid_after_close_and_unlink(topic: shmflow.Topic) -> None:
    topic.write(np.arange(LARGE))
    held = topic.read(timeout=0)
    topic.unlink()
    topic.close()
    np.testing.assert_array_equal(held, np.arange(LARGE))


def test_beyond_max_held_read_copies_and_warns_once(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB", max_held="100 KiB") as topic:
        for i in range(8):
            topic.write(np.full(30000, i, "u1"))
        held = [topic.read(timeout=0) for _ in range(3)]
        with pytest.warns(RuntimeWarning, match=r"holds max_held \(102400 bytes\) of views"):
            held.append(topic.read(timeout=0))
        held += [topic.read(timeout=0) for _ in range(4)]
        assert [number(a) for a in held] == list(range(8))
        assert [type(a.base).__name__ == "_View" for a in held] == [True] * 3 + [False] * 5
        assert not any(a.flags.writeable for a in held)
        assert topic.stats().held_blocks == 3
        assert topic.stats().pinned == 3 and topic.stats().copied == 5
        held.clear()
        topic.write(np.full(30000, 9, "u1"))
        assert type(topic.read(timeout=0).base).__name__ == "_View"
        topic.unlink()


def test_warning_as_error_consumes_nothing(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB", max_held=1) as topic:
        for i in range(3):
            topic.write(np.full(LARGE, i))
        first = topic.read(timeout=0)
        with pytest.raises(RuntimeWarning, match="max_held"):  # pytest makes them errors
            topic.read(timeout=0)
        message = topic.read_message(timeout=0)
        assert (message.seq, message.lost, number(message.array)) == (2, 0, 1)
        del first, message
        topic.unlink()


def test_iteration_ends_at_shutdown_after_draining(topic: shmflow.Topic, background: Any) -> None:
    with shmflow.Topic(topic.name, "r") as reader:
        got: list[int] = []
        going = background(lambda: got.extend(int(a) for a in reader))
        for i in range(5):
            topic.write(i)
        time.sleep(0.05)
        topic.shutdown()
        going.outcome()
        assert got == list(range(5))
        assert reader.ended and list(reader) == []
        with pytest.raises(shmflow.Closed, match="shut down"):
            reader.read()
        with pytest.raises(shmflow.Closed):
            reader.read(timeout=0, default=None)


def test_iteration_ends_at_close(topic: shmflow.Topic, background: Any) -> None:
    reader = shmflow.Topic(topic.name, "r")
    going = background(list, reader)
    other = background(lambda: list(reader.messages()))
    time.sleep(0.1)
    reader.close()
    assert going.outcome() == other.outcome() == []


def test_each_message_goes_to_exactly_one_thread(topic_name: str, background: Any) -> None:
    count = 2000
    with (
        shmflow.Topic(topic_name, "w", capacity="32 MiB") as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        threads = [background(lambda: [int(a.flat[0]) for a in reader]) for _ in range(4)]
        for i in range(count):
            writer.write(np.full(2 if i % 3 else 2000, i))
        writer.shutdown()
        got = [thread.outcome() for thread in threads]
        assert sorted(n for part in got for n in part) == list(range(count))
        assert all(part == sorted(part) for part in got)
        assert reader.stats().read == count
        del threads
        writer.unlink()


def test_blocked_read_releases_the_gil(topic: shmflow.Topic, background: Any) -> None:
    reading = background(topic.read)
    deadline = time.monotonic() + 10
    for _ in range(2000):
        sum(range(100))
    assert time.monotonic() < deadline and reading.is_alive()
    assert topic.stats().read == 0  # other calls go on too
    assert topic.participants()
    topic.write(1)
    assert reading.outcome() == 1


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_blocked_read_ends_with_closed(topic_name: str, background: Any, how: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        with shmflow.Topic(topic_name, "r") as reader:
            reading = [background(reader.read) for _ in range(2)]
            reading.append(background(reader.read_message, 60, default=None))
            time.sleep(0.1)
            (reader.close if how == "close" else topic.shutdown)()
            for thread in reading:
                with pytest.raises(shmflow.Closed, match=r"shut down|was closed"):
                    thread.outcome()
            del thread, reading
        topic.unlink()


def test_close_ends_a_read_that_waits_for_a_topic(topic_name: str, background: Any) -> None:
    for mode in ("r", "monitor", "rw"):
        reader = shmflow.Topic(topic_name, mode)
        reading = background(reader.read)
        time.sleep(0.05)
        reader.close()
        with pytest.raises(shmflow.Closed):
            reading.outcome()


BLOCKED = """
    import sys, shmflow
    topic = shmflow.Topic(sys.argv[1], sys.argv[2])
    print("waiting", flush=True)
    try:
        {call}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    topic.close()
"""


@pytest.mark.parametrize("mode", ["r", "rw", "monitor"])
@pytest.mark.parametrize("exists", [True, False])
def test_ctrl_c_ends_a_blocked_read(
    topic_name: str, spawn: Callable[..., Any], mode: str, exists: bool
) -> None:
    topic = shmflow.Topic(topic_name, "w", **({"create": True} if exists else {}))
    child = spawn(BLOCKED.format(call="topic.read()"), topic_name, mode)
    child.expect("waiting")
    time.sleep(0.2)
    child.process.send_signal(signal.SIGINT)
    child.expect("interrupted", timeout=5)
    child.finish()
    if exists:
        topic.unlink()
    topic.close()


def test_signal_handlers_run_while_a_read_waits(topic: shmflow.Topic) -> None:
    ran = threading.Event()

    def handler(*_: Any) -> None:
        ran.set()
        topic.write(77)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert topic.read(timeout=20) == 77
        assert ran.is_set()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
