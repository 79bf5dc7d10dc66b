"""Threads on one Topic: any number in any call, and what one of them does meanwhile."""

from __future__ import annotations

import pickle
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmflow
from shmflow import _meta

SMALL = 100  # bytes: copied, private as a loan
LARGE = 20000  # bytes: in the ring

ATTACHED = """
    import sys, shmflow
    topic = shmflow.Topic(sys.argv[1], "w", create=False)
    print("attached", flush=True)
    sys.stdin.readline()
"""


def await_that(condition: Callable[[], bool]) -> None:
    """Until it is so; a net of ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.001)


# ---- what one thread does while another is inside a call ----------------------------------------


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_discard_does_not_end_a_loan_that_is_being_published(
    topic: shmflow.Topic,
    spawn: Callable[..., Any],
    hold_lock: Callable[..., None],
    background: Callable[..., Any],
    size: int,
) -> None:
    other = spawn(ATTACHED, topic.name)
    other.expect("attached")
    loan = topic.loan(size)
    assert loan.in_ring == (size == LARGE)
    loan.array[:] = 5
    hold_lock(topic.name, 1)
    publishing = background(loan.publish)

    def has_begun() -> bool:
        try:
            return loan.array is None
        except ValueError:
            return True

    await_that(has_begun)
    loan.discard()
    with pytest.raises(ValueError, match="has ended"):
        loan.publish()
    assert publishing.is_alive() and topic.head == 0
    other.kill()
    assert publishing.outcome() == 1
    assert (topic.read(timeout=0) == 5).all()
    for _ in range(200):  # many times around the ring: its block is nobody's but the reader's
        topic.write(np.zeros(LARGE, "u1"))
    assert topic.stats().held_blocks == 0


def test_meta_is_one_dict_for_all_threads(
    topic: shmflow.Topic, background: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2, timeout=20)
    unpack = _meta.unpack_meta

    def unpack_together(packed: bytes) -> dict[str, Any]:
        together.wait()
        return unpack(packed)

    topic.write(b"x", meta={"a": 1})
    message = topic.read_message(timeout=0)
    monkeypatch.setattr(_meta, "unpack_meta", unpack_together)
    first, second = (background(lambda: message.meta) for _ in range(2))
    mine, other = first.outcome(), second.outcome()
    assert mine == {"a": 1} and mine is other is message.meta


# ---- all of them at once ------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    """Threads take turns at nearly every bytecode that may."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


DTYPES = ("u1", ">u2", "f8", [("a", "i4"), ("b", "u1", (2,))])


def fill_in(array: np.ndarray, which: int, number: int) -> None:
    """Says in its first bytes whose message it is, in its other bytes as well."""
    content = array.view(np.uint8).reshape(-1)
    content[:] = (which * 31 + number) % 251
    content[:8] = np.frombuffer(np.array([which, number], "u4").tobytes(), np.uint8)


def tell(array: np.ndarray) -> tuple[int, int]:
    """Whose it is; checks that all of it is, and that the dtype is that of its writer."""
    content = np.frombuffer(array.tobytes(), np.uint8)
    which, number = (int(word) for word in content[:8].view("u4"))
    assert (content[8:] == (which * 31 + number) % 251).all()
    assert array.dtype == np.dtype(DTYPES[which])
    return which, number


def test_each_message_is_written_once_and_read_by_one_thread(
    topic_name: str, background: Callable[..., Any]
) -> None:
    count = 60

    def write(topic: shmflow.Topic, which: int) -> list[int]:
        numbers = []
        for number in range(count):
            array = (
                np.zeros((8, 2), DTYPES[which]) if number % 3 else np.zeros(20000, DTYPES[which])
            )
            if number % 2:
                loan = topic.loan(array.shape, array.dtype, meta={"number": number})
                fill_in(loan.array, which, number)
                numbers.append(loan.publish() if number % 4 == 1 else loan.publish(loan.array.size))
            else:
                fill_in(array, which, number)
                numbers.append(topic.write(array, meta={"number": number}))
        return numbers

    def messages(topic: shmflow.Topic) -> list[tuple[int, int]]:
        got = []
        for message in topic.messages():
            got.append(tell(message.array))
            assert message.meta == {"number": got[-1][1]}
        return got

    def copies(topic: shmflow.Topic) -> list[tuple[int, int]]:
        got = []
        while True:
            try:
                got.append(tell(topic.read(copy=True)))
            except shmflow.Closed:
                return got

    with shmflow.Topic(topic_name, capacity="64 MiB", depth=4096) as topic:
        reading = [
            background(call, topic)
            for call in (lambda t: [tell(a) for a in t], messages, copies, copies, copies)
        ]
        writing = [background(write, topic, which) for which in range(len(DTYPES))]
        numbers = [thread.outcome(60) for thread in writing]
        topic.shutdown()
        got = [thread.outcome(60) for thread in reading]
        assert all(part == sorted(part) for part in numbers)
        total = count * len(DTYPES)
        assert sorted(n for part in numbers for n in part) == list(range(1, total + 1))
        expected = [(which, number) for which in range(len(DTYPES)) for number in range(count)]
        assert sorted(pair for part in got for pair in part) == expected
        stats = topic.stats()
        assert (stats.written, stats.read, stats.lost, stats.held_blocks) == (total, total, 0, 0)
        del reading, writing
        topic.unlink()


def test_views_are_dropped_in_other_threads(
    topic_name: str, background: Callable[..., Any]
) -> None:
    def drop(views: queue.Queue[Any]) -> int:
        dropped = 0
        while (view := views.get()) is not None:
            tell(view)
            dropped += 1
        return dropped

    views: queue.Queue[Any] = queue.Queue(maxsize=30)
    with shmflow.Topic(topic_name, capacity="2 MiB", max_held="2 MiB") as topic:
        dropping = [background(drop, views) for _ in range(3)]
        for number in range(400):  # many times around the ring
            array = np.zeros(LARGE, "u1")
            fill_in(array, 0, number)
            topic.write(array)
            view = topic.read(timeout=0)
            for part in (view, view[:], view.reshape(2, -1)):
                views.put(part)
            del view, part
        for _ in dropping:
            views.put(None)
        assert sum(thread.outcome() for thread in dropping) == 1200
        assert topic.stats().held_blocks == 0
        topic.unlink()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_loan_is_published_by_one_thread(
    topic_name: str, background: Callable[..., Any], size: int
) -> None:
    with shmflow.Topic(topic_name, capacity="8 MiB") as topic:
        rounds = 40
        loans = [topic.loan(size) for _ in range(rounds)]
        together = threading.Barrier(4, timeout=20)

        def publish(loans: list[shmflow.Loan], shorter: int | None) -> list[int]:
            mine = []
            for number, loan in enumerate(loans):
                together.wait()
                try:
                    fill_in(loan.array, 0, number)
                    mine.append(loan.publish(shorter))
                except ValueError:  # another was quicker; or it is read-only by now
                    loan.discard()
            return mine

        threads = [background(publish, loans, shorter) for shorter in (None, None, 50, 60)]
        numbers = sorted(n for thread in threads for n in thread.outcome())
        assert numbers == list(range(1, rounds + 1)) and topic.head == rounds
        assert [loan.seq for loan in loans] == numbers
        del loans, threads
        while topic.read(timeout=0, default=None) is not None:
            pass
        assert topic.stats().held_blocks == 0
        topic.unlink()


def every_call(topic: shmflow.Topic) -> list[Callable[[], Any]]:
    """Calls that go on until the Topic is closed."""
    large = np.zeros(LARGE, "u1")
    return [
        lambda: topic.write(b"small"),
        lambda: topic.write(large, meta={"a": 1}),
        lambda: topic.loan(LARGE).publish(10),
        lambda: topic.loan(LARGE).discard(),
        lambda: memoryview(topic.loan(SMALL)).release(),
        lambda: topic.read(timeout=0, default=None),
        lambda: topic.read(timeout=30),
        lambda: topic.read_message(timeout=30, latest=True).meta,
        lambda: next(topic.messages(copy=True)),
        lambda: (topic.__enter__(), pickle.dumps(topic)),
    ]


def test_close_ends_what_all_threads_do(topic_name: str, background: Callable[..., Any]) -> None:
    def go_on(call: Callable[[], Any], begun: threading.Barrier) -> str:
        begun.wait()
        while True:
            try:
                call()
            except (shmflow.Closed, StopIteration):
                return "closed"

    for _ in range(3):
        with (
            shmflow.Topic(topic_name, capacity="1 MiB", temporary=True) as feed,
            shmflow.Topic(topic_name, "rw") as topic,
        ):
            calls = every_call(topic)
            begun = threading.Barrier(len(calls) + 1, timeout=20)
            threads = [background(go_on, call, begun) for call in calls]
            begun.wait()
            for _ in range(50):
                feed.write(b"x")
            await_that(lambda topic=topic: topic.stats().written > 50)
            topic.close()
            assert [thread.outcome() for thread in threads] == ["closed"] * len(calls)
            assert topic.stats().held_blocks == 0
            del threads, calls


def test_facts_are_told_while_generations_come_and_go(
    topic_name: str, background: Callable[..., Any]
) -> None:
    done = threading.Event()

    def ask(topic: shmflow.Topic) -> int:
        rounds = 0
        while not done.is_set() or rounds < 3:
            assert topic.stats().lost == 0
            assert topic.capacity in (None, 1 << 20)
            assert "shmflow.Topic" in repr(topic) and topic.name == topic_name
            assert all(p.pid for p in topic.participants())
            facts = (topic.head, topic.tail, topic.depth, topic.max_message, topic.ended)
            assert len(facts) == 5 and topic.generation >= 0
            assert topic.writers + topic.readers >= 0 and topic.lost + topic.skipped >= 0
            rounds += 1
        return rounds

    def read(topic: shmflow.Topic) -> list[int]:
        got = []
        while True:
            value = int(topic.read()[0])
            got.append(value)
            if value == 255:
                return got

    with shmflow.Topic(topic_name, "r") as reader, shmflow.Topic(topic_name, capacity=1 << 20) as t:
        asking = [background(ask, topic) for topic in (reader, t, t)]
        reading = background(read, reader)
        for generation in range(8):
            for _ in range(5):
                t.write(np.full(LARGE if generation % 2 else SMALL, generation, "u1"))
            await_that(lambda g=generation: reader.generation > g and not reader.stats().lag)
            t.unlink()
        t.write(np.full(SMALL, 255, "u1"))
        assert reading.outcome() == [n // 5 for n in range(40)] + [255]
        done.set()
        assert all(thread.outcome() >= 3 for thread in asking)
        del asking, reading
        t.unlink()
