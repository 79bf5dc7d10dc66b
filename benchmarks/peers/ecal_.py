"""eCAL: publish-subscribe through memory files, a callback in a thread per publisher.

Settings: the shared-memory layer alone, zero-copy mode (the callback runs on the memory file
itself), memory files large enough from the start: one for one reader (more turn zero copy off at
the writer), three for several readers, which was faster there. Acknowledged: `send` returns when
every reader's callback did. That is the library's back-pressure and its only way to lose nothing; a
reader that does not answer within `ACKNOWLEDGE_MS` is no longer waited for until it registers
again. Registration through shared memory every 0.1 s, no UDP, no log.

Two bindings are in the package. The newer one alone takes a configuration in code; the older one
alone sends any buffer, without a `bytes` in between; both use the same library in the process, so
the newer configures and receives, the older sends. Copies: one into the memory file, one out of it,
as the callback is given `bytes`; readers take turns at the file. Reads block on a queue between
callback and reader, of `depth` messages: a full one holds the callback, and thus the writer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
from collections.abc import Iterator
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import numpy as np

from .base import Peer, Reader, Spec, Writer

ACKNOWLEDGE_MS = 10_000
HEADER = 4096  # more than what the library writes before a message


users = 0  # of the library in this process: it has one start and one end
retired: list[Any] = []  # subscribers nobody reads any more, until that end


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library tells of its start on standard output, past Python."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    saved = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)


def _initialize(spec: Spec, domain: str) -> Any:
    global users
    users += 1
    with _quiet():
        import ecal.nanobind_core as ecal

        if ecal.is_initialized():
            return ecal
        config = ecal.init.get_configuration()
        config.registration.registration_refresh = 100
        config.registration.local.transport_type = ecal.LocalTransportType.SHM
        config.registration.local.shm.domain = domain
        provider = config.logging.provider
        for sink in (provider.console, provider.file, provider.udp, config.logging.receiver):
            sink.enable = False
        for layer in (config.publisher.layer, config.subscriber.layer):
            layer.udp.enable = False
            layer.tcp.enable = False
        shm = config.publisher.layer.shm
        shm.zero_copy_mode = True
        shm.acknowledge_timeout_ms = ACKNOWLEDGE_MS
        shm.memfile_buffer_count = 1 if spec.readers == 1 else 3
        shm.memfile_min_size_bytes = spec.nbytes + HEADER
        ecal.initialize(config, spec.name, ecal.init.PUBLISHER | ecal.init.SUBSCRIBER)
    return ecal


def _finalize() -> None:
    """Callbacks need the GIL, and of all that waits for their end only the older binding's
    `finalize` lets go of it; subscribers have to live until then."""
    from ecal.core.core import finalize

    global users
    users -= 1
    if users == 0:
        finalize()
        retired.clear()


class _Writer(Writer):
    def __init__(self, spec: Spec, domain: str) -> None:
        _initialize(spec, domain)
        from ecal.core.core import publisher

        self._publisher = publisher(spec.name)

    def write(self, array: np.ndarray) -> None:
        self._publisher.send(array)

    def close(self) -> None:
        self._publisher.destroy()
        _finalize()


class _Reader(Reader):
    def __init__(self, spec: Spec, domain: str) -> None:
        ecal = _initialize(spec, domain)
        self._shape = spec.shape
        self._writers = spec.writers
        self._full: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(spec.depth):
            self._free.put(None)
        self._subscriber = ecal.Subscriber(spec.name)
        self._subscriber.set_receive_callback(self._receive)

    def _receive(self, publisher: Any, datatype: Any, data: Any) -> None:
        self._free.get()
        self._full.put(data.buffer)

    def read(self, timeout: float) -> np.ndarray | None:
        try:
            message = self._full.get(timeout=timeout)
        except queue.Empty:
            return None
        self._free.put(None)
        return np.frombuffer(message, np.uint8).reshape(self._shape)

    def close(self) -> None:
        for _ in range(self._writers):  # whose callbacks may wait
            self._free.put(None)
        self._subscriber.set_receive_callback(lambda publisher, datatype, data: None)
        retired.append(self._subscriber)
        del self._subscriber
        _finalize()


class Ecal(Peer):
    title = "eCAL"
    module = "ecal"

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        self._domain = f"ecal-bench-{os.getpid()}"  # of all channels of one runner

    def writer(self) -> Writer:
        return _Writer(self.spec, self._domain)

    def reader(self, index: int) -> Reader:
        return _Reader(self.spec, self._domain)

    def close(self) -> None:
        for left in Path("/dev/shm").glob(self._domain + "*"):
            left.unlink(missing_ok=True)
