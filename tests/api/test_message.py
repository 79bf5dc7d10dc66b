"""Message: what comes with an array, and what meta may be."""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import shmflow

LARGE = 5000


@pytest.fixture
def topic(topic_name: str) -> Iterator[shmflow.Topic]:
    with shmflow.Topic(topic_name, capacity="2 MiB") as topic:
        yield topic
        gc.collect()
        topic.unlink()


def test_fields_tell_number_time_and_writer(topic: shmflow.Topic) -> None:
    before = time.time_ns()
    for i in range(1, 4):
        assert topic.write(np.arange(i)) == i
    after = time.time_ns()
    for i in range(1, 4):
        message = topic.read_message(timeout=0)
        assert message.seq == i
        assert message.writer == os.getpid()
        assert before <= message.timestamp_ns <= after
        assert (message.lost, message.skipped, message.meta) == (0, 0, {})
        np.testing.assert_array_equal(message.array, np.arange(i))


def test_message_is_frozen(topic: shmflow.Topic) -> None:
    topic.write(b"x")
    message = topic.read_message(timeout=0)
    for field in ("array", "seq", "timestamp_ns", "meta", "lost", "skipped", "writer", "more"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(message, field, 1)
        with pytest.raises((AttributeError, TypeError)):
            delattr(message, field)
    with pytest.raises(TypeError):
        type(message)()
    with pytest.raises(TypeError):
        type(message).seq = 5


def test_repr_says_what_it_is(topic: shmflow.Topic) -> None:
    topic.write(np.zeros((2, 3), "f4"))
    text = repr(topic.read_message(timeout=0))
    expected = f"1: float32 (2, 3), writer pid {os.getpid()}, lost 0, skipped 0"
    assert text == f"<shmflow.Message {expected}>"


def test_a_given_timestamp_travels(topic: shmflow.Topic) -> None:
    for stamp in (0, 1, 1_700_000_000_123_456_789, 2**63 - 1):
        topic.write(b"x", timestamp_ns=stamp)
        assert topic.read_message(timeout=0).timestamp_ns == stamp
    topic.write(b"x", timestamp_ns=None)
    assert topic.read_message(timeout=0).timestamp_ns > 1_700_000_000_000_000_000


def test_stamp_0_travels_with_loans_too_and_can_be_sought(topic: shmflow.Topic) -> None:
    for stamp in (0, 5):
        with topic.loan(LARGE, timestamp_ns=stamp):
            pass
        topic.write(np.zeros(LARGE), timestamp_ns=stamp)
    assert [topic.read_message(0).timestamp_ns for _ in range(4)] == [0, 0, 5, 5]
    assert topic.seek(timestamp_ns=0) == 1
    assert topic.seek(timestamp_ns=1) == 3
    with pytest.raises(TypeError, match="either"):
        topic.seek(1, timestamp_ns=0)
    with pytest.raises(TypeError, match="either"):
        topic.seek(None, timestamp_ns=None)


@pytest.mark.parametrize("call", ["write", "loan"])
def test_a_stamp_that_is_not_of_this_clock_is_warned_of_once(topic_name: str, call: str) -> None:
    now, day = time.time_ns(), 86_400 * 10**9
    stamps = {
        time.monotonic_ns(): "days before",
        0: "days before",
        now + 9 * day: "[89] days after",
    }
    for stamp, text in stamps.items():
        with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
            write = getattr(topic, call)
            for good in (None, now, now - day // 2, now + day // 2):
                write(b"x" if call == "write" else 1, timestamp_ns=good)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(RuntimeWarning, match=rf"'{topic_name}' is .*{text}.*time_ns"):
                    write(b"x" if call == "write" else 1, timestamp_ns=stamp)
                write(b"x" if call == "write" else 1, timestamp_ns=stamp)
            topic.unlink()


METAS: list[dict[str, Any]] = [
    {},
    {"exposure_us": 1200},
    {"encoding": "bgr8", "größe": "ñandú 🐦", "": ""},
    {"nested": {"list": [1, 2.5, None, True, "x", {"deep": [[]]}]}},
    {"big": 2**70, "small": -1e-300, "zero": 0},
    {"quote": '"\\\n\t\0'},
]


@pytest.mark.parametrize("shape", [(3,), (LARGE,), (1, 2, 3, 4, 5, 6), ()])
def test_meta_arrives_as_it_was_given(topic: shmflow.Topic, shape: tuple[int, ...]) -> None:
    long_dtype = [(f"field{i}", "i4") for i in range(20)]
    for dtype in ("f4", long_dtype):
        for meta in METAS:
            data = np.ones(shape, dtype)
            topic.write(data, meta=meta)
            message = topic.read_message(timeout=0)
            assert message.meta == meta
            assert message.meta is message.meta
            np.testing.assert_array_equal(message.array, data)
            del message


def test_meta_may_be_any_mapping(topic: shmflow.Topic) -> None:
    topic.write(b"x", meta=MappingProxyType({"a": 1}))
    assert topic.read_message(timeout=0).meta == {"a": 1}
    topic.write(b"x", meta=None)
    assert topic.read_message(timeout=0).meta == {}


@pytest.mark.parametrize("size", [10, LARGE])
def test_meta_at_its_limit_of_64_kib(topic: shmflow.Topic, size: int) -> None:
    room = 64 * 1024 - len('{"a":""}')
    data = np.arange(size)
    topic.write(data, meta={"a": "x" * room})
    message = topic.read_message(timeout=0)
    assert message.meta == {"a": "x" * room}
    np.testing.assert_array_equal(message.array, data)
    with pytest.raises(ValueError, match=r"meta takes 65537 bytes of JSON, at most 65536"):
        topic.write(data, meta={"a": "x" * (room + 1)})
    with pytest.raises(ValueError, match="at most 65536"):
        topic.write(data, meta={"a": "ä" * (room // 2 + 1)})
    assert topic.head == 1


def test_meta_limit_fits_beside_the_largest_message(topic_name: str) -> None:
    meta = {"a": "x" * (64 * 1024 - len('{"a":""}'))}
    with shmflow.Topic(topic_name, capacity=65536, max_message=65536) as topic:
        for i in range(5):
            topic.write(np.full(65536, i, "u1"), meta=meta)
            message = topic.read_message(timeout=0)
            assert message.meta == meta and message.array.nbytes == 65536
            assert (message.array == i).all()
            del message
        topic.unlink()


def test_meta_outlives_topic_and_array(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        topic.write(np.arange(LARGE), meta={"a": "b"})
        message = topic.read_message(timeout=0)
        topic.unlink()
    assert message.meta == {"a": "b"}
    np.testing.assert_array_equal(message.array, np.arange(LARGE))


def test_meta_with_copies_and_out(topic: shmflow.Topic) -> None:
    out = np.zeros(LARGE, "i8")
    for options in ({"copy": True}, {"out": out}, {"latest": True}):
        topic.write(np.arange(LARGE), meta={"kind": str(options.keys())})
        message = topic.read_message(timeout=0, **options)
        assert message.meta == {"kind": str(options.keys())}
        np.testing.assert_array_equal(message.array, np.arange(LARGE))


def test_messages_iterates(topic: shmflow.Topic) -> None:
    for i in range(5):
        topic.write(i, meta={"i": i})
    messages = topic.messages(timeout=0)
    assert iter(messages) is messages
    got = [next(messages) for _ in range(5)]
    assert [(m.seq, m.meta["i"], int(m.array)) for m in got] == [(i + 1, i, i) for i in range(5)]
    with pytest.raises(shmflow.Empty):
        next(messages)
    topic.write(5)
    assert next(messages).seq == 6  # it may go on after Empty


def test_messages_takes_latest_and_copy(topic: shmflow.Topic) -> None:
    for i in range(5):
        topic.write(np.full(LARGE, i))
    message = next(topic.messages(latest=True, copy=True, timeout=0))
    assert (message.seq, message.skipped) == (5, 4)
    assert message.array.flags.writeable
    topic.write(1)
    topic.shutdown()
    assert [m.seq for m in topic.messages()] == [6]


def test_messages_ends_with_its_topic(topic_name: str) -> None:
    topic = shmflow.Topic(topic_name, capacity="1 MiB")
    topic.write(1)
    messages = topic.messages()
    assert next(messages).array == 1
    topic.unlink()
    topic.close()
    assert list(messages) == []
