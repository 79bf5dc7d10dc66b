"""What a peer has to offer to be measured: a writer, a reader, and a receive that blocks.

Owns: the interface between the works (which know no peer) and the peers (which know no work).
Does not: start processes, take times, or choose sizes; those are the runner's.

A peer is made once in the runner, before any process, and pickled to each of them (spawned, never
forked: several of the libraries measured do not outlive a fork). What must be inherited, such as a
multiprocessing.Queue, is made in its constructor. The rest is opened in `writer()` or `reader()`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Spec:
    """One channel: arrays of one shape go from one or more writers to each of `readers`."""

    name: str  # unique on this machine, of [a-z0-9-]; for files, services, topics
    shape: tuple[int, ...]  # of uint8
    depth: int  # messages the channel may hold; at least what a peer needs for its best
    readers: int = 1
    writers: int = 1

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape))


class Writer(ABC):
    @abstractmethod
    def write(self, array: np.ndarray) -> None:
        """Sends a C-contiguous array of the spec's shape. Blocks where the peer has back-pressure
        and its channel is full; drops as the peer drops where it has none. The array is the
        caller's again when this returns."""

    def write_many(self, arrays: Sequence[np.ndarray]) -> None:
        """The peer's own way to send several in one call; only where `Peer.batches` is true."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - most have something to do here, some have not
        pass


class Reader(ABC):
    @abstractmethod
    def read(self, timeout: float) -> np.ndarray | None:
        """The next message, in order, as an array of the spec's shape; None after `timeout`
        seconds. What it returned last may be invalid at the next read: whoever keeps, copies."""

    def read_many(self, limit: int, timeout: float) -> Sequence[np.ndarray]:
        """Up to `limit` messages that are there, waiting only for the first; as `write_many`."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - as above
        pass


class Peer(ABC):
    title: ClassVar[str]  # as in tables, "iceoryx2 (events)"
    module: ClassVar[str]  # what must be importable, and whose version is told; "" for none
    batches: ClassVar[bool] = False
    zero_copy: ClassVar[bool] = False  # the reader sees the writer's memory, for the tables
    lossy: ClassVar[bool] = False  # a full channel drops instead of blocking; told in the tables
    polls: ClassVar[bool] = False  # its reader burns a core while it waits; told in the tables
    max_readers: ClassVar[int] = 64
    max_bytes: ClassVar[int] = 1 << 30  # of one message

    def __init__(self, spec: Spec, context: SpawnContext) -> None:
        self.spec = spec

    @abstractmethod
    def writer(self) -> Writer: ...

    @abstractmethod
    def reader(self, index: int) -> Reader:
        """`index`: 0 … spec.readers - 1."""

    def close(self) -> None:  # noqa: B027 - as above
        """In the runner, at the end: whatever would stay behind (segments, files, semaphores)."""
