"""pickle, copy and deepcopy of what the API gives."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmflow
from shmflow import _core

LARGE = 5000


@pytest.fixture
def topic(topic_name: str) -> Iterator[shmflow.Topic]:
    with shmflow.Topic(topic_name, capacity="2 MiB") as topic:
        yield topic
        gc.collect()
        topic.unlink()


ROUTES: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {protocol}": lambda message, protocol=protocol: pickle.loads(
            pickle.dumps(message, protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("size", [3, LARGE])
@pytest.mark.parametrize("route", ROUTES)
def test_message_is_pickled_and_copied_with_all_it_knows(
    topic: shmflow.Topic, route: str, size: int
) -> None:
    data = np.asfortranarray(np.arange(size * 2, dtype="f4").reshape(2, size))
    topic.write(b"passed over")
    for meta in (None, {"a": [1, "ä"]}):
        topic.write(data, meta=meta, timestamp_ns=2**63 - 1)
        message = topic.read_message(timeout=0, latest=True)
        for parsed in (False, True):
            if parsed:
                message.meta["more"] = 1
            other = ROUTES[route](message)
            assert type(other) is type(message) and other is not message
            for field in ("seq", "timestamp_ns", "lost", "skipped", "writer", "meta"):
                assert getattr(other, field) == getattr(message, field)
            assert repr(other) == repr(message)
            np.testing.assert_array_equal(other.array, data)
            assert other.array.flags.f_contiguous
            shares = np.shares_memory(other.array, message.array)
            assert shares is (route == "copy")
            assert (other.meta is message.meta) is (route == "copy" and parsed)
        del other, message


def test_messages_travel_through_a_queue(topic: shmflow.Topic) -> None:
    queue: Any = multiprocessing.Queue()
    for number in range(10):
        topic.write(np.full(LARGE, number), meta={"number": number})
        queue.put(topic.read_message(timeout=0, copy=number % 2 == 0))
    for number in range(10):
        message = queue.get(timeout=20)
        assert message.meta == {"number": number} and (message.array == number).all()
    queue.close()
    queue.join_thread()


def test_what_cannot_be_copied_says_what_to_do(topic: shmflow.Topic) -> None:
    loan = topic.loan(5)
    for thing, text in (
        (loan, r"loan\.array\.copy\(\)"),
        (topic.messages(), r"messages\(\) again"),
    ):
        for call in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=text):
                call(thing)
    loan.discard()
    with pytest.raises(TypeError, match="__reduce__"):
        _core._message(1, None, 1, 1, 1, 1, 1)
    with pytest.raises(TypeError, match="__reduce__"):
        _core._message(np.zeros(1), 5, 1, 1, 1, 1, 1)


def test_copied_topic_is_another_one_of_the_same(topic: shmflow.Topic) -> None:
    topic.write(b"x")
    for call in (copy.copy, copy.deepcopy):
        with call(topic) as other:
            assert other is not topic and (other.name, other.mode) == (topic.name, topic.mode)
            assert bytes(other.peek(1).array) == b"x"
            assert len(topic.participants()) == 2
    for call in (copy.copy, copy.deepcopy, lambda told: pickle.loads(pickle.dumps(told))):
        stats, (participant,) = topic.stats(), topic.participants()
        assert call(stats) == stats and call(participant) == participant
