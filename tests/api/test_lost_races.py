"""A message that is overwritten while it is being copied, and the next, and the next.

Owns: that a read which loses every race ends with its deadline, and one that loses a few goes on.
Does not own: who wins (tests/core); what is lost meanwhile is counted (test_read.py).

What overtakes the reader is the parsing of the dtype, which lies between its look at a message and
its copy: a structure inside a structure is parsed each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmflow
from shmflow import _wire

NESTED = np.dtype([("outer", [("inner", "u1")])])


class Race:
    """Two Topics, and how many of the next looks at a message are in vain."""

    def __init__(self, name: str, mode: Any, size: int) -> None:
        self.message = np.zeros(size, NESTED)
        self.writer = shmflow.Topic(name, "w", capacity="1 MiB", depth=2)
        self.writer.write_many([self.message] * 2)
        self.reader = shmflow.Topic(name, mode)
        self.won = self.lost = self.runs = 0
        self.parse = _wire.parse
        self.inside = False

    def __call__(self, wire: bytes) -> np.dtype[Any]:
        dtype = self.parse(wire)
        if not self.inside and self.won > 0:
            self.won -= 1
        elif not self.inside and self.lost > 0:
            self.lost -= 1
            self.runs += 1
            self.inside = True  # to describe a dtype parses it too
            self.writer.write_many([self.message] * 2)  # as many as are retained
            self.inside = False
        return dtype


@pytest.fixture(params=[("r", 100), ("monitor", 100), ("monitor", 100_000)], ids=str)
def race(
    topic_name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Race]:
    race = Race(topic_name, *request.param)
    monkeypatch.setattr(_wire, "parse", race)
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
    race.lost = FOR_EVER
    assert READS[call](race.reader, timeout) is None
    assert race.runs > 1
    race.lost = 0
    race.writer.write(race.message)
    assert race.reader.read(0).size == race.message.size


@pytest.mark.parametrize("call", READS)
def test_a_read_without_time_that_loses_a_race_looks_again(race: Race, call: str) -> None:
    race.lost = 1
    assert READS[call](race.reader, 0) is not None
    assert race.runs == 1


@pytest.mark.parametrize("call", ["read_many", "read_messages"])
def test_a_batch_gives_what_it_has_when_the_rest_is_lost_again_and_again(
    race: Race, call: str
) -> None:
    race.won, race.lost = 1, FOR_EVER
    assert len(getattr(race.reader, call)(10, None)) == 1
    assert race.runs > 1
    race.lost = 0
    assert len(getattr(race.reader, call)(10, 0)) == 2
