"""Loans: an array in the ring that becomes a message, and what becomes of it otherwise."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pytest

import shmflow

# What harms an array in place is deprecated since NumPy 2.5, and still done.
pytestmark = pytest.mark.filterwarnings("ignore:Setting the (dtype|shape) on a NumPy array")

LARGE = 20000  # bytes: in the ring
SMALL = 100  # bytes: private


@pytest.mark.parametrize("size", [SMALL, LARGE, 0])
def test_block_publishes_what_was_filled_in(topic: shmflow.Topic, size: int) -> None:
    with topic.loan(size) as array:
        assert (array.shape, array.dtype, array.flags.writeable) == ((size,), np.uint8, True)
        array[:] = 7
        assert topic.head == 0
    assert topic.head == 1
    received = topic.read(timeout=0)
    assert received.shape == (size,) and (received == 7).all()
    assert not received.flags.writeable


@pytest.mark.parametrize("shape", [(), (5,), (40, 50, 3), (2,) * 7, [30, 40], 70, (0, 4)])
@pytest.mark.parametrize("dtype", ["f4", ">i8", "M8[us]", "S7", [("a", "f4"), ("b", "u1", (3,))]])
def test_any_shape_and_dtype(topic: shmflow.Topic, shape: Any, dtype: Any) -> None:
    loan = topic.loan(shape, dtype)
    array = loan.array
    expected = np.empty(shape, dtype)
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
    array.view(np.ndarray)[...] = np.zeros((), dtype)
    assert loan.publish() == 1
    received = topic.read(timeout=0)
    assert (received.shape, received.dtype) == (expected.shape, expected.dtype)
    assert received.tobytes() == bytes(expected.nbytes)


def test_large_loans_are_in_the_ring_and_small_ones_private(topic: shmflow.Topic) -> None:
    loans = [topic.loan(size) for size in (SMALL, 4000, 4096, LARGE)]
    assert [loan.in_ring for loan in loans] == [False, False, True, True]
    assert topic.stats().held_blocks == 2
    for loan in loans:
        loan.discard()


def test_publish_and_seq(topic: shmflow.Topic) -> None:
    for number, size in enumerate((SMALL, LARGE), 1):
        loan = topic.loan(size)
        assert loan.seq is None
        loan.array[:] = 1
        assert loan.publish() == number == loan.seq
        for call in (
            loan.publish,
            loan.__enter__,
            lambda i=loan: i.array,
            lambda i=loan: i.in_ring,
        ):
            with pytest.raises(ValueError, match="has ended"):
                call()
        loan.discard()  # does nothing
        assert loan.seq == number
    assert topic.head == 2


def test_published_early_inside_the_block(topic: shmflow.Topic) -> None:
    loan = topic.loan(LARGE)
    with loan as array:
        array[:] = 3
        loan.publish()
        assert not array.flags.writeable
    assert topic.head == 1


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_exception_discards(topic: shmflow.Topic, size: int) -> None:
    with pytest.raises(ZeroDivisionError), topic.loan(size) as array:
        array[:] = 1 / 0
    assert topic.head == 0
    del array
    gc.collect()
    assert topic.stats().held_bytes == 0
    with pytest.raises(shmflow.Empty):
        topic.read(timeout=0)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_discarded_and_forgotten_loans_leave_nothing(topic: shmflow.Topic, size: int) -> None:
    for _ in range(300):  # more than the ring holds
        topic.loan(size).discard()
        topic.loan(size)
        loan = topic.loan(size)
        loan.discard()
        loan.discard()
        assert loan.seq is None
        with pytest.raises(ValueError, match="has ended"):
            loan.publish()
    assert topic.head == 0
    del loan
    assert topic.stats().held_bytes == 0
    assert topic.write(b"x") == 1


def test_array_turns_read_only_when_published(topic: shmflow.Topic) -> None:
    for size in (SMALL, LARGE):
        with topic.loan(size) as array:
            array[:] = 1
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 2


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_late_write_through_an_alias_reaches_that_message_only(
    topic: shmflow.Topic, size: int
) -> None:
    with topic.loan(size) as array:
        alias = array[:]
        array[:] = 1
    del array
    mine = topic.read(timeout=0)
    others = []
    for i in range(400):  # many times around the ring
        topic.write(np.full(size, 50, "u1"))
        alias[:] = i % 100 + 100
        array = topic.read(timeout=0)
        assert (array == 50).all()
        others.append(array if i > 395 else None)
    alias[:] = 99
    assert all((array == 50).all() for array in others if array is not None)
    assert (mine == (99 if size == LARGE else 1)).all()


def test_late_write_into_a_discarded_loan_reaches_nothing(topic: shmflow.Topic) -> None:
    loan = topic.loan(LARGE)
    alias = loan.array
    loan.discard()
    assert topic.stats().held_blocks == 1
    for i in range(200):
        topic.write(np.full(LARGE, 50, "u1"))
        alias[:] = i
        assert (topic.read(timeout=0) == 50).all()
    del alias
    assert topic.stats().held_blocks == 0


def test_beyond_max_held_loans_are_private(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB", max_held="50 KiB") as topic:
        loans = [topic.loan(LARGE) for _ in range(5)]
        assert [loan.in_ring for loan in loans] == [True, True, False, False, False]
        for i, loan in enumerate(loans):
            loan.array[:] = i
        assert [loan.publish() for loan in loans] == [1, 2, 3, 4, 5]
        del loan, loans
        assert [int(topic.read(timeout=0, copy=True)[0]) for _ in range(5)] == list(range(5))
        topic.unlink()


def test_loan_never_waits_for_readers_that_hold_everything(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="256 KiB", max_held="1 MiB") as topic:
        held = []
        for i in range(40):
            with topic.loan(60000, timeout=0) as array:
                array[:] = i
            del array
            held.append(topic.read(timeout=0))
        assert all((array == i).all() for i, array in enumerate(held))
        held.clear()
        topic.unlink()


def test_loan_of_the_full_max_message(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="256 KiB", max_message="256 KiB") as topic:
        for i in range(5):
            with topic.loan(262144, meta={"i": i}) as array:
                array[:] = i
            del array
            message = topic.read_message(timeout=0)
            assert message.meta == {"i": i} and (message.array == i).all()
            del message
        with pytest.raises(shmflow.MessageTooLarge):
            topic.loan(262145)
        topic.unlink()


def test_meta_and_timestamp_travel(topic: shmflow.Topic) -> None:
    for size in (SMALL, LARGE):
        meta = {"größe": [size], "text": "x" * 1000}
        with topic.loan(size, meta=meta, timestamp_ns=12345) as array:
            array[:] = 9
        message = topic.read_message(timeout=0)
        assert (message.meta, message.timestamp_ns, message.writer) == (meta, 12345, os.getpid())
        assert (message.array == 9).all()


def test_order_is_that_of_publishing(topic: shmflow.Topic) -> None:
    first, second = topic.loan(LARGE), topic.loan(LARGE)
    first.array[:], second.array[:] = 1, 2
    topic.write(b"x")
    assert (second.publish(), first.publish()) == (2, 3)
    assert [int(topic.read(timeout=0)[0]) for _ in range(3)] == [ord("x"), 2, 1]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_close_voids_open_loans(topic: shmflow.Topic, size: int) -> None:
    loan, kept = topic.loan(size), topic.loan(size)
    array = kept.array
    topic.close()
    with pytest.raises(shmflow.Closed):
        loan.publish()
    array[:] = 5
    with pytest.raises(shmflow.Closed):
        topic.loan(size)
    with shmflow.Topic(topic.name, create=False) as again:
        assert again.head == 0
        again.write(b"goes on")
        again.unlink()
    assert (array == 5).all()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_loan_taken_before_unlink_goes_to_the_next_generation(
    topic: shmflow.Topic, size: int
) -> None:
    topic.write(b"old")
    with topic.loan(size) as array:
        array[:] = 4
        topic.unlink()
    del array
    with shmflow.Topic(topic.name, "r") as reader:
        message = reader.read_message(timeout=5)
        assert (message.seq, message.array.shape) == (1, (size,))
        assert (message.array == 4).all()
        del message


def test_loan_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError):
        shmflow.Loan()


def test_threads_fill_loans_side_by_side(topic_name: str, background: Any) -> None:
    def produce(topic: shmflow.Topic, which: int) -> None:
        for _ in range(200):
            with topic.loan(LARGE + which) as array:
                array[:] = which

    with (
        shmflow.Topic(topic_name, "w", capacity="16 MiB") as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        threads = [background(produce, writer, which) for which in range(4)]
        for thread in threads:
            thread.outcome()
        for _ in range(800):
            array = reader.read(timeout=0)
            assert (array == len(array) - LARGE).all()
            del array
        writer.unlink()


@pytest.mark.parametrize("size", [100, 20_000], ids=["private", "in the ring"])
@pytest.mark.parametrize("shape", [None, 50])
def test_a_loan_that_finds_no_place_stays_open(topic_name, size, shape):
    with (
        shmflow.Topic(topic_name, "w", depth=1, capacity="1 MiB") as writer,
        shmflow.Topic(topic_name, "r", lossless=True) as reader,
    ):
        writer.write(b"first")
        loan = writer.loan(size, timeout=0)
        loan.array[:] = 7
        for _ in range(2):
            with pytest.raises(shmflow.Full, match="behind"):
                loan.publish(shape)
        assert loan.array.size == size and loan.array.flags.writeable
        reader.read(0)
        assert loan.publish() == 2
        got = reader.read(0)
        assert got.size == size and (got == 7).all()
        del got
        writer.unlink()


def resize(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match="does not own"):
        array.resize(10, refcheck=False)


def change_dtype(array: np.ndarray[Any, Any]) -> None:
    array.dtype = np.dtype("u2")  # type: ignore[misc]


def change_shape(array: np.ndarray[Any, Any]) -> None:
    array.shape = (array.size // 4, 4)


def change_state(array: np.ndarray[Any, Any]) -> None:
    array.__setstate__(np.zeros(3, "f8").__reduce__()[2])  # type: ignore[index]


@pytest.mark.parametrize("shape", [None, (2, 3)], ids=["whole", "shorter"])
@pytest.mark.parametrize("act", [resize, change_dtype, change_shape, change_state])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_what_is_done_to_the_array_in_place_does_not_change_the_message(
    topic: shmflow.Topic, size: int, act: Any, shape: Any
) -> None:
    loan = topic.loan(size)
    array = loan.array
    array[:] = 7
    act(array)
    del array
    gc.collect()
    assert loan.publish(shape) == 1
    received = topic.read(timeout=0)
    assert (received.shape, received.dtype) == (shape or (size,), np.uint8)
    assert (received == 7).all()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_shape_beyond_the_loan_is_refused_whatever_the_array_says(
    topic: shmflow.Topic, size: int
) -> None:
    loan = topic.loan(size)
    loan.array.__setstate__(np.zeros(2 * size).__reduce__()[2])  # type: ignore[index]
    with pytest.raises(ValueError, match=rf"the loan has {size} elements"):
        loan.publish(size + 1)
    loan.discard()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_memory_of_a_loan_lives_as_long_as_a_view_of_it(topic: shmflow.Topic, size: int) -> None:
    loan = topic.loan(size)
    part = loan.array[2:5]
    part[:] = 3
    loan.discard()
    del loan
    gc.collect()
    assert part.tolist() == [3, 3, 3]
