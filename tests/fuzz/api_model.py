"""The plain-Python side of fuzz_api.py: what a message is, and what its readers may have seen.

Owns: messages that follow from their tag; what threads write down of their calls; the judgement of
a round, from what all its threads wrote down.
Does not own: calls of shmflow (api_actor.py), processes (fuzz_api.py).

Calls run side by side, so there is no one model that steps with them; there is one that judges:

1. A number has one message, a message one number, whoever tells of it.
2. A reader of its own sees numbers that rise, and number = base + read + lost + skipped, with one
   base from joining (or seek) on: what is told as lost is exact. In a generation that it follows
   to, the base is such that it begins at 1.
3. What was read without an interruption was delivered: stats().read counts what came.
4. Lossless readers lose nothing (but what was evicted before they came to a generation that they
   follow to), and where all fits nobody loses anything.
5. Members of a group share: no message twice; a lossless group has all but what died with a member.
6. At the end of the stream a reader has come to the head.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SIZES = (8, 64, 704, 4088, 4096, 5000, 20_000, 40_000)  # views from 4096 on
LARGEST = max(SIZES)
RECORD = np.dtype([("a", "<u4"), ("b", ">i2"), ("c", "S2")])
ONE, MANY, LOAN = range(3)  # how it is written: loans and single ones have meta
BATCH = 40

Gen = tuple[str, int]  # a port, and how many generations it had been attached to


def tag_of(writer: int, how: int, number: int) -> int:
    return writer << 40 | how << 32 | number


def array_of(tag: int) -> np.ndarray:
    mixed = (tag * 0x9E3779B97F4A7C15) & (2**64 - 1)
    flat = np.full(SIZES[mixed >> 61] // 8, tag, "<u8")
    form = mixed >> 32 & 7
    if form == 0:
        return flat
    if form == 1:
        return flat.view("u1")
    if form == 2:
        return flat.view(RECORD)
    if form == 3:
        return flat.view("<f4").reshape(2, -1)
    if form == 4:
        return flat.view(">i2").reshape(-1, 4)
    if form == 5:
        return flat.view("S8")
    return flat.view("u1").reshape(-1, 2, 4)


def meta_of(tag: int) -> dict[str, Any]:
    return {} if tag >> 32 & 255 == MANY else {"tag": tag, "text": "x" * (tag % 50)}


class Wrong(AssertionError):
    """A promise was broken."""


def check_array(array: np.ndarray) -> int:
    """Its tag, if all of it is what its tag says."""
    data = array.tobytes()
    if len(data) < 8:
        raise Wrong(f"a message of {len(data)} bytes")
    tag = int.from_bytes(data[:8], "little")
    expected = array_of(tag)
    if (array.dtype, array.shape) != (expected.dtype, expected.shape):
        raise Wrong(f"tag {tag:#x}: {array.dtype} {array.shape}, not {expected.dtype}")
    if data != expected.tobytes():
        raise Wrong(f"tag {tag:#x}: bytes of others in it")
    return tag


@dataclass
class Read:
    """One call that gave something, and stats() after it."""

    generation: int
    epoch: int  # a seek begins the next one
    tags: list[int]
    seqs: list[int]  # empty: the call did not tell
    read: int
    lost: int
    skipped: int


@dataclass
class Port:
    """What one Topic of one thread wrote down."""

    uid: str
    group: str | None = None
    lossless: bool = False
    writes: list[tuple[int, int, int]] = field(default_factory=list)  # generation, seq, tag
    reads: list[Read] = field(default_factory=list)
    sights: list[tuple[int, int, int]] = field(default_factory=list)  # of snapshot and peek
    sought: dict[int, tuple[int, int]] = field(default_factory=dict)  # by epoch: gen, base
    cuts: int = 0  # calls that an exception of a signal handler ended
    end: Read | None = None  # stats() when it had drained the stream


@dataclass
class Round:
    """What is known of a round besides."""

    head: int | None  # at the end, if there was one generation only
    roomy: bool  # nothing can have been evicted
    killed: int  # processes, that is members at most


# ---- the judgement -----------------------------------------------------------------------------


class Judge:
    def __init__(self, ports: list[Port], known: Round) -> None:
        self.ports, self.known = ports, known
        self.found: list[str] = []
        self.parent: dict[Gen, Gen] = {}
        self.place: dict[int, tuple[Gen, int | None]] = {}
        self.tag_at: dict[tuple[Gen, int], int] = {}

    def root(self, gen: Gen) -> Gen:
        self.parent.setdefault(gen, gen)
        while self.parent[gen] != gen:
            gen = self.parent[gen]
        return gen

    def wrong(self, what: str) -> None:
        self.found.append(what)

    def judge(self) -> list[str]:
        self.number_messages()
        for port in self.ports:
            self.order(port)
            if port.group is None:
                self.count(port)
        self.groups()
        return self.found

    def told(self) -> list[tuple[Gen, int | None, int]]:
        """Everything that was said of a message: in which generation, its number, its tag."""
        found: list[tuple[Gen, int | None, int]] = []
        for port in self.ports:
            found += (((port.uid, gen), seq, tag) for gen, seq, tag in port.writes + port.sights)
            for read in port.reads:
                seqs = read.seqs or [None] * len(read.tags)
                found += (
                    ((port.uid, read.generation), *it) for it in zip(seqs, read.tags, strict=True)
                )
        return found

    def number_messages(self) -> None:
        told = self.told()
        first: dict[int, Gen] = {}
        for gen, _, tag in told:  # who tells of one message was in one generation
            self.parent[self.root(gen)] = self.root(first.setdefault(tag, gen))
        for gen, seq, tag in told:
            if seq is None:
                continue
            root = self.root(gen)
            if self.tag_at.setdefault((root, seq), tag) != tag:
                self.wrong(f"{gen}: number {seq} is {tag:#x} and {self.tag_at[root, seq]:#x}")
            if self.place.setdefault(tag, (root, seq)) != (root, seq):
                self.wrong(f"{gen}: {tag:#x} is number {seq} and {self.place[tag][1]}")

    def seq_of(self, tag: int) -> int | None:
        return self.place.get(tag, (None, None))[1]

    def order(self, port: Port) -> None:
        last: dict[tuple[int, int], int] = {}
        for read in port.reads:
            for seq in filter(None, map(self.seq_of, read.tags)):
                key = read.generation, read.epoch
                if seq <= last.get(key, 0) and not (port.group and port.sought):
                    self.wrong(f"{port.uid}: {seq} after {last[key]}")
                last[key] = seq

    def base_of(self, port: Port, read: Read, before: Read | None) -> int | None:
        """Where it must stand, if that is known: after a seek, or in a generation it came to."""
        generation, base = port.sought.get(read.epoch, (None, None))
        if generation == read.generation:
            return base
        if before is not None and before.generation < read.generation and not port.cuts:
            return -(before.read + before.lost + before.skipped)
        return None

    def count(self, port: Port) -> None:
        bases: dict[tuple[int, int], int] = {}
        delivered = may_lose = 0
        before = None
        for read in port.reads:
            delivered += len(read.tags)
            seq = self.seq_of(read.tags[-1])
            key = read.generation, read.epoch
            if seq is not None:
                base = seq - read.read - read.lost - read.skipped
                wanted = self.base_of(port, read, before)
                if bases.setdefault(key, base if wanted is None else wanted) != base:
                    self.wrong(
                        f"{port.uid}: number {seq} after read {read.read}, lost {read.lost}, "
                        f"skipped {read.skipped}: base {base}, not {bases[key]}"
                    )
            if self.known.roomy:
                may_lose = 0
            elif not port.lossless or (before.generation if before else 1) < read.generation:
                may_lose = read.lost
            before = read
            if read.read != delivered and not port.cuts:
                self.wrong(f"{port.uid}: read {read.read}, came {delivered}")
            if read.lost > may_lose:
                self.wrong(f"{port.uid}: lost {read.lost}, and none can be")
        end = port.end
        if end is not None and end.read - delivered > port.cuts * BATCH:
            self.wrong(f"{port.uid}: read {end.read}, came {delivered}, {port.cuts} cuts")
        if end is not None and self.known.head is not None:
            base = bases.get((end.generation, end.epoch), self.base_of(port, end, None))
            came_to = None if base is None else base + end.read + end.lost + end.skipped
            if came_to not in (None, self.known.head):
                self.wrong(f"{port.uid}: drained at {came_to}, the head is {self.known.head}")

    def groups(self) -> None:
        members = defaultdict(list)
        for port in self.ports:
            if port.group is not None:
                members[port.group].append(port)
        for name, ports in members.items():
            taken: dict[int, str] = {}
            for port in ports:
                for tag in (tag for read in port.reads for tag in read.tags):
                    if tag in taken:
                        self.wrong(f"group {name}: {tag:#x} to {taken[tag]} and {port.uid}")
                    taken[tag] = port.uid
            ends = [port.end for port in ports if port.end is not None]
            if self.known.head is None or len(ends) != len(ports):
                continue
            spare = BATCH * (self.known.killed + sum(port.cuts for port in ports))
            lost = sum(end.lost for end in ends)
            if lost and (ports[0].lossless or self.known.roomy):
                self.wrong(f"group {name}: lost {lost}, and none can be")
            missing = self.known.head - len(taken) - lost
            if self.known.killed and missing >= 0:
                missing = 0  # what they had taken nobody knows
            if not 0 <= missing <= spare:
                self.wrong(f"group {name}: {missing} of {self.known.head} came to nobody")
