"""Loans that turn out longer than their message: publish(shape)."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmflow

SHAPES = [(), 0, 1, 7, (3, 5), [4, 1, 2], (2, 1, 3, 1), (1, 2, 1, 3, 1), (1,) * 31 + (6,), (0, 9)]
META = {"von": "hier", "text": "x" * 300}
LONG = np.dtype([("a rather long name of a field", "f4"), ("b", "u1", (3,))])


@pytest.mark.parametrize("size", [40, 20000], ids=["private", "in the ring"])
@pytest.mark.parametrize("dims", [1, 5])
def test_message_is_the_first_elements_of_the_loan(
    topic: shmflow.Topic, size: int, dims: int
) -> None:
    cases = itertools.product(["u1", ">i8", LONG], [None, META], SHAPES)
    for number, (dtype, meta, shape) in enumerate(cases, 1):
        content = np.random.default_rng(number).bytes(size * np.dtype(dtype).itemsize)
        loan = topic.loan((1,) * (dims - 1) + (size,), dtype, meta=meta, timestamp_ns=5)
        assert loan.in_ring == (size == 20000)
        loan.array.view(np.uint8)[...] = np.frombuffer(content, np.uint8).reshape(
            loan.array.view(np.uint8).shape
        )
        kept = loan.array
        assert loan.publish(shape) == number == loan.seq
        assert not kept.flags.writeable and kept.tobytes() == content
        message = topic.read_message(timeout=0)
        expected = np.empty(shape, dtype)
        assert (message.array.shape, message.array.dtype) == (expected.shape, expected.dtype)
        assert content.startswith(message.array.tobytes())
        assert message.array.tobytes() or expected.size == 0
        assert (message.meta, message.timestamp_ns) == (meta or {}, 5)
        del message, kept
    gc.collect()
    assert topic.stats().held_blocks == 0


def test_none_is_the_loan_as_it_is_and_the_same_number_of_elements_is_fine(
    topic: shmflow.Topic,
) -> None:
    for shape, expected in ((None, (40, 500)), ((500, 40), (500, 40)), (20000, (20000,))):
        loan = topic.loan((40, 500))
        loan.array.reshape(-1)[:] = np.arange(20000) % 251
        loan.publish(shape=shape)
        array = topic.read(timeout=0)
        assert array.shape == expected
        assert (array.reshape(-1) == np.arange(20000) % 251).all()


class Trap:
    """A size whose conversion does something first."""

    def __init__(self, act: Callable[[], Any]):
        self.act = act

    def __index__(self) -> int:
        self.act()
        return 3


REFUSED = {
    "more elements": ((41, 500), "has 20500 elements, the loan has 20000"),
    "more elements, one number": (20001, "the loan has 20000 elements"),
    "a negative size": ((-1, 5), "no size may be negative"),
    "a negative number": (-1, "no size may be negative"),
    "two negative sizes": ((-4, -5), "no size may be negative"),
    "too many dimensions": ((1,) * 33, "33 dimensions, at most 32"),
    "far too many dimensions": ((1,) * 100, "dimension"),
    "a product that overflows": ((2**33, 2**33), "the loan has 20000"),
    "a product that overflows to little": ((2**32, 2**32, 3), "the loan has 20000"),
    "an impossible one, but for its zero": ((0, 2**62, 2**62), "too large but for its zeros"),
    "a huge number": (2**80, "dimension"),
}


@pytest.mark.parametrize("dtype", ["u1", "i8"])
def test_refused_shape_loses_nothing(topic: shmflow.Topic, dtype: str) -> None:
    loan = topic.loan((40, 500), dtype)
    loan.array[...] = 7
    for shape, text in REFUSED.values():
        with pytest.raises(ValueError, match=text):
            loan.publish(shape)
        assert loan.seq is None and topic.head == 0
        assert loan.array.flags.writeable and loan.in_ring
    loan.array[0, 0] = 8
    assert loan.publish((2, 3)) == 1
    np.testing.assert_array_equal(topic.read(timeout=0), [[8, 7, 7], [7, 7, 7]])


def test_what_is_no_shape_loses_nothing(topic: shmflow.Topic) -> None:
    loan = topic.loan(20000)
    for shape in ("3", 1.5, (2, 1.5), object(), {"a": 1}):
        with pytest.raises(TypeError):
            loan.publish(shape)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        loan.publish(3, 4)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        loan.publish(size=3)  # type: ignore[call-arg]
    loan.array[:] = 1
    assert loan.publish() == 1 and topic.read(timeout=0).shape == (20000,)


@pytest.mark.parametrize("size", [40, 20000])
def test_loan_that_ends_while_its_shape_is_converted(topic: shmflow.Topic, size: int) -> None:
    loan = topic.loan(size)
    with pytest.raises(ValueError, match="has ended"):
        loan.publish((Trap(loan.discard),))
    loan = topic.loan(size)
    with pytest.raises(ValueError, match="has ended"):
        loan.publish((Trap(loan.publish),))
    assert topic.head == 1 and topic.read(timeout=0).shape == (size,)
    with pytest.raises(ValueError, match="has ended"):
        loan.publish((1,))
    loan = topic.loan(size)
    with pytest.raises(shmflow.Closed):
        loan.publish((Trap(topic.close),))
    with shmflow.Topic(topic.name) as again:
        assert again.head == 1
        again.unlink()


def test_shorter_message_is_not_copied(topic: shmflow.Topic) -> None:
    loan = topic.loan((2, 3, 5000))
    alias = loan.array.reshape(-1)[:]
    alias[:] = 1
    loan.publish((10000,))
    view = topic.read(timeout=0)
    assert topic.stats().pinned == 1 and topic.stats().held_blocks == 1
    alias[4] = 9  # what a user must not do shows that it is the same memory
    assert view[4] == 9


def test_message_that_needs_another_prefix_is_copied_and_the_array_stays(
    topic: shmflow.Topic,
) -> None:
    for shape, other in (((20000,), (1, 1, 1, 1, 15000)), ((1, 1, 1, 1, 20000), (15000,))):
        loan = topic.loan(shape)
        alias = loan.array.reshape(-1)[:]
        alias[:] = np.arange(20000) % 251
        loan.publish(other)
        view = topic.read(timeout=0)
        assert view.shape == other
        assert (view.reshape(-1) == np.arange(15000) % 251).all()
        assert (alias == np.arange(20000) % 251).all()
        alias[:] = 0
        assert (view.reshape(-1) == np.arange(15000) % 251).all()
        del loan, alias, view
    assert topic.stats().held_blocks == 0


def test_late_store_reaches_a_message_below_the_threshold_only(topic: shmflow.Topic) -> None:
    # The block is large enough to be held, its message is not: readers copy it, and its block must
    # not be another message's as long as the writer's array lives.
    loan = topic.loan(20000)
    alias = loan.array[:]
    alias[:] = 1
    loan.publish(100)
    array = topic.read(timeout=0)
    assert (topic.stats().copied, topic.stats().pinned) == (1, 0)
    assert (array == 1).all()
    for i in range(400):  # many times around the ring
        topic.write(np.full(20000, 50, "u1"))
        alias[:] = i % 100 + 100
        assert (topic.read(timeout=0) == 50).all()
    assert topic.stats().held_blocks == 1 and (array == 1).all()
    del alias
    assert topic.stats().held_blocks == 0


def test_block_of_a_shorter_message_is_free_when_it_is_evicted(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="256 KiB", max_held="1 MiB") as topic:
        for i in range(50):
            loan = topic.loan(60000, timeout=0)
            assert loan.in_ring
            loan.array[:5] = i
            loan.publish(5)
            assert topic.read(timeout=0).tolist() == [i] * 5
            del loan
        topic.unlink()


def test_shapes_of_many_dimensions_follow_each_other_in_one_prefix(topic: shmflow.Topic) -> None:
    # The shape lies before the payload, with the dtype and the meta: all have to be written anew.
    for had, got in itertools.permutations([5, 6, 8], 2):
        loan = topic.loan((1,) * (had - 1) + (9000,), LONG, meta=META)
        loan.array["b"] = 7
        loan.publish((2,) * got)
        message = topic.read_message(timeout=0)
        assert (message.array.shape, message.array.dtype) == ((2,) * got, LONG)
        assert message.meta == META and (message.array["b"] == 7).all()


@pytest.mark.parametrize("size", [40, 20000])
def test_shorter_loan_goes_to_the_next_generation(topic: shmflow.Topic, size: int) -> None:
    topic.write(b"old")
    loan = topic.loan(size)
    loan.array[:] = 4
    topic.unlink()
    assert loan.publish((3, 2)) == 1
    assert topic.read(latest=True, timeout=5).tolist() in ([111, 108, 100], [[4, 4]] * 3)
    with shmflow.Topic(topic.name, "r") as reader:
        assert reader.read(timeout=5).tolist() == [[4, 4]] * 3


def test_empty_arrays_of_huge_sizes_travel(topic: shmflow.Topic) -> None:
    topic.write(np.empty((0, 2**62), "u1"))
    topic.loan((0, 2**59), "u8").publish((2**50, 0))
    assert topic.read(timeout=0).shape == (0, 2**62)
    assert topic.read(timeout=0).shape == (2**50, 0)
