"""Reading for asyncio: coroutines over `Topic.fileno()`.

A read is tried first, and needs neither a descriptor nor the loop if something is there. Who finds
nothing queues up, one queue per loop and Topic, and the loop watches a descriptor as long as
somebody is in it. The loop's own descriptor is a duplicate of the Topic's: a loop admits one
callback per descriptor, and the user may have one on `fileno()`; and `close()` makes it readable
before it closes its own, so that a duplicate tells of the end.

1. A message is taken synchronously, right before the coroutine returns: whatever is cancelled, at
   any await, has taken nothing.
2. The loop watches only while somebody waits, and tells one waiter at a time, the first. Whoever
   leaves the queue, served or not, has the loop watch again if others are left in it.
3. What waits is held by its loop alone; nothing here keeps a loop, a task or a Topic alive.
4. A forked child never touches its parent's loops: their epoll is shared with the parent.
"""

from __future__ import annotations

import math
import os
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from shmflow import _errors as errors
from shmflow import _texts

if TYPE_CHECKING:
    import asyncio

    import numpy as np

    from shmflow._core import Message, Topic

    _Array = np.ndarray[Any, np.dtype[Any]]

_NOTHING = object()
_GREED = 32  # so many reads in a row that found something; then the loop's other work comes first


class _Queue:
    """Who waits, in order; and whether the loop watches for them."""

    __slots__ = ("__weakref__", "waiters", "watched")

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[bool]] = deque()
        self.watched = False


class _Port:
    """One loop's way to hear of one Topic: a descriptor of its own."""

    __slots__ = ("fd", "pid", "queue")

    def __init__(self, fileno: int) -> None:
        self.queue: weakref.ref[_Queue] | None = None
        self.pid = os.getpid()
        self.fd = -1
        self.fd = os.dup(fileno)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def get_queue(self) -> _Queue | None:
        """The queue, if somebody is in it."""
        queue = self.queue() if self.queue is not None else None
        return queue if queue is not None and queue.waiters else None


class _Readers:
    """What is known of the coroutines that read one Topic."""

    __slots__ = ("ports", "streak")

    def __init__(self) -> None:
        self.ports: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Port]
        self.ports = weakref.WeakKeyDictionary()
        self.streak = 0


_readers: weakref.WeakKeyDictionary[Topic, _Readers] = weakref.WeakKeyDictionary()
os.register_at_fork(after_in_child=_readers.clear)


def _running_loop() -> asyncio.AbstractEventLoop:
    # Not imported: that would be paid by all who never wait so, and where nobody has, none runs.
    get_running_loop = getattr(sys.modules.get("asyncio"), "get_running_loop", None)
    if get_running_loop is None:
        raise RuntimeError("no running event loop")
    loop: asyncio.AbstractEventLoop = get_running_loop()
    return loop


@types.coroutine
def _let_others_run() -> Generator[None]:
    yield


# ---- waiting -----------------------------------------------------------------------------------


def _news(loop: asyncio.AbstractEventLoop, port: _Port, queue: _Queue) -> None:
    """The loop's callback: the first one who still waits is told, and who leaves has it called
    again."""
    loop.remove_reader(port.fd)
    queue.watched = False
    while queue.waiters:
        future = queue.waiters.popleft()
        if not future.done():
            future.set_result(True)
            return


def _watch(loop: asyncio.AbstractEventLoop, port: _Port, queue: _Queue) -> None:
    if queue.waiters and not queue.watched:
        loop.add_reader(port.fd, _news, loop, port, queue)
        queue.watched = True


def _unwatch(loop: asyncio.AbstractEventLoop, port: _Port, queue: _Queue) -> None:
    """Somebody left: the loop watches if, and only if, others are left."""
    if loop.is_closed() or port.pid != os.getpid():
        return
    if queue.waiters:
        _watch(loop, port, queue)
    elif queue.watched:
        loop.remove_reader(port.fd)
        queue.watched = False


def _time_is_over(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


async def _wait(loop: asyncio.AbstractEventLoop, port: _Port, until: float, behind: bool) -> bool:
    """Queues up, behind the others or, when told of what another one has taken, back where it
    was. False: the time is over."""
    queue = port.get_queue()
    if queue is None:
        queue = _Queue()
        port.queue = weakref.ref(queue)
    future = loop.create_future()
    if behind:
        queue.waiters.append(future)
    else:
        queue.waiters.appendleft(future)
    timer = None if until == math.inf else loop.call_at(until, _time_is_over, future)
    try:
        _watch(loop, port, queue)
        told: bool = await future
        return told
    finally:
        if timer is not None:
            timer.cancel()
        if future in queue.waiters:
            queue.waiters.remove(future)
        _unwatch(loop, port, queue)


async def _take(
    topic: Topic, read: Callable[..., Any], seconds: float, latest: bool, copy: bool
) -> Any:
    loop = _running_loop()
    until = loop.time() + seconds
    readers = _readers.get(topic)
    if readers is None:
        readers = _readers.setdefault(topic, _Readers())
    port = readers.ports.get(loop)
    readers.streak += 1
    if readers.streak >= _GREED:
        readers.streak = 0
        await _let_others_run()
    in_time = True
    # Whoever comes while others wait takes nothing from under their noses.
    behind = seconds > 0 and port is not None and port.get_queue() is not None
    while True:
        if not behind:
            try:
                got = read(0, latest=latest, copy=copy, default=_NOTHING)
            except errors.Closed:
                if topic.closed:
                    _readers.pop(topic, None)
                raise
            if got is not _NOTHING:
                return got
            # Asked here too: who is told in vain again and again never sees his timer.
            if not in_time or seconds == 0 or loop.time() >= until:
                raise _texts.empty(topic, seconds)
        if port is None:
            port = readers.ports[loop] = _Port(topic.fileno())
        readers.streak = 0
        in_time = await _wait(loop, port, until, behind)
        behind = False


# ---- what Topic's methods call -----------------------------------------------------------------


async def read_async(topic: Topic, seconds: float, latest: bool, copy: bool) -> _Array:
    """The next message as an array: `Topic.read_async`, which has looked at its arguments."""
    array: _Array = await _take(topic, topic.read, seconds, latest, copy)
    return array


async def read_message_async(topic: Topic, seconds: float, latest: bool, copy: bool) -> Message:
    """The next message as a Message: `Topic.read_message_async`."""
    message: Message = await _take(topic, topic.read_message, seconds, latest, copy)
    return message


class Arrays:
    """`async for array in topic`: ends when the stream was shut down and is drained, or closed."""

    __slots__ = ("_topic",)

    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    def __aiter__(self) -> Arrays:
        return self

    async def __anext__(self) -> _Array:
        try:
            return await read_async(self._topic, math.inf, False, False)
        except errors.Closed:
            raise StopAsyncIteration from None
