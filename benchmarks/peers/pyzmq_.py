"""pyzmq: ZeroMQ sockets over Unix sockets (ipc://) in a temporary directory.

One reader: PUSH and PULL. Several: XPUB and SUB, for PUSH would deal the messages out; readers bind
and writers connect, and the first write() waits for the subscriptions of all, without which
messages would go nowhere.

Up to pyzmq's COPY_THRESHOLD messages are copied on both sides, as its documentation advises. Beyond
that nothing is copied that need not be: the reader gets a view of the frame; the writer copies into
one of a few arrays of its own, lends that to ZeroMQ, and takes it again when its MessageTracker
says that it was sent: the caller may change what it has written, and a warm array costs less than
the fresh memory of each send(copy=True). One I/O thread, as the guide advises below a gigabyte per
second; a writer with several readers gets one per reader, up to half the CPUs.

Back-pressure: high-water marks of `depth` on both sides, besides what the kernel's socket holds.
XPUB_NODROP makes a publisher block as PUSH does, so nothing is lost.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from multiprocessing.context import SpawnContext

import numpy as np

from .base import Peer, Reader, Spec, Writer

RECONNECT_MS = 5  # a writer that was there before its readers looks for them that often
LINGER_MS = 5000  # in which close() may still send


class ZmqWriter(Writer):
    def __init__(self, spec: Spec, addresses: list[str]) -> None:
        import zmq

        threads = min(spec.readers, max(1, (os.cpu_count() or 1) // 2))
        self._context = zmq.Context(io_threads=threads)
        self._socket = socket = self._context.socket(zmq.PUSH if spec.readers == 1 else zmq.XPUB)
        socket.sndhwm = spec.depth
        socket.linger = LINGER_MS
        socket.reconnect_ivl = RECONNECT_MS
        self._awaited = 0
        if spec.readers > 1:
            socket.setsockopt(zmq.XPUB_NODROP, 1)
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # each subscription, not only the first
            self._awaited = spec.readers
        for address in addresses:
            socket.connect(address)
        lends = spec.nbytes >= zmq.COPY_THRESHOLD
        self._pool = [np.ones(spec.shape, np.uint8) for _ in range(spec.depth + 2 if lends else 0)]
        self._sent = [zmq.MessageTracker() for _ in self._pool]
        self._next = 0

    def write(self, array: np.ndarray) -> None:
        while self._awaited:
            self._socket.recv()
            self._awaited -= 1
        if not self._pool:
            self._socket.send(array)
            return
        index = self._next
        self._next = (index + 1) % len(self._pool)
        if not self._sent[index].done:
            self._sent[index].wait()
        np.copyto(self._pool[index], array)
        self._sent[index] = self._socket.send(self._pool[index], copy=False, track=True)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class ZmqReader(Reader):
    def __init__(self, spec: Spec, address: str) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = socket = self._context.socket(zmq.PULL if spec.readers == 1 else zmq.SUB)
        socket.rcvhwm = spec.depth
        socket.linger = 0
        if spec.readers > 1:
            socket.subscribe(b"")
        socket.bind(address)
        self._timeout = -1.0
        self._again = zmq.Again
        self._copies = spec.nbytes < zmq.COPY_THRESHOLD
        self._shape = spec.shape

    def read(self, timeout: float) -> np.ndarray | None:
        if timeout != self._timeout:
            self._timeout = timeout
            self._socket.rcvtimeo = math.ceil(timeout * 1e3)
        try:
            if self._copies:
                data = self._socket.recv()
            else:
                data = self._socket.recv(copy=False).buffer
        except self._again:
            return None
        return np.frombuffer(data, np.uint8).reshape(self._shape)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class PyZmq(Peer):
    title = "pyzmq"
    module = "zmq"

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        self._folder = tempfile.mkdtemp(prefix="bench-")
        self._addresses = [f"ipc://{self._folder}/{i}" for i in range(spec.readers)]

    def writer(self) -> Writer:
        return ZmqWriter(self.spec, self._addresses)

    def reader(self, index: int) -> Reader:
        return ZmqReader(self.spec, self._addresses[index])

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
