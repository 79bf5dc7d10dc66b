"""write_many, read_many, read_messages: many messages in a call are messages like any other."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmflow


def test_what_one_call_wrote_another_reads_in_order(topic: shmflow.Topic) -> None:
    items = [np.full(n % 7, n, "i4") for n in range(100)]
    assert topic.write_many(items) == 100
    got = topic.read_many(1000)
    assert len(got) == 100
    for sent, array in zip(items, got, strict=True):
        np.testing.assert_array_equal(sent, array)


def test_anything_that_can_be_written_can_be_in_it(topic: shmflow.Topic) -> None:
    items = [b"bytes", 5, 2.5, np.zeros((3, 4), order="F"), np.arange(20.0)[::3], np.ones(9000)]
    assert topic.write_many(iter(items)) == len(items)
    for sent, array in zip(items, topic.read_many(99), strict=True):
        expected = np.frombuffer(sent, "u1") if isinstance(sent, bytes) else np.asarray(sent)
        np.testing.assert_array_equal(expected, array)
        assert array.dtype == expected.dtype


def test_the_rows_of_an_array_are_messages(topic: shmflow.Topic) -> None:
    rows = np.arange(1000).reshape(100, 10)
    topic.write_many(rows)
    np.testing.assert_array_equal(topic.read_many(100, stack=True), rows)


def test_large_and_small_keep_their_order(topic: shmflow.Topic) -> None:
    sizes = [10, 10, 9000, 10, 30_000, 30_000, 4096, 4097, 0, 1]
    topic.write_many(np.full(size, n, "u1") for n, size in enumerate(sizes))
    assert [m.array.size for m in topic.read_messages(99)] == sizes


def test_nothing_to_write_is_nothing_written(topic: shmflow.Topic) -> None:
    assert topic.write_many([]) == 0
    assert topic.head == 0


@pytest.mark.parametrize("one", [b"bytes", "text", bytearray(3), memoryview(b"x"), {"a": 1}, 5])
def test_one_message_is_not_many(topic: shmflow.Topic, one: object) -> None:
    with pytest.raises(TypeError):
        topic.write_many(one)  # type: ignore[arg-type]
    assert topic.head == 0


def test_an_item_that_cannot_travel_comes_after_those_before_it(topic: shmflow.Topic) -> None:
    with pytest.raises(TypeError) as error:
        topic.write_many([1, 2, 3, object(), 5])
    assert error.value.written == 3  # type: ignore[attr-defined]
    assert [int(a) for a in topic.read_many(9)] == [1, 2, 3]


def test_an_iterable_that_raises_is_told_with_what_got_through(topic: shmflow.Topic) -> None:
    def items() -> Iterator[int]:
        yield from range(40)
        raise KeyError("camera")

    with pytest.raises(KeyError) as error:
        topic.write_many(items())
    assert error.value.written == topic.head == 40  # type: ignore[attr-defined]


def test_one_that_is_too_large_ends_it_there(topic: shmflow.Topic) -> None:
    with pytest.raises(shmflow.MessageTooLarge) as error:
        topic.write_many([b"a", b"b", bytes(300_000), b"c"])
    assert error.value.written == topic.head == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [8, 9000])
def test_full_tells_how_many_got_through(topic_name: str, size: int) -> None:
    with (
        shmflow.Topic(topic_name, "w", depth=5, capacity="1 MiB") as writer,
        shmflow.Topic(topic_name, "r", lossless=True) as reader,
    ):
        items = np.arange(8 * size, dtype="u1").reshape(8, size)
        with pytest.raises(shmflow.Full) as error:
            writer.write_many(items, timeout=0.01)
        assert error.value.written == writer.head == 5
        assert len(reader.read_many(9)) == 5
        assert writer.write_many(items[5:], timeout=0) == 8
        writer.unlink()


def test_a_shut_down_stream_takes_no_batch(topic: shmflow.Topic) -> None:
    topic.write_many([1, 2])
    topic.shutdown()
    with pytest.raises(shmflow.Closed) as error:
        topic.write_many([3])
    assert error.value.written == 0  # type: ignore[attr-defined]
    assert len(topic.read_many(9)) == 2
    with pytest.raises(shmflow.Closed):
        topic.read_many(9)


def test_small_ones_of_a_batch_share_a_stamp(topic: shmflow.Topic) -> None:
    topic.write_many(range(10))
    stamps = [m.timestamp_ns for m in topic.read_messages(10)]
    assert len(set(stamps)) == 1 and stamps[0] > 0


def test_a_removed_generation_is_followed(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, "w", capacity="64 KiB") as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        writer.write_many(range(3))
        writer.unlink()
        assert writer.write_many(range(3, 5)) == 2
        assert [int(a) for a in reader.read_many(9, 5)] == [0, 1, 2]
        assert [int(a) for a in reader.read_many(9, 5)] == [3, 4]
        writer.unlink()


def test_read_many_waits_for_the_first_only(topic: shmflow.Topic, background: Callable) -> None:
    assert topic.read_many(5, 0) == topic.read_many(5, 0.001) == []
    waiting = background(topic.read_many, 5, 20)
    topic.write(1)
    assert [int(a) for a in waiting.outcome()] == [1]


def test_limit_and_views(topic: shmflow.Topic) -> None:
    topic.write_many([np.full(9000, n, "u1") for n in range(6)])
    some = topic.read_many(2)
    assert len(some) == 2 and all(not a.flags.writeable and a.base is not None for a in some)
    (mine,) = topic.read_many(1, copy=True)
    assert mine.flags.writeable and mine[0] == 2
    assert len(topic.read_many(99)) == 3


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "x", None, 1 << 80])
def test_a_limit_is_a_positive_number(topic: shmflow.Topic, limit: object) -> None:
    topic.write(1)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        topic.read_many(limit)  # type: ignore[arg-type]
    assert topic.read(0) == 1


def test_messages_of_a_batch_tell_their_circumstances(topic_name: str) -> None:
    with shmflow.Topic(topic_name, depth=4) as topic:
        topic.write(0)
        topic.read()
        topic.write_many(range(6))
        topic.write(6, meta={"a": 1}, timestamp_ns=5)
        messages = topic.read_messages(9)
        assert [(m.seq, m.lost) for m in messages] == [(5, 3), (6, 0), (7, 0), (8, 0)]
        assert messages[-1].meta == {"a": 1} and messages[-1].timestamp_ns == 5
        topic.unlink()


# ---- stack -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 12))
def test_a_stack_ends_where_a_message_differs(kinds: list[int], limit: int) -> None:
    make = [
        lambda n: np.full((2, 3), n, "f4"),
        lambda n: np.full((3, 2), n, "f4"),
        lambda n: np.full((3, 2), n, "f4", order="F") + np.arange(2, dtype="f4"),
        lambda n: np.full((40, 50), n, "u4"),
    ]
    items = [np.asfortranarray(make[k](n)) if k == 2 else make[k](n) for n, k in enumerate(kinds)]
    with shmflow.Topic(capacity="1 MiB", temporary=True) as topic:
        topic.write_many(items)
        at = 0
        while at < len(items):
            expected = 1
            while (
                at + expected < len(items)
                and expected < limit
                and kinds[at + expected] == kinds[at]
            ):
                expected += 1
            stack = topic.read_many(limit, 0, stack=True)
            np.testing.assert_array_equal(stack, np.stack(items[at : at + expected]))
            assert stack.dtype == items[at].dtype and stack.flags.writeable
            at += expected
        assert topic.read_many(limit, 0, stack=True) == []


def test_stacks_of_long_dtypes_many_dimensions_and_meta(topic: shmflow.Topic) -> None:
    long = np.dtype([(f"field_{i}", "f8") for i in range(9)])
    other = np.dtype([(f"Field_{i}", "f8") for i in range(9)])
    for number in range(3):
        topic.write(np.full(4, number, "f8").astype(long), meta={"n": number})
    topic.write(np.zeros(4, other))
    topic.write_many([np.full((1, 2, 1, 2, 1, 3), n) for n in range(4)])
    first = topic.read_many(99, stack=True)
    assert first.shape == (3, 4) and first.dtype == long
    assert first["field_3"].tolist() == [[n] * 4 for n in range(3)]
    assert topic.read_many(99, stack=True).dtype == other
    assert topic.read_many(99, stack=True).shape == (4, 1, 2, 1, 2, 1, 3)


def test_stacks_of_scalars_and_of_nothing(topic: shmflow.Topic) -> None:
    topic.write_many([1.5, 2.5, 3.5])
    assert topic.read_many(2, stack=True).tolist() == [1.5, 2.5]
    topic.write_many([np.zeros(0, "i2")] * 2)
    assert topic.read_many(9, stack=True).tolist() == [3.5]
    assert topic.read_many(9, stack=True).shape == (2, 0)


def test_a_stack_is_the_callers_own(topic: shmflow.Topic) -> None:
    topic.write_many([np.full(50_000, n, "u1") for n in range(4)])
    stack = topic.read_many(9, stack=True)
    stack[:] += 1
    assert [int(row[7]) for row in stack] == [1, 2, 3, 4]
    gc.collect()
    assert topic.stats().held_bytes == 0 and topic.stats().copied == 4


def test_a_stack_by_members_of_a_group_and_by_a_monitor(topic: shmflow.Topic) -> None:
    with (
        shmflow.Topic(topic.name, "r", group="g") as one,
        shmflow.Topic(topic.name, "r", group="g") as two,
        shmflow.Topic(topic.name, "monitor") as monitor,
    ):
        topic.write_many([np.full(20_000, n, "u1") for n in range(6)])
        assert one.read_many(4, stack=True)[:, 0].tolist() == [0, 1, 2, 3]
        assert two.read_many(4, stack=True)[:, 0].tolist() == [4, 5]
        assert monitor.read_many(9, stack=True)[:, 0].tolist() == list(range(6))


def test_who_closes_it_while_items_are_made_contiguous_ends_the_call(topic_name: str) -> None:
    """NumPy lets go of the GIL in its copy, and a Topic that is closed has no attachment."""
    items = [np.zeros((64, 128), "u1")[:, ::2]] * 640
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(20):
            topic = shmflow.Topic(f"{topic_name}.{number}", capacity="1 MiB", temporary=True)
            writing = threading.Event()

            def write(topic: shmflow.Topic = topic, writing: threading.Event = writing) -> None:
                with contextlib.suppress(shmflow.Closed):
                    while True:
                        topic.write_many(items)
                        writing.set()

            thread = threading.Thread(target=write)
            thread.start()
            writing.wait(10)
            topic.close()
            thread.join(10)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)


def test_ctrl_c_ends_a_call_that_would_not_end(topic: shmflow.Topic) -> None:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt) as error:
            topic.write_many(itertools.repeat(np.zeros(3), 10**9))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert error.value.written == topic.head  # type: ignore[attr-defined]


def test_what_comes_while_it_reads_is_left_for_the_next_call(
    topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a call would never end where a writer is faster."""
    frames = [np.zeros((100, 100), "u1")] * 10

    def write_more(*args: object, **kwargs: object) -> None:
        topic.write_many(frames)

    with (
        shmflow.Topic(topic_name, "w", capacity="1 MiB") as topic,
        shmflow.Topic(topic_name, "r", max_held=1) as reader,
        warnings.catch_warnings(),
    ):
        topic.write_many(frames)
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", write_more)  # as it begins to copy
        assert len(reader.read_many(1000)) == 10
        assert topic.head == 20
        assert len(reader.read_messages(1000)) == 10
        topic.unlink()


def test_a_stack_takes_memory_for_what_is_alike_only(topic_name: str) -> None:
    """Not for the first one's size times all that follow."""
    large = 4 << 20
    with shmflow.Topic(topic_name, capacity="16 MiB", depth=2100) as topic:
        topic.write(np.ones(large, "u1"))
        topic.write_many(np.arange(2000.0))
        assert topic.read_message(copy=True).array.nbytes == large  # whatever is lazy has been done
        for place in (1, 2):
            topic.seek(place)
            tracemalloc.start()
            try:
                stack = topic.read_many(10_000, stack=True)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert len(stack) == (1 if place == 1 else 2000)
            assert peak < 2 * stack.nbytes + 100_000
        topic.unlink()
