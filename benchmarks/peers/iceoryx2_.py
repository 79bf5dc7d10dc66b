"""iceoryx2: publish-subscribe through shared memory without a broker, woken by events or polled.

The service carries slices of bytes. A writer loans a sample, copies the array into it and sends
it; a reader gets a view of that sample, given back at the next read. Settings: no safe overflow and
`RetryUntilDelivered`, so that a full subscriber (`depth` messages) holds its writer back and
nothing is lost; no history, as in the library's own benchmark; a data segment for what can be alive
at once (its subscribers hold the same messages, as the writer waits for the slowest: the depth, one
being read, one being written), not for the library's worst case; one event id. Sleeping readers
wait on an event service beside the data, notified after each send, as in the library's example of
event-based communication; notifications that nobody took yet are one.

Messages of several writers are in order by writer only. A reader that was killed while its buffer
was full holds its writers until the dead node is cleaned up.
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
import time
from collections.abc import Callable
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import numpy as np

from .base import Peer, Reader, Spec, Writer

POLLS_PER_CLOCK = 64  # looks at the buffer between two at the clock


class _Channel:
    """One node with the services of a spec; in a directory and under a prefix of its own."""

    def __init__(self, spec: Spec, root: str, prefix: str, events: bool) -> None:
        import iceoryx2 as iox2

        iox2.set_log_level(iox2.LogLevel.Fatal)
        config = iox2.config.default()
        config.global_cfg.root_path = iox2.Path.new(root)
        config.global_cfg.prefix = iox2.FileName.new(prefix)
        self.iox2 = iox2
        self.node = iox2.NodeBuilder.new().config(config).create(iox2.ServiceType.Ipc)
        nodes = spec.readers + spec.writers
        name = iox2.ServiceName.new(spec.name)
        self.data = (
            self.node.service_builder(name)
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_publishers(spec.writers)
            .max_subscribers(spec.readers)
            .max_nodes(nodes)
            .subscriber_max_buffer_size(spec.depth)
            .subscriber_max_borrowed_samples(1)
            .history_size(0)
            .enable_safe_overflow(False)
            .open_or_create()
        )
        self.events = None
        if events:
            self.events = (
                self.node.service_builder(name)
                .event()
                .max_notifiers(spec.writers)
                .max_listeners(spec.readers)
                .max_nodes(nodes)
                .event_id_max_value(0)
                .open_or_create()
            )


class _Writer(Writer):
    def __init__(self, spec: Spec, channel: _Channel) -> None:
        iox2 = channel.iox2
        self._nbytes = spec.nbytes
        self._channel = channel
        self._publisher = (
            channel.data.publisher_builder()
            .initial_max_slice_len(spec.nbytes)
            .allocation_strategy(iox2.AllocationStrategy.Static)
            .max_loaned_samples(1)
            .override_sample_preallocation(spec.depth + 2)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self._notifier = None
        self._notify: Callable[[], Any] = lambda: None
        if channel.events is not None:
            first = iox2.EventId.new(0)
            self._notifier = channel.events.notifier_builder().default_event_id(first).create()
            self._notify = self._notifier.notify

    def write(self, array: np.ndarray) -> None:
        sample = self._publisher.loan_slice_uninit(self._nbytes)
        ctypes.memmove(sample.payload_ptr, array.ctypes.data, self._nbytes)
        sample.assume_init().send()
        self._notify()

    def close(self) -> None:
        if self._notifier is not None:
            self._notifier.delete()
        self._publisher.delete()
        del self._channel


class _Reader(Reader):
    def __init__(self, spec: Spec, channel: _Channel) -> None:
        self._shape = spec.shape
        self._buffer = ctypes.c_uint8 * spec.nbytes
        self._channel = channel
        self._sample: Any = None
        self._subscriber = channel.data.subscriber_builder().buffer_size(spec.depth).create()

    def _receive(self) -> np.ndarray | None:
        sample = self._subscriber.receive()
        if sample is None:
            return None
        self._sample = sample
        memory = self._buffer.from_address(sample.payload_ptr)
        return np.ndarray(self._shape, np.uint8, memory)

    def _release(self) -> None:
        if self._sample is not None:
            self._sample.delete()
            self._sample = None

    def close(self) -> None:
        self._release()
        self._subscriber.delete()
        del self._channel


class _EventReader(_Reader):
    def __init__(self, spec: Spec, channel: _Channel) -> None:
        super().__init__(spec, channel)
        self._duration = channel.iox2.Duration.from_secs_f64
        self._listener = channel.events.listener_builder().create()

    def read(self, timeout: float) -> np.ndarray | None:
        self._release()
        array = self._receive()
        if array is not None:
            return array
        deadline = time.monotonic() + timeout
        left = timeout
        while left > 0:
            self._listener.timed_wait(self._duration(left))
            array = self._receive()
            if array is not None:
                return array
            left = deadline - time.monotonic()
        return None

    def close(self) -> None:
        self._listener.delete()
        super().close()


class _PollingReader(_Reader):
    def read(self, timeout: float) -> np.ndarray | None:
        self._release()
        array = self._receive()
        if array is not None:
            return array
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for _ in range(POLLS_PER_CLOCK):
                array = self._receive()
                if array is not None:
                    return array
        return None


class _Iceoryx2(Peer):
    module = "iceoryx2"
    zero_copy = True
    events: bool

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        super().__init__(spec, context)
        self._root = tempfile.mkdtemp(prefix="iox2-")
        self._prefix = Path(self._root).name + "_"

    def _channel(self) -> _Channel:
        return _Channel(self.spec, self._root, self._prefix, self.events)

    def writer(self) -> Writer:
        return _Writer(self.spec, self._channel())

    def close(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        for left in Path("/dev/shm").glob(self._prefix + "*"):
            left.unlink(missing_ok=True)


class Iceoryx2Events(_Iceoryx2):
    title = "iceoryx2 (events)"
    events = True

    def reader(self, index: int) -> Reader:
        return _EventReader(self.spec, self._channel())


class Iceoryx2Polling(_Iceoryx2):
    title = "iceoryx2 (polling)"
    polls = True
    events = False

    def reader(self, index: int) -> Reader:
        return _PollingReader(self.spec, self._channel())
