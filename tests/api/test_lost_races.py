"""A message that is overwritten while it is being copied, and the next, and the next.

Owns: that a read which loses every race ends with its deadline, and one that loses a few goes on.
Does not own: who wins (tests/core); what is lost meanwhile is counted (test_read.py).

What overtakes the reader is a collection of garbage, which on CPython 3.11 comes as soon as enough
objects are made: each read makes a dtype with structures inside structures anew, between its look
at a message and its copy. There is no other place for Python code: for a dtype without fields a
read makes nothing that the collector knows, and from CPython 3.12 on it runs between bytecodes
only, that is, not inside a call.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmflow

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="no Python code runs between look and copy since 3.12"
)

# Each read of it makes 151 dicts, of which CPython keeps 80 when they die: 71 are new to the
# collector, and a collection after each 60 comes once per look. Other objects are a few.
NESTED = np.dtype([(f"f{i}", [("outer", [("inner", "u1")])]) for i in range(150)])
NEW_OBJECTS = 60


class Race:
    """Two Topics, and how many of the next looks at a message are in vain."""

    def __init__(self, name: str, mode: Any, size: int) -> None:
        self.message = np.zeros(size, NESTED)
        self.writer = shmflow.Topic(name, "w", capacity="1 MiB", depth=2)
        self.writer.write_many([self.message] * 2)
        self.reader = shmflow.Topic(name, mode)
        self.won = self.lost = self.runs = 0
        self.thread = threading.get_ident()

    def __call__(self, phase: str, info: object) -> None:
        if phase == "start" or threading.get_ident() != self.thread:
            return
        if self.won > 0:
            self.won -= 1
        elif self.lost > 0:
            self.lost -= 1
            self.runs += 1
            self.message.view("u1")[:] = 1
            self.writer.write_many([self.message] * 2)  # as many as are retained

    def run(self, read: Callable[[], Any], won: int = 0, lost: int = 0) -> Any:
        before = gc.get_threshold()
        self.won, self.lost, self.runs = won, lost, 0
        gc.callbacks.append(self)
        gc.set_threshold(NEW_OBJECTS, 1_000_000, 1_000_000)  # a full one frees what CPython keeps
        try:
            return read()
        finally:
            gc.set_threshold(*before)
            gc.callbacks.remove(self)


@pytest.fixture(params=[("r", 1), ("monitor", 1), ("monitor", 1000)], ids=str)
def race(topic_name: str, request: pytest.FixtureRequest) -> Iterator[Race]:
    race = Race(topic_name, *request.param)
    for number in range(3):  # the first parses the dtype, too
        race.run(lambda: race.reader.read(0), won=FOR_EVER)
        assert number == 0 or race.won == FOR_EVER - 1, "one collection per look"
        race.writer.write_many([race.message] * 2)
    yield race
    race.reader.close()
    race.writer.unlink()
    race.writer.close()


FOR_EVER = 1_000_000  # such a loop outlasts the test's limit

READS: dict[str, Callable[[shmflow.Topic, float], Any]] = {
    "read": lambda topic, timeout: topic.read(timeout, default=None),
    "latest": lambda topic, timeout: topic.read(timeout, latest=True, default=None),
    "read_message": lambda topic, timeout: topic.read_message(timeout, default=None),
    "read_many": lambda topic, timeout: topic.read_many(5, timeout) or None,
    "stack": lambda topic, timeout: topic.read_many(5, timeout, stack=True),
}


@pytest.mark.parametrize("timeout", [0, 0.05])
@pytest.mark.parametrize("call", ["read", "latest", "read_message", "read_many"])
def test_a_read_that_loses_every_race_ends_with_its_deadline(
    race: Race, call: str, timeout: float
) -> None:
    assert race.run(lambda: READS[call](race.reader, timeout), lost=FOR_EVER) is None
    assert race.runs > 1
    race.writer.write(race.message)
    assert race.reader.read(0).size == race.message.size


@pytest.mark.parametrize("call", READS)
def test_a_read_without_time_that_loses_a_race_looks_again(race: Race, call: str) -> None:
    result = race.run(lambda: READS[call](race.reader, 0), lost=1)
    assert race.runs == 1
    result = result[0] if call == "read_many" else getattr(result, "array", result)
    assert set(result.tobytes()) == {1}  # not the message that it looked at first


@pytest.mark.parametrize("call", ["read_many", "read_messages"])
def test_a_batch_gives_what_it_has_when_the_rest_is_lost_again_and_again(
    race: Race, call: str
) -> None:
    read = getattr(race.reader, call)
    assert len(race.run(lambda: read(10, None), won=1, lost=FOR_EVER)) == 1
    assert race.runs > 1
    assert len(read(10, 0)) == 2
