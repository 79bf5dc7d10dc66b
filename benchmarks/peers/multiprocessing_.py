"""What the standard library has: a queue, a pipe, and shared memory with semaphores by hand.

MpQueue: one multiprocessing.Queue(maxsize=depth) per reader, since a queue gives each message to
one consumer. What is put is `tobytes()`: the queue pickles in a thread of its own, after put() has
returned, so it needs a copy anyway, and bytes cost less to pickle than an array. get() with a
time-out makes a selector each time; a poll object that is made once spares it that.

MpPipe: one Pipe(duplex=False) per reader, made as wide as the kernel lets an ordinary user.
recv_bytes() and not recv_bytes_into(), which is recv_bytes() and one more copy.

SharedMemorySemaphore: `depth` slots in one SharedMemory, and for each reader a semaphore that
counts free slots and one that counts full ones. The writer copies in; readers look at the slot
itself and give it back at their next read.

All have back-pressure (the slowest reader stops the writer) and lose nothing. All of a pipe's
back-pressure is its width: it does not know `depth`.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import threading
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.queues import Queue
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.synchronize import Semaphore

import numpy as np

from .base import Peer, Reader, Spec, Writer

PIPE_BYTES = 1 << 20  # /proc/sys/fs/pipe-max-size, as it comes
LINGER = 5.0  # seconds in which a queue's thread may still send what was put


class Poll:
    """Whether a connection has something within a time."""

    def __init__(self, connection: Connection) -> None:
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)

    def __call__(self, timeout: float) -> bool:
        return bool(self._poll.poll(timeout * 1e3))


class QueueWriter(Writer):
    def __init__(self, queues: list[Queue]) -> None:
        self._queues = queues

    def write(self, array: np.ndarray) -> None:
        data = array.tobytes()
        for queue in self._queues:
            queue.put(data)

    def close(self) -> None:
        """Without the thread's help a queue that nobody reads any more would keep the process."""
        for queue in self._queues:
            queue.close()
        threads = [threading.Thread(target=q.join_thread, daemon=True) for q in self._queues]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LINGER)
        for queue in self._queues:
            queue.cancel_join_thread()


class QueueReader(Reader):
    def __init__(self, queue: Queue, shape: tuple[int, ...]) -> None:
        self._queue, self._shape = queue, shape
        self._ready = Poll(queue._reader)

    def read(self, timeout: float) -> np.ndarray | None:
        if not self._ready(timeout):
            return None
        return np.frombuffer(self._queue.get(), np.uint8).reshape(self._shape)


class MpQueue(Peer):
    title = "multiprocessing.Queue"
    module = ""

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        self._queues = [context.Queue(spec.depth) for _ in range(spec.readers)]

    def writer(self) -> Writer:
        return QueueWriter(self._queues)

    def reader(self, index: int) -> Reader:
        return QueueReader(self._queues[index], self.spec.shape)

    def close(self) -> None:
        for queue in self._queues:
            queue.close()
        self._queues.clear()


class PipeWriter(Writer):
    def __init__(self, ends: list[Connection], lock: AbstractContextManager) -> None:
        self._ends, self._lock = ends, lock

    def write(self, array: np.ndarray) -> None:
        flat = array.reshape(-1)  # send_bytes() takes len() for the number of bytes
        with self._lock:
            for end in self._ends:
                end.send_bytes(flat)

    def close(self) -> None:
        for end in self._ends:
            end.close()


class PipeReader(Reader):
    def __init__(self, end: Connection, shape: tuple[int, ...]) -> None:
        self._end, self._shape = end, shape
        self._ready = Poll(end)

    def read(self, timeout: float) -> np.ndarray | None:
        if not self._ready(timeout):
            return None
        return np.frombuffer(self._end.recv_bytes(), np.uint8).reshape(self._shape)

    def close(self) -> None:
        self._end.close()


class MpPipe(Peer):
    title = "multiprocessing.Pipe"
    module = ""

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        self._pipes = [context.Pipe(duplex=False) for _ in range(spec.readers)]
        for _, end in self._pipes:
            with contextlib.suppress(OSError):  # one user's pipes may be many only if narrow
                fcntl.fcntl(end.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # Messages longer than PIPE_BUF that two processes write at once would mix.
        self._lock = context.Lock() if spec.writers > 1 else contextlib.nullcontext()

    def writer(self) -> Writer:
        return PipeWriter([end for _, end in self._pipes], self._lock)

    def reader(self, index: int) -> Reader:
        return PipeReader(self._pipes[index][0], self.spec.shape)

    def close(self) -> None:
        for pair in self._pipes:
            for end in pair:
                end.close()
        self._pipes.clear()


class Slots:
    """The slots of a segment, and before them the number of messages written."""

    HEAD = 4096

    def __init__(self, spec: Spec) -> None:
        self._memory = SharedMemory(spec.name)
        buffer = self._memory.buf
        self.count = np.ndarray((1,), np.uint64, buffer)
        self.slots = [
            np.ndarray(spec.shape, np.uint8, buffer, self.HEAD + i * self.stride(spec))
            for i in range(spec.depth)
        ]

    @classmethod
    def stride(cls, spec: Spec) -> int:
        return -(-spec.nbytes // 64) * 64

    @classmethod
    def length(cls, spec: Spec) -> int:
        return cls.HEAD + spec.depth * cls.stride(spec)

    def close(self) -> None:
        del self.count, self.slots
        with contextlib.suppress(BufferError):  # somebody still holds an array
            self._memory.close()


class SlotWriter(Writer):
    def __init__(
        self,
        spec: Spec,
        free: list[Semaphore],
        full: list[Semaphore],
        lock: AbstractContextManager,
    ) -> None:
        self._memory = Slots(spec)
        self._depth = spec.depth
        self._free, self._full, self._lock = free, full, lock

    def write(self, array: np.ndarray) -> None:
        with self._lock:
            for semaphore in self._free:
                semaphore.acquire()
            count = self._memory.count
            seq = int(count[0])
            np.copyto(self._memory.slots[seq % self._depth], array)
            count[0] = seq + 1
            for semaphore in self._full:
                semaphore.release()

    def close(self) -> None:
        self._memory.close()


class SlotReader(Reader):
    def __init__(self, spec: Spec, free: Semaphore, full: Semaphore) -> None:
        self._memory = Slots(spec)
        self._depth = spec.depth
        self._free, self._full = free, full
        self._next = 0
        self._held = False

    def read(self, timeout: float) -> np.ndarray | None:
        if self._held:
            self._held = False
            self._free.release()
        if not self._full.acquire(True, timeout):
            return None
        slot = self._memory.slots[self._next % self._depth]
        self._next += 1
        self._held = True
        return slot

    def close(self) -> None:
        if self._held:
            self._free.release()
        self._memory.close()


class SharedMemorySemaphore(Peer):
    title = "SharedMemory + semaphores"
    module = ""
    zero_copy = True

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        memory = SharedMemory(spec.name, create=True, size=Slots.length(spec))
        memory.buf[:8] = bytes(8)
        memory.close()
        self._free = [context.Semaphore(spec.depth) for _ in range(spec.readers)]
        self._full = [context.Semaphore(0) for _ in range(spec.readers)]
        self._lock = context.Lock() if spec.writers > 1 else contextlib.nullcontext()

    def writer(self) -> Writer:
        return SlotWriter(self.spec, self._free, self._full, self._lock)

    def reader(self, index: int) -> Reader:
        return SlotReader(self.spec, self._free[index], self._full[index])

    def close(self) -> None:
        # Attached once more, for all processes share one resource tracker, which keeps a set:
        # unlink() takes the name out of it, whoever put it there.
        with contextlib.suppress(FileNotFoundError):
            memory = SharedMemory(self.spec.name)
            memory.close()
            memory.unlink()
        self._free.clear()
        self._full.clear()
