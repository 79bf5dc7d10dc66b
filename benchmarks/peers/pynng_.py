"""pynng: nng's scalability protocols over Unix sockets (ipc://) in a temporary directory.

One reader: push and pull. Several: pub and sub, for push would deal the messages out; readers
listen and writers dial, and the first write() waits for all of them, without which messages would
go nowhere. No limit on the size of a message (by default a larger one than 1 MiB is dropped).

The writer hands the array's memory to nng, which copies it into its message; without
ffi.from_buffer it would have to be bytes first. The reader looks at the message itself (`_buffer`,
which Message documents for this) instead of unpacking it into bytes; small ones are unpacked, for a
Message costs more than that copy.

Back-pressure: push waits for a puller that is ready, with `depth` messages of buffer; nothing is
lost. Pub and sub never wait: publisher and subscriber keep `depth` messages each, and what does not
find room is dropped silently. A socket that is closed drops what it has not sent yet.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from multiprocessing.context import SpawnContext

import numpy as np

from .base import Peer, Reader, Spec, Writer

MOST = 8192  # messages that nng buffers
JOIN = 60.0  # seconds for readers to appear
UNPACK = 65536  # bytes below which a copy costs less than a Message


class NngWriter(Writer):
    def __init__(self, spec: Spec, addresses: list[str]) -> None:
        import pynng

        kind = pynng.Push0 if spec.readers == 1 else pynng.Pub0
        self._socket = kind(send_buffer_size=min(spec.depth, MOST))
        self._memory = pynng.ffi.from_buffer
        self._absent = list(addresses)
        self._refused = pynng.NNGException

    def _join(self) -> None:
        deadline = time.monotonic() + JOIN
        while self._absent:
            try:
                self._socket.dial(self._absent[-1], block=True)
                self._absent.pop()
            except self._refused:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def write(self, array: np.ndarray) -> None:
        if self._absent:
            self._join()
        self._socket.send(self._memory(array))

    def close(self) -> None:
        self._socket.close()


class NngReader(Reader):
    def __init__(self, spec: Spec, address: str) -> None:
        import pynng

        kind, options = (pynng.Pull0, {}) if spec.readers == 1 else (pynng.Sub0, {"topics": b""})
        depth = min(spec.depth, MOST)
        self._socket = kind(recv_max_size=0, recv_buffer_size=depth, **options)
        self._socket.listen(address)
        self._timeout = -1.0
        self._late = (pynng.Timeout, pynng.TryAgain)
        self._unpacks = spec.nbytes < UNPACK
        self._message: pynng.Message | None = None
        self._shape = spec.shape

    def read(self, timeout: float) -> np.ndarray | None:
        if timeout != self._timeout:
            self._timeout = timeout
            self._socket.recv_timeout = math.ceil(timeout * 1e3)
        try:
            if self._unpacks:
                return np.frombuffer(self._socket.recv(), np.uint8).reshape(self._shape)
            self._message = self._socket.recv_msg()  # owns the memory that the array shows
        except self._late:
            return None
        return np.frombuffer(self._message._buffer, np.uint8).reshape(self._shape)

    def close(self) -> None:
        self._message = None
        self._socket.close()


class PyNng(Peer):
    title = "pynng"
    module = "pynng"
    lossy = True  # where it publishes; not from one writer to one reader

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        self.lossy = spec.readers > 1  # type: ignore[misc]
        self._folder = tempfile.mkdtemp(prefix="bench-")
        self._addresses = [f"ipc://{self._folder}/{i}" for i in range(spec.readers)]

    def writer(self) -> Writer:
        return NngWriter(self.spec, self._addresses)

    def reader(self, index: int) -> Reader:
        return NngReader(self.spec, self._addresses[index])

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
