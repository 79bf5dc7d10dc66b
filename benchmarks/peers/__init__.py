"""Which peers there are, by the names that `run.py --peers` takes.

Owns: the names, where each class is, and which package brings its library.
Does not: import an adapter before it is asked for; a library that is missing costs its peer only.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass

from .base import Peer, Reader, Spec, Writer

__all__ = ["REGISTRY", "Entry", "Missing", "Peer", "Reader", "Spec", "Writer", "find", "version"]


@dataclass(frozen=True)
class Entry:
    name: str
    place: str  # "module:Class", from here if it begins with a dot
    package: str = ""  # what pip calls the library; "" for what comes with Python


REGISTRY = {
    entry.name: entry
    for entry in (
        Entry("shmflow", ".shmflow_:Shmflow", "shmflow"),
        Entry("shmflow-lossless", ".shmflow_:ShmflowLossless", "shmflow"),
        Entry("shmflow-spin", ".shmflow_:ShmflowSpin", "shmflow"),
        Entry("iceoryx2-events", ".iceoryx2_:Iceoryx2Events", "iceoryx2"),
        Entry("iceoryx2-polling", ".iceoryx2_:Iceoryx2Polling", "iceoryx2"),
        Entry("zenoh", ".zenoh_:ZenohShm", "eclipse-zenoh"),
        Entry("ecal", ".ecal_:Ecal", "eclipse-ecal"),
        Entry("pyzmq", ".pyzmq_:PyZmq", "pyzmq"),
        Entry("pynng", ".pynng_:PyNng", "pynng"),
        Entry("faster-fifo", ".faster_fifo_:FasterFifo", "faster-fifo"),
        Entry("mp-queue", ".multiprocessing_:MpQueue"),
        Entry("mp-pipe", ".multiprocessing_:MpPipe"),
        Entry("shm-semaphore", ".multiprocessing_:SharedMemorySemaphore"),
        Entry("ctypes-ring", ".ctypes_ring:CtypesRing"),
    )
}


class Missing(Exception):
    """There is no such peer here; the text says what to do about it."""


def find(name: str) -> type[Peer]:
    """The class of a registered peer, or of any "module:Class" that can be imported."""
    if name not in REGISTRY and ":" not in name:
        raise Missing(f"no peer is called {name!r}: there are {', '.join(REGISTRY)}")
    entry = REGISTRY.get(name) or Entry(name, name)
    module, _, attribute = entry.place.partition(":")
    ask = f"pip install {entry.package}" if entry.package else f"no module for {entry.place}"
    try:
        peer = getattr(importlib.import_module(module, __package__), attribute)
    except ImportError as error:
        if error.name == f"{__package__}{module}":  # the adapter itself
            raise Missing(f"there is no adapter {entry.place}") from error
        raise Missing(f"{ask} ({error})") from error
    if peer.module and importlib.util.find_spec(peer.module) is None:
        raise Missing(ask)
    return peer


def version(name: str) -> str:
    """Of the library, as its package tells it; "" where there is none."""
    entry = REGISTRY.get(name)
    if entry is None or not entry.package:
        return ""
    try:
        return importlib.metadata.version(entry.package)
    except importlib.metadata.PackageNotFoundError:
        return "?"
