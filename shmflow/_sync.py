"""`sync`: messages of several topics, put together by their time stamps.

Owns the rules of what belongs together, and one message of each topic at most. Does not own the
waiting (`_core.wait`) or the words of errors (`_texts`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Self

from shmflow import _texts
from shmflow._core import Message, Topic, wait
from shmflow._errors import Closed

MOST = 128  # as many as wait() takes


class Sync:
    """An iterator over sets of messages that belong together; `shmflow.sync()` makes it.

    Each step gives a tuple with one `Message` of each topic, in the order of `topics`. Attributes:
    topics, tolerance and timeout (both in seconds) as they were given; given, dropped and ended.
    For one thread at a time.
    """

    __slots__ = ("_dropped", "_ended", "_given", "_held", "_span_ns", "_timeout", "_topics")

    def __init__(
        self, topics: Iterable[Topic], tolerance: float, *, timeout: float | None = None
    ) -> None:
        whole: object = topics
        if isinstance(whole, Topic):  # which is iterable too: for its messages
            raise TypeError("sync() takes several Topics, as in sync([left, right], 0.005)")
        self._topics = tuple(topics)
        self._span_ns = _nanoseconds(_seconds(tolerance, "tolerance"))
        self._timeout = None if timeout is None else _seconds(timeout, "timeout")
        for number, topic in enumerate(self._topics):
            if not isinstance(topic, Topic):
                raise TypeError(f"sync() takes Topics; item {number} is {type(topic).__name__}")
            if any(topic is other for other in self._topics[:number]):
                raise ValueError(
                    f"the same Topic of {topic.name!r} was given twice, and gives each message "
                    "once; open it twice if that is meant"
                )
        if not 2 <= len(self._topics) <= MOST:
            raise ValueError(f"sync() takes 2 to {MOST} Topics, not {len(self._topics)}")
        for topic in self._topics:
            if topic.mode == "w":
                raise _texts.wrong_mode(topic, "sync")
        self._held: list[Message | None] = [None] * len(self._topics)
        self._dropped = [0] * len(self._topics)
        self._given = 0
        self._ended = False

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The Topics, in the order in which their messages come."""
        return self._topics

    @property
    def tolerance(self) -> float:
        """How far apart the stamps of a set may be, in seconds."""
        return self._span_ns / 1e9

    @property
    def timeout(self) -> float | None:
        """How long a step waits at most, in seconds; None: for ever."""
        return self._timeout

    @property
    def given(self) -> int:
        """How many sets were given so far."""
        return self._given

    @property
    def dropped(self) -> tuple[int, ...]:
        """How many messages of each topic were read and found no partners, in the order of topics.

        What a topic lost before it was read is told by its `Topic.lost`.
        """
        return tuple(self._dropped)

    @property
    def ended(self) -> bool:
        """Whether one of the streams is over, so that there will be no more sets."""
        return self._ended

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[Message, ...]:
        if self._ended:
            raise StopIteration
        until = None if self._timeout is None else time.monotonic() + self._timeout
        try:
            while True:
                self._fill(until)
                # No other name keeps a candidate: what is dropped goes before the next comes.
                stamps = [message.timestamp_ns for message in self._held if message is not None]
                oldest = min(stamps)
                if max(stamps) - oldest <= self._span_ns:
                    held, self._held = self._held, [None] * len(stamps)
                    self._given += 1
                    return tuple(message for message in held if message is not None)
                self._drop(stamps.index(oldest))
        except Closed:
            self._ended = True
            for number in range(len(self._held)):
                self._drop(number)
            raise StopIteration from None

    def _drop(self, number: int) -> None:
        self._dropped[number] += self._held[number] is not None
        self._held[number] = None

    def _fill(self, until: float | None) -> None:
        """Reads until there is a candidate of each topic. Closed when one of them has ended."""
        while True:
            for number, topic in enumerate(self._topics):
                if self._held[number] is None:
                    self._held[number] = topic.read_message(0, default=None)
            missing = [t for t, m in zip(self._topics, self._held, strict=True) if m is None]
            if not missing:
                return
            left = None if until is None else max(0.0, until - time.monotonic())
            if not wait(missing, left) and self._timeout is not None:
                raise _texts.empty_set(missing, self._topics, self._timeout)

    def __repr__(self) -> str:
        names = ", ".join(repr(topic.name) for topic in self._topics)
        state = ", ended" if self._ended else ""
        return f"<shmflow.Sync {names} within {self.tolerance:g} s, {self._given} given{state}>"


Sync.__module__ = "shmflow"


def sync(topics: Iterable[Topic], tolerance: float, *, timeout: float | None = None) -> Sync:
    """Messages of several topics whose time stamps belong together: stereo cameras, say.

        for left, right in shmflow.sync([left_topic, right_topic], tolerance=0.005):
            depth = match(left.array, right.array)

    topics: 2 to 128 Topics that may read, each given once. tolerance: seconds, 0 or more: the
    stamps (`Message.timestamp_ns`) of a set are at most so far apart. timeout: seconds that a step
    may wait, None for ever, 0 not at all. Gives a `Sync`, an iterator over tuples with one Message
    of each topic, in the order of `topics`.

    The rule: the oldest unread message of each topic is its candidate. When every topic has one,
    they are given together if the oldest and the newest stamp of them are within the tolerance;
    if not, the one with the oldest stamp has no partner any more, since stamps of a topic grow: it
    is dropped, and counted (of equal ones the first in the order of `topics`). Nothing else is
    decided by, so the same messages always give the same sets, however they arrive.

    What follows from it. Each message is given at most once, and those of a topic in their order.
    Where several sets would do, each topic's earliest fitting message is taken: with a tolerance of
    half a frame period or more that may be a neighbour of the one that is closest. A message whose
    partner was lost (`Message.lost`, `Topic.lost`) is dropped. Where stamps go backwards, sets
    still are within the tolerance, and partners may be missed.

    One candidate of each topic is held at most, as a view; a step that waits for one topic leaves
    the others' messages in their rings, where they are lost if that takes too long.

    Iteration ends as soon as a topic that has no candidate has ended (`shutdown()`) or its Topic
    was closed; candidates that are left are dropped. When nothing came in time a step raises
    Empty, which names the topics that are waited for; candidates stay, and the next step goes on.
    What is there already is gone through even if the time is over.
    Raises TypeError for what is no Topic, ValueError for fewer than 2 or more than 128, for the
    same Topic twice, and for a tolerance or timeout that is negative or NaN, WrongMode for one of
    mode 'w'; a step raises what read_message() does.
    """
    return Sync(topics, tolerance, timeout=timeout)


def _seconds(value: float, what: str) -> float:
    try:
        bad = math.isnan(value) or value < 0
    except TypeError:
        text = f"{what} must be a number of seconds, not {type(value).__name__}"
        raise TypeError(text) from None
    if bad:
        raise ValueError(f"{what} must be 0 or more seconds, not {value!r}")
    return float(value)


def _nanoseconds(seconds: float) -> float:
    """Whole ones, or infinity."""
    return seconds * 1e9 if math.isinf(seconds * 1e9) else round(seconds * 1e9)
