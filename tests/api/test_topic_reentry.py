"""Code of the user's that runs inside a call, and closes the Topic or forks."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import shmflow


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
