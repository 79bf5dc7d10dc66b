"""faster-fifo: a circular buffer of bytes in shared memory, with a mutex and conditions.

A queue gives each message to one consumer, so each reader has a queue of its own and the writer
puts into each. Arrays are not pickled: `dumps` hands the array's own memory to the queue, which
copies it in, and `loads` makes an array over the receive buffer, into which the queue copied it
out. This is what its author advises for large messages, and less than its users' usual pickles
cost. Several at a time: put_many() and get_many(), its own.

Back-pressure: put() waits while the circular buffer is full; it holds `depth` messages. Loses
nothing. put_many() takes all or nothing, so batches are cut to half a queue.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from multiprocessing.context import SpawnContext
from queue import Empty

import numpy as np

from .base import Peer, Reader, Spec, Writer

FOREVER = 1e6  # seconds; there is no put() without a time-out
PREFIX = 8  # bytes before each message in the queue: its length


class Raw:
    """Both serializers of one shape; an object, for it is pickled with the queue."""

    def __init__(self, shape: tuple[int, ...], nbytes: int) -> None:
        self.shape, self.nbytes = shape, nbytes

    def dumps(self, array: np.ndarray) -> ctypes.Array | bytes:
        if array.flags.writeable:  # as ctypes demands of what it shares
            return (ctypes.c_ubyte * self.nbytes).from_buffer(array)
        return array.tobytes()

    def loads(self, view: memoryview) -> np.ndarray:
        return np.frombuffer(view, np.uint8).reshape(self.shape)


class FifoWriter(Writer):
    def __init__(self, queues: list, depth: int) -> None:
        self._queues = queues
        self._most = max(1, depth // 2)

    def write(self, array: np.ndarray) -> None:
        for queue in self._queues:
            queue.put(array, True, FOREVER)

    def write_many(self, arrays: Sequence[np.ndarray]) -> None:
        for first in range(0, len(arrays), self._most):
            some = list(arrays[first : first + self._most])
            for queue in self._queues:
                queue.put_many(some, True, FOREVER)


class FifoReader(Reader):
    def __init__(self, queue: object, nbytes: int) -> None:
        self._queue = queue
        queue.reallocate_msg_buffer(nbytes + PREFIX)  # it grows when many are taken at once

    def read(self, timeout: float) -> np.ndarray | None:
        try:
            return self._queue.get(True, timeout)
        except Empty:
            return None

    def read_many(self, limit: int, timeout: float) -> Sequence[np.ndarray]:
        try:
            return self._queue.get_many(True, timeout, limit)
        except Empty:
            return ()


class FasterFifo(Peer):
    title = "faster-fifo"
    module = "faster_fifo"
    batches = True

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        from faster_fifo import Queue

        raw = Raw(spec.shape, spec.nbytes)
        room = spec.depth * (spec.nbytes + PREFIX)
        self._queues = [
            Queue(max_size_bytes=room, loads=raw.loads, dumps=raw.dumps)
            for _ in range(spec.readers)
        ]

    def writer(self) -> Writer:
        return FifoWriter(self._queues, self.spec.depth)

    def reader(self, index: int) -> Reader:
        return FifoReader(self._queues[index], self.spec.nbytes)

    def close(self) -> None:
        for queue in self._queues:
            queue.close()
        self._queues.clear()
