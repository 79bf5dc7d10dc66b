"""What is measured: the works with their parameters, in full and in quick form.

Owns: sizes, depths, numbers of readers, how often each is repeated and for whom.
Does not: measure. `HIGHER` and `primary()` say which figure of a work stands for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.base import Peer

HD = (720, 1280, 3)
UHD = (2160, 3840, 4)
# Of one message; the depth lets small ones flow and keeps large ones within a few hundred MB.
SIZES: dict[tuple[int, ...], int] = {(64,): 1024, (4096,): 256, (256, 256): 64, HD: 4, UHD: 4}
READERS = (4, 16, 64)
MANY = 16  # readers; from here on, one round: to spawn so many takes longer than to measure

PRIMARY = {"stream": "rate", "batches": "rate", "round_trip": "p50", "latency": "p50"}
UNITS = {"rate": "messages/s", "p50": "us", "cores": "cores"}
HIGHER = {"rate"}  # the more the better


def primary(work: str) -> str:
    return PRIMARY.get(work, "cores")


def size_of(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def human(nbytes: int) -> str:
    if nbytes < 1e6:
        return f"{nbytes} B" if nbytes % 1024 else f"{nbytes // 1024} KiB"
    return f"{nbytes / 1e6:.1f} MB"


@dataclass(frozen=True)
class Job:
    work: str
    parameters: dict[str, Any] = field(default_factory=dict)
    rounds: int = 1_000_000  # at most
    only: str = ""  # peers whose names begin so

    @property
    def key(self) -> str:
        """The same for the same work in another run, whatever it took in seconds."""
        told = {k: v for k, v in self.parameters.items() if k not in ("seconds", "count")}
        if told.get("pinned"):
            told["pinned"] = True
        words = (
            f"{k}={'x'.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in told.items()
        )
        return " ".join((self.work, *words))

    def unfit(self, name: str, peer: type[Peer]) -> str:
        """Why a peer is left out; "" if it is not."""
        p = self.parameters
        nbytes = p.get("nbytes") or size_of(p.get("shape", (64,)))
        if not name.startswith(self.only):
            return f"for {self.only} only"
        if p.get("readers", 1) > peer.max_readers:
            return f"has at most {peer.max_readers} readers"
        if nbytes > peer.max_bytes:
            return f"has messages of at most {human(peer.max_bytes)}"
        if self.work == "batches" and not peer.batches:
            return "has no batches"
        return ""


def two_cpus() -> tuple[int, int] | None:
    """Two of those that this process may use, of two cores if there are two; None with one CPU."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None
    first, topology = allowed[0], "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        lists = {cpu: Path(topology.format(cpu)).read_text() for cpu in allowed}
    except OSError:
        return first, allowed[1]
    others = [cpu for cpu in allowed[1:] if lists[cpu] != lists[first]]
    return first, (others or allowed[1:])[0]


def jobs(quick: bool, seconds: float) -> list[Job]:
    found = []

    def add(work: str, rounds: int = 1_000_000, only: str = "", **parameters: Any) -> None:
        found.append(Job(work, parameters, rounds, only))

    for shape, depth in SIZES.items():
        if not quick or shape in ((64,), HD):
            add("stream", shape=shape, depth=depth, seconds=seconds)
    add("batches", shape=(64,), depth=SIZES[(64,)], seconds=seconds)
    add("round_trip", nbytes=64, count=int(20_000 * seconds))
    if not quick and (pair := two_cpus()):
        add("round_trip", nbytes=64, count=int(20_000 * seconds), pinned=pair)
    add("latency", shape=HD, depth=2, seconds=seconds)
    if quick:
        return found
    add("latency", shape=HD, depth=2, rate=200, seconds=2 * seconds)
    add("stream", shape=HD, depth=SIZES[HD], writers=2, seconds=seconds, only="shmflow")
    add("idle", rounds=1, seconds=2.0)
    for readers in READERS:
        rounds = 1 if readers >= MANY else 1_000_000
        for shape in ((64,), HD):
            add("stream", rounds, shape=shape, depth=SIZES[shape], readers=readers, seconds=seconds)
    return found
