"""What bad input gets: a typed error that says what to do; nothing is published, consumed or lost.

The fixture `keeps_working` checks that after each: messages that waited before are still there.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmflow

Working = Callable[..., Any]


class UMat:
    """What cv2.UMat looks like from outside; its name is all that is known of it."""

    def get(self) -> np.ndarray[Any, Any]:
        return np.zeros(3)


class OnAnotherDevice:
    """A DLPack producer on a GPU; to ask it for its bytes would be a mistake."""

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("asked although it is not on the CPU")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


class BrokenTensor(OnAnotherDevice):
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("it went away")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class Raising:
    """An object whose methods raise what they like when they are asked for its bytes."""

    def __init__(self, error: BaseException, where: str) -> None:
        self.error, self.where = error, where

    def __getattr__(self, name: str) -> Any:
        if name != self.where:
            raise AttributeError(name)
        if name == "__dlpack__":
            raise self.error
        return self._raise

    def _raise(self, *args: Any, **options: Any) -> Any:
        raise self.error


class RaisingDevice(OnAnotherDevice):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __dlpack_device__(self) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class RaisingTensor(RaisingDevice):
    def __dlpack__(self, **options: Any) -> Any:
        raise self.answer

    def __dlpack_device__(self) -> Any:
        return (1, 0)


def released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


def closed_map() -> mmap.mmap:
    room = mmap.mmap(-1, 4096)
    room.close()
    return room


class Quantity(np.ndarray):
    """A subclass whose values are not its bytes alone."""


class Scaled(np.recarray):
    """FITS_rec is one of these."""


TRAILING_GAP = np.dtype({"names": ["a"], "formats": ["i4"], "itemsize": 8})
RAISED = [
    ValueError("no"),
    BufferError("no"),
    RuntimeError("no"),
    OverflowError("no"),
    AttributeError("no"),
    NotImplementedError("no"),
    KeyError("no"),
    OSError("no"),
    SystemError("no"),
    UserWarning("no"),
]

OVERLAPPING = np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})

CANNOT_TRAVEL: dict[str, tuple[Any, str]] = {
    "object dtype": (np.array([object(), 1], dtype=object), r"astype"),
    "structure with objects": (np.zeros(2, [("a", "i4"), ("b", "O")]), r"Python objects"),
    "str": ("text", r"encode\(\)"),
    "empty str": ("", r"encode\(\)"),
    "list": ([1, 2, 3], r"numpy\.asarray"),
    "tuple": ((1.0, 2.0), r"numpy\.asarray"),
    "tuple of one array": ((np.zeros(3),), r"numpy\.asarray"),
    "empty tuple": ((), r"numpy\.asarray"),
    "dict": ({"a": 1}, r"json\.dumps.*meta="),
    "set": ({1}, r"numpy\.asarray\(list"),
    "None": (None, r"None is no message"),
    "masked array": (np.ma.masked_array([1, 2], [True, False]), r"filled"),
    "masked constant": (np.ma.masked, r"filled"),
    "overlapping fields": (np.zeros(3, OVERLAPPING), r"overlap"),
    "UMat": (UMat(), r"umat\.get\(\)"),
    "GPU tensor": (OnAnotherDevice(), r"DLPack device 2:0.*cpu\(\)"),
    "broken tensor": (BrokenTensor(), r"it went away"),
    **{
        f"{type(error).__name__} {how.__name__} {extra}": (
            how(error, *extra),
            r"cannot .*numpy\.asarray",
        )
        for error in RAISED
        for how, extra in (
            (RaisingDevice, ()),
            (RaisingTensor, ()),
            (Raising, ("__dlpack__",)),
        )
    },
    "a device that is none": (RaisingDevice("cpu"), r"cannot read this RaisingDevice"),
    "no device": (RaisingDevice(None), r"cannot read this RaisingDevice"),
    "a device of one number": (RaisingDevice((1,)), r"cannot read this RaisingDevice"),
    "released memoryview": (released(), r"cannot read this memoryview: .*released"),
    "closed map": (closed_map(), r"cannot read this mmap: .*closed"),
    "memoryview with a trailing gap": (
        memoryview(np.zeros(3, TRAILING_GAP)),
        r"write the array that it is of, or memoryview\(it\)\.cast",
    ),
    "a quantity": (np.zeros(3).view(Quantity), r"Quantity .*np\.asarray\(it\)"),
    "a FITS_rec": (np.zeros(3, [("a", "i4")]).view(Scaled), r"Scaled .*np\.asarray\(it\)"),
    "a chararray": (np.char.array(["a "]), r"chararray .*np\.asarray\(it\)"),
    "any object": (object(), r"type object"),
    "a class": (int, r"type type"),
    "an int beyond 64 bits": (2**70, r"64 bits"),
    "an ndarray's class": (np.ndarray, r"cannot write"),
    "a generator": ((i for i in range(3)), r"cannot write"),
}


@pytest.mark.parametrize("kind", CANNOT_TRAVEL)
def test_data_that_cannot_travel_is_refused(keeps_working: Working, kind: str) -> None:
    data, advice = CANNOT_TRAVEL[kind]
    with keeps_working() as topic, pytest.raises(TypeError, match=advice):
        topic.write(data)


@pytest.mark.parametrize("error", [MemoryError, RecursionError, KeyboardInterrupt, shmflow.Closed])
def test_what_is_no_fault_of_the_data_is_raised_as_it_is(
    keeps_working: Working, error: type[BaseException]
) -> None:
    raised: Any = error("no")
    with keeps_working() as topic:
        for data in (RaisingDevice(raised), RaisingTensor(raised), Raising(raised, "__dlpack__")):
            with pytest.raises(error):
                topic.write(data)


def test_out_of_a_subclass_is_refused(keeps_working: Working) -> None:
    with keeps_working() as topic:
        for out in (np.zeros(3, "i4").view(Quantity), np.ma.zeros(3, "i4")):
            with pytest.raises(TypeError, match=r"out= must be .*np\.asarray"):
                topic.read(timeout=0, out=out)


def test_string_dtype_of_numpy_2_is_refused(keeps_working: Working) -> None:
    if not hasattr(np.dtypes, "StringDType"):
        pytest.skip("numpy 1 has no StringDType")
    data = np.array(["a", "long" * 100], np.dtypes.StringDType())
    with keeps_working() as topic:
        with pytest.raises(TypeError, match=r"StringDType.*astype"):
            topic.write(data)
        with pytest.raises(TypeError, match=r"StringDType"):
            topic.loan(3, np.dtypes.StringDType())


def test_more_than_32_dimensions_are_refused(keeps_working: Working) -> None:
    with keeps_working() as topic:
        if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
            with pytest.raises(ValueError, match=r"33 dimensions; at most 32"):
                topic.write(np.zeros((1,) * 33))
        with pytest.raises(ValueError, match=r"dimension"):
            topic.loan((1,) * 33)
        with pytest.raises(ValueError, match=r"dimension"):
            topic.loan((1,) * 100)


def test_message_larger_than_max_message_is_refused(keeps_working: Working) -> None:
    with keeps_working(max_message=40000) as topic:
        with pytest.raises(shmflow.MessageTooLarge, match=r"39\.1 KiB .*fit.*at most 39\.1 KiB"):
            topic.write(bytes(40001))
        with pytest.raises(shmflow.MessageTooLarge):
            topic.loan(40001)
        with pytest.raises(shmflow.MessageTooLarge):
            topic.write(np.zeros((101, 50), "f8")[:, ::-1])
        largest = topic.write(bytes(40000))
        assert largest == topic.head
        for _ in range(3):
            topic.read(timeout=0)
        assert topic.read(timeout=0).nbytes == 40000
        topic.write(np.arange(0))
        topic.read(timeout=0)
        # The fixture wants its three messages: begin again on a fresh topic.
        topic.unlink()
        topic.write(np.arange(3, dtype="i4"), meta={"number": 1})
        topic.write(np.arange(0, dtype="i4"), meta={"number": 2})
        topic.write(np.arange(5000, dtype="i4"), meta={"number": 3})


BAD_META: list[tuple[Any, type[Exception]]] = [
    ([1], TypeError),
    ("text", TypeError),
    (({"a": 1},), TypeError),
    ((), TypeError),
    (5, TypeError),
    ({"a": object()}, TypeError),
    ({"a": {1, 2}}, TypeError),
    ({(1, 2): 3}, TypeError),
    ({"a": math.nan}, ValueError),
    ({"a": math.inf}, ValueError),
    ({"a": "x" * 65536}, ValueError),
    ({"a": "\ud800"}, ValueError),
]


def test_bad_meta_is_refused(keeps_working: Working) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"d": deep}
    with keeps_working() as topic:
        for meta, error in [*BAD_META, (loop, ValueError)]:
            with pytest.raises(error, match="meta"):
                topic.write(b"x", meta=meta)
            with pytest.raises(error, match="meta"):
                topic.loan(5, meta=meta)
        with pytest.raises(ValueError, match="meta"):
            topic.write(b"x", meta=deep)
    while deep:  # or its deallocation recurses
        deep = deep["d"]


@pytest.mark.parametrize("stamp", [-1, 2**63, 1.5, "now"])
def test_bad_timestamp_is_refused(keeps_working: Working, stamp: Any) -> None:
    with keeps_working() as topic:
        for call in (
            lambda: topic.write(b"x", timestamp_ns=stamp),
            lambda: topic.loan(5, timestamp_ns=stamp),
        ):
            with pytest.raises((ValueError, TypeError, OverflowError)):
                call()


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf])
def test_negative_or_nan_timeout_is_a_value_error(keeps_working: Working, timeout: float) -> None:
    with keeps_working() as topic:
        for call in (
            lambda: topic.read(timeout),
            lambda: topic.read(timeout=timeout, default=None),
            lambda: topic.read_message(timeout),
            lambda: topic.messages(timeout=timeout),
            lambda: topic.write(b"x", timeout=timeout),
            lambda: topic.loan(3, timeout=timeout),
        ):
            with pytest.raises(ValueError, match="timeout must be"):
                call()


def test_timeout_that_is_no_number_is_a_type_error(keeps_working: Working) -> None:
    with keeps_working() as topic:
        for timeout in ("1", [1], 1j):
            with pytest.raises(TypeError, match="timeout must be a number of seconds"):
                topic.read(timeout)


def test_wrong_arguments_are_type_errors(keeps_working: Working) -> None:
    with keeps_working() as topic:
        calls: list[Callable[[], Any]] = [
            lambda: topic.read(1, 2),
            lambda: topic.read(wait=1),
            lambda: topic.read(1, timeout=1),
            lambda: topic.write(),
            lambda: topic.write(b"x", 1),
            lambda: topic.write(data=b"x"),
            lambda: topic.write(b"x", priority=1),
            lambda: topic.loan(),
            lambda: topic.loan(3, "u1", None),
            lambda: topic.loan("x"),
            lambda: topic.loan(3, "no such dtype"),
            lambda: topic.messages(1),
            lambda: topic.messages(out=None),
            lambda: topic.shutdown(now=True),
            lambda: topic.close(1),
            lambda: topic.stats(1),
            lambda: topic.__init__(topic.name),
        ]
        for call in calls:
            with pytest.raises(TypeError):
                call()


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        (-1, "u1", ValueError),
        ((3, -2), "u1", ValueError),
        ((2**40, 2**40), "u1", ValueError),
        (2**62, "f8", ValueError),
        (3, "O", TypeError),
        (3, ("f4", (2,)), TypeError),
        (3, OVERLAPPING, TypeError),
        ((1.5,), "u1", TypeError),
    ],
)
def test_loan_that_cannot_be_is_refused(
    keeps_working: Working, shape: Any, dtype: Any, error: type[Exception]
) -> None:
    with keeps_working() as topic, pytest.raises(error):
        topic.loan(shape, dtype)


@pytest.mark.parametrize("count", [3, 5000])
def test_out_that_does_not_fit_consumes_nothing(topic_name: str, count: int) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        topic.write(np.arange(count, dtype="i4"))
        read_only = np.zeros(count, "i4")
        read_only.flags.writeable = False
        refused: list[Any] = [
            np.zeros(count + 1, "i4"),
            np.zeros((1, count), "i4"),
            np.zeros((), "i4"),
            np.zeros(count, "u4"),
            np.zeros(count, "f8"),
            np.zeros(count, ">i4"),
            np.zeros(2 * count, "i4")[::2],
            read_only,
        ]
        for out in refused:
            before = out.copy()
            for read in (topic.read, topic.read_message):
                with pytest.raises(ValueError, match=r"nothing was consumed|contiguous"):
                    read(timeout=0, out=out)
            np.testing.assert_array_equal(out, before)
        for out in (bytearray(4 * count), [0] * count, "x", object()):
            with pytest.raises(TypeError, match="out= must be an ndarray"):
                topic.read(timeout=0, out=out)
        message = topic.read_message(timeout=0)
        assert (message.seq, message.lost) == (1, 0)
        np.testing.assert_array_equal(message.array, np.arange(count))
        frame = np.asfortranarray(np.arange(4 * count).reshape(4, count))
        topic.write(frame)
        with pytest.raises(ValueError, match="F-contiguous"):
            topic.read(timeout=0, out=np.zeros(frame.shape, frame.dtype))
        out = np.zeros(frame.shape, frame.dtype, order="F")
        np.testing.assert_array_equal(topic.read(timeout=0, out=out), frame)
        del message
        topic.unlink()


def test_out_with_objects_is_refused(keeps_working: Working) -> None:
    with keeps_working() as topic, pytest.raises(ValueError, match="nothing was consumed"):
        topic.read(timeout=0, out=np.zeros(3, "O"))


def test_the_wrong_mode(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer:
        writer.write(b"first")
        with (
            shmflow.Topic(topic_name, "r") as reader,
            shmflow.Topic(topic_name, "monitor") as monitor,
        ):
            for call in (writer.read, writer.read_message, writer.messages):
                with pytest.raises(shmflow.WrongMode, match=r"mode 'r', 'rw' or 'monitor'"):
                    call()
            with pytest.raises(shmflow.WrongMode):
                next(iter(writer))
            for topic in (reader, monitor):
                for call in (lambda t: t.write(b"x"), lambda t: t.loan(5), lambda t: t.shutdown()):
                    with pytest.raises(shmflow.WrongMode, match=r"'w' or 'rw'"):
                        call(topic)
            with pytest.raises(shmflow.WrongMode, match=r"unlink\(\)"):
                monitor.unlink()
            assert bytes(reader.read(timeout=0)) == b"first"
            assert bytes(monitor.read(timeout=0)) == b"first"
            assert writer.write(b"second") == 2
        writer.unlink()


def test_every_call_after_close_raises_closed(topic_name: str) -> None:
    topic = shmflow.Topic(topic_name, capacity="1 MiB")
    topic.write(b"kept")
    iterator = topic.messages()
    topic.close()
    topic.close()
    assert topic.closed and "closed" in repr(topic)
    assert topic.name == topic_name and topic.mode == "rw"
    calls: list[Callable[[], Any]] = [
        lambda: topic.write(b"x"),
        lambda: topic.write(b"x", timeout=0),
        lambda: topic.loan(5),
        lambda: topic.read(),
        lambda: topic.read(timeout=0, default=None),
        lambda: topic.read_message(0),
        lambda: topic.shutdown(),
        lambda: topic.unlink(),
        lambda: topic.__enter__(),
        lambda: iter(topic),
        lambda: topic.__reduce__(),
    ]
    for call in calls:
        with pytest.raises(shmflow.Closed, match="was closed"):
            call()
    assert list(iterator) == []
    assert topic.stats().written == 1
    with shmflow.Topic(topic_name, "r") as reader:
        assert bytes(reader.read(timeout=0)) == b"kept"
        reader.unlink()
