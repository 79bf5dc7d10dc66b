"""Code of the user's that runs inside a call: it closes the Topic, forks, calls again, or changes
what is being written."""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import shmflow
from shmflow import _wire

# What harms an array in place is deprecated since NumPy 2.5, and still done.
pytestmark = pytest.mark.filterwarnings("ignore:Setting the (dtype|shape) on a NumPy array")


class Meta(Mapping[str, int]):
    """Does something while write() looks at it."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def __getitem__(self, key: str) -> int:
        return 1

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        self.act()
        return iter(["a"])


def items(act: Callable[[], object]) -> Iterator[bytes]:
    yield b"before"
    act()
    yield b"after"


WRITES: dict[str, Callable[[shmflow.Topic, Callable[[], object]], object]] = {
    "write": lambda topic, act: topic.write(b"1", meta=Meta(act)),
    "write_many": lambda topic, act: topic.write_many(items(act)),
    "loan": lambda topic, act: topic.loan(9000, meta=Meta(act)),
}


@pytest.mark.parametrize("call", WRITES)
def test_a_topic_that_is_closed_inside_a_write_stays_closed(
    topic: shmflow.Topic, call: str
) -> None:
    topic.write(b"0")
    with shmflow.Topic(topic.name, "rw") as writer:
        writer.write(b"0")
        with pytest.raises(shmflow.Closed):
            WRITES[call](writer, writer.close)
        assert topic.head == 2
        assert len(topic.participants()) == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("call", WRITES)
def test_a_child_that_is_forked_inside_a_write_writes_for_itself(
    topic: shmflow.Topic, call: str
) -> None:
    topic.write(b"0")
    parent = os.getpid()
    try:
        result = WRITES[call](topic, os.fork)
        if call == "loan":
            result.publish()  # type: ignore[attr-defined]
    finally:
        if os.getpid() != parent:
            os._exit(0)
    _, status = os.wait()
    assert status == 0
    assert topic.head == 1 + (4 if call == "write_many" else 2)
    assert {m.writer for m in topic.snapshot()} > {parent}


def test_a_topic_that_is_closed_by_what_shows_its_warning_stays_closed(
    topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as writer:
        writer.write_many([np.zeros(20_000, "u1")] * 4)
        reader = shmflow.Topic(topic_name, "r", max_held=1)
        held = reader.read()

        def show(*args: Any, **kwargs: Any) -> None:
            reader.read(copy=True)  # what the outer call has found is taken
            reader.close()

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", show)
            with pytest.raises(shmflow.Closed):
                reader.read()
        assert held.size == 20_000
        del held
        assert len(writer.participants()) == 1
        writer.unlink()


class Closer:
    """Garbage that closes a Topic when it is collected."""

    def __init__(self, topic: shmflow.Topic) -> None:
        self.itself = self
        self.topic = topic

    def __del__(self) -> None:
        self.topic.close()


def test_a_topic_that_a_collection_closes_inside_a_snapshot_stays_closed(
    topic: shmflow.Topic,
) -> None:
    topic.write(b"1")
    threshold = gc.get_threshold()
    for _ in range(20):
        with shmflow.Topic(topic.name, "r") as reader:
            reader.read()
            gc.disable()
            Closer(reader)
            lists: list[list[int]] = [[] for _ in range(500)]  # more than are kept for re-use
            gc.set_threshold(1)
            snapshot = reader.snapshot
            try:
                gc.enable()
                snapshot()  # allocates a list before anything else
            except shmflow.Closed:
                pass
            finally:
                gc.set_threshold(*threshold)
            assert len(lists) == 500
            gc.collect()
            assert reader.closed
    assert len(topic.participants()) == 1


# ---- the array is changed while it is being written ---------------------------------------------


def give_other_memory(array: np.ndarray[Any, Any]) -> None:
    """Frees what was the array's, and leaves something smaller in it."""
    array.__setstate__(np.full(5, 9, array.dtype).__reduce__()[2])  # type: ignore[index]
    gc.collect()


def turn(array: np.ndarray[Any, Any]) -> None:
    array.shape = (array.size // 2, 2)


LAYOUTS: dict[str, Callable[[int], np.ndarray[Any, Any]]] = {
    "contiguous": lambda size: np.full(size, 3, "u1"),
    "strided": lambda size: np.full(2 * size, 3, "u1")[::2],
}


@pytest.mark.parametrize("size", [100, 200_000])
def test_a_message_is_what_the_array_is_once_its_keywords_are_evaluated(
    topic: shmflow.Topic, size: int
) -> None:
    array = np.full(size, 3, "u1")
    topic.write(array, meta=Meta(lambda: give_other_memory(array)))
    assert topic.read(timeout=0).tolist() == [9] * 5


@pytest.mark.parametrize(
    ("act", "size", "layout"),
    [
        (give_other_memory, 100, "contiguous"),
        (give_other_memory, 100, "strided"),
        (give_other_memory, 200_000, "contiguous"),
        (give_other_memory, 200_000, "strided"),
        (turn, 200_000, "strided"),
    ],
)
def test_a_generator_that_changes_what_it_has_given_is_told(
    topic: shmflow.Topic, size: int, layout: str, act: Callable[[Any], None]
) -> None:
    array = LAYOUTS[layout](size)

    def items() -> Iterator[Any]:
        yield array
        act(array)
        yield b"second"

    with pytest.raises(RuntimeError, match="changed in place meanwhile") as raised:
        topic.write_many(items())
    assert raised.value.written == 0  # type: ignore[attr-defined]
    assert topic.head == 0
    assert topic.stats().held_blocks == 0


@pytest.mark.parametrize("many", [False, True], ids=["write", "write_many"])
@pytest.mark.parametrize(
    ("size", "layout"), [(100, "contiguous"), (200_000, "contiguous"), (200_000, "strided")]
)
def test_a_signals_handler_that_changes_the_array_of_a_write_that_waits(
    topic: shmflow.Topic, hold_lock: Any, size: int, layout: str, many: bool
) -> None:
    topic.write(b"0")
    array = LAYOUTS[layout](size)
    hold_lock(topic.name, 0)

    def handle(*_: object) -> None:
        hold_lock(topic.name, None)
        give_other_memory(array)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(RuntimeError, match="changed in place meanwhile"):
            topic.write_many([array]) if many else topic.write(array)
    finally:
        signal.signal(signal.SIGALRM, before)
        hold_lock(topic.name, None)
    assert topic.head == 1


def test_an_array_that_changes_while_its_dtype_is_described(
    topic: shmflow.Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic.write(b"0")
    array = np.zeros(10, "S301")  # a dtype that nobody has described yet
    describe = _wire.describe

    def act(dtype: Any) -> bytes:
        array.dtype = np.dtype("V301")  # type: ignore[misc]
        return describe(dtype)

    monkeypatch.setattr(_wire, "describe", act)
    with pytest.raises(RuntimeError, match="changed in place meanwhile"):
        topic.write(array)
    assert topic.head == 1


# ---- calls within themselves --------------------------------------------------------------------

NESTED = """
    import sys, threading
    import shmflow

    def items():
        call(items())
        yield b"1"

    class Place:
        def __index__(self):
            return call(Place())

    topic = shmflow.Topic(sys.argv[1], capacity="1 MiB")
    topic.write(b"0")
    call, argument = {
        "write_many": (topic.write_many, items()),
        "wait": (shmflow.wait, items()),
        "peek": (topic.peek, Place()),
        "seek": (topic.seek, Place()),
    }[sys.argv[2]]

    def run():
        try:
            call(argument)
        except RecursionError:
            print("RecursionError")

    threading.stack_size(1 << 20)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    topic.unlink()
"""


@pytest.mark.parametrize("call", ["write_many", "wait", "peek", "seek"])
def test_a_call_within_its_own_argument_ends_with_recursion_error(
    topic_name: str, run_python: Callable[..., Any], call: str
) -> None:
    assert run_python(NESTED, topic_name, call).stdout == "RecursionError\n"


def test_what_the_code_of_a_mapping_raises_is_not_about_json(topic: shmflow.Topic) -> None:
    def act() -> None:
        raise RecursionError("mine")

    with pytest.raises(RecursionError, match="mine"):
        topic.write(b"1", meta=Meta(act))
    assert topic.head == 0
