"""zenoh: peers linked by Unix sockets, the arrays passed by reference in its shared memory.

Settings: peer mode; the readers listen on Unix sockets in a temporary directory, the writers
connect to them (no scouting, no multicast). Congestion control blocks, messages are reliable. There
are two: the usual transport, which batches small messages under load, and the low-latency one,
which sends each by itself and knows no QoS. A writer allocates from a pool of depth + 4 messages
with `BlockOn(GarbageCollect)`, as in the library's example; messages under 3072 bytes, the
library's own threshold for shared memory, go through the socket. Shared memory is set up when the
session opens. A reader waits in `recv()` on a FIFO channel of `depth`, which was faster than a
callback with a queue. `recv()` knows no timeout: a thread looks every 0.1 s whether the deadline
has passed and ends the wait with an empty message inside the session.

Back-pressure: a full channel stops the reader's socket, which stops the writer (the usual transport
gives up a reader after `BLOCK_US`); a pool without room makes the writer look again every
millisecond.

Copies: the Python binding has no buffer protocol. What is assigned to its shared memory must be
`bytes` or `bytearray`, so the array goes by way of one `bytearray` that stays (two copies); what is
received becomes `bytes` (one copy).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from multiprocessing.context import SpawnContext
from typing import Any

import numpy as np

from .base import Peer, Reader, Spec, Writer

SHM_THRESHOLD = 3072  # bytes; the default of transport_optimization/message_size_threshold
TICK = 0.1  # seconds; recv() itself looks for signals as often
BLOCK_US = 60_000_000  # 5 s by default


def _open(listen: list[str], connect: list[str], low_latency: bool) -> Any:
    import zenoh

    zenoh.init_log_from_env_or("off")
    config = zenoh.Config()
    for key, value in {
        "mode": "peer",
        "listen/endpoints": listen,
        "connect/endpoints": connect,
        "connect/timeout_ms": -1,
        "connect/exit_on_failure": False,
        "connect/retry": {
            "period_init_ms": 20,
            "period_max_ms": 200,
            "period_increase_factor": 2,
        },
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": False,
        "transport/unicast/qos/enabled": not low_latency,
        "transport/unicast/lowlatency": low_latency,
        "transport/link/tx/queue/congestion_control/block/wait_before_close": BLOCK_US,
        "transport/shared_memory/enabled": True,
        "transport/shared_memory/mode": "init",
        "transport/shared_memory/transport_optimization/enabled": False,
    }.items():
        config.insert_json5(key, json.dumps(value))
    return zenoh.open(config)


class _Writer(Writer):
    def __init__(self, spec: Spec, sockets: list[str], low_latency: bool) -> None:
        import zenoh

        self._nbytes = spec.nbytes
        self._session = _open([], sockets, low_latency)
        self._publisher = self._session.declare_publisher(
            f"{spec.name}/data",
            congestion_control=zenoh.CongestionControl.BLOCK,
            reliability=zenoh.Reliability.RELIABLE,
            express=low_latency,
            allowed_destination=zenoh.Locality.REMOTE,
        )
        self._provider: Any = None
        if spec.nbytes >= SHM_THRESHOLD:
            pool = (spec.depth + 4) * (spec.nbytes + 4096)
            self._provider = zenoh.shm.ShmProvider.default_backend(pool)
            self._policy = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())
            self._bytes = bytearray(spec.nbytes)
            self._stage = np.frombuffer(self._bytes, np.uint8).reshape(spec.shape)

    def write(self, array: np.ndarray) -> None:
        if self._provider is None:
            self._publisher.put(array.tobytes())
            return
        buffer = self._provider.alloc(self._nbytes, self._policy)
        np.copyto(self._stage, array)
        buffer[:] = self._bytes
        self._publisher.put(buffer)

    def close(self) -> None:
        self._publisher.undeclare()
        self._session.close()
        self._provider = None


class _Reader(Reader):
    def __init__(self, spec: Spec, socket: str, low_latency: bool) -> None:
        import zenoh

        self._shape = spec.shape
        self._shm = spec.nbytes >= SHM_THRESHOLD
        self._session = _open([socket], [], low_latency)
        self._subscriber = self._session.declare_subscriber(
            f"{spec.name}/*", zenoh.handlers.FifoChannel(spec.depth)
        )
        self._wake = self._session.declare_publisher(
            f"{spec.name}/wake", allowed_destination=zenoh.Locality.SESSION_LOCAL
        )
        self._deadline: float | None = None
        self._closed = threading.Event()
        self._timer = threading.Thread(target=self._watch, daemon=True)
        self._timer.start()

    def _watch(self) -> None:
        while not self._closed.wait(TICK):
            deadline = self._deadline
            if deadline is not None and time.monotonic() >= deadline:
                self._wake.put(b"")

    def _wait(self, timeout: float) -> Any:
        self._deadline = deadline = time.monotonic() + timeout
        while True:
            payload = self._subscriber.recv().payload
            if payload or time.monotonic() >= deadline:
                self._deadline = None
                return payload

    def read(self, timeout: float) -> np.ndarray | None:
        sample = self._subscriber.try_recv()
        payload = sample.payload if sample is not None else None
        if not payload:
            payload = self._wait(timeout)
            if not payload:
                return None
        shared = payload.as_shm() if self._shm else None
        return np.frombuffer(bytes(shared or payload), np.uint8).reshape(self._shape)

    def close(self) -> None:
        self._closed.set()
        self._timer.join()
        self._wake.undeclare()
        self._subscriber.undeclare()
        self._session.close()


class _Zenoh(Peer):
    module = "zenoh"
    low_latency: bool

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        self._directory = tempfile.mkdtemp(prefix="zenoh-")

    def _socket(self, index: int) -> str:
        return f"unixsock-stream/{self._directory}/{index}"

    def writer(self) -> Writer:
        sockets = [self._socket(index) for index in range(self.spec.readers)]
        return _Writer(self.spec, sockets, self.low_latency)

    def reader(self, index: int) -> Reader:
        return _Reader(self.spec, self._socket(index), self.low_latency)

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


class ZenohShm(_Zenoh):
    title = "zenoh"
    low_latency = False


class ZenohLowLatency(_Zenoh):
    title = "zenoh (low latency)"
    low_latency = True
