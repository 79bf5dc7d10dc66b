"""No public call leaks: no reference, no block of memory, no fd, no mapping; errors included.

Owns: what must not grow when each call of a table is made a few hundred times.
Does not own: the table (leak_table.py), what the calls do, or what they leave when memory runs out
(test_out_of_memory.py).

A call is repeated in rounds. What a round adds may be noise (a cache that fills, an arena of the
allocator); what *every* round adds, at least once per two calls, is a leak. Counted are the
blocks of Python's allocator, the bytes in use of the C library's, fds, mappings, and the
references of objects that live for ever (a lost reference to None or to a dtype allocates
nothing). The arguments name their dtypes: some NumPys lose a reference of float64 with each
np.empty(n).
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from compiled import SANITIZED
from leak_table import CALLS, FRAME, World

import shmflow

CALLS_A_ROUND, ROUNDS = 24, 4


class Mallinfo(ctypes.Structure):
    """struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
        )
    ]


def c_bytes() -> int:
    """Bytes in use by malloc, where the C library can tell."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return 0
    mallinfo.restype = Mallinfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


@pytest.fixture
def world(topic_name: str) -> Iterator[World]:
    world = World(topic_name)
    yield world
    world.close()


# The interpreter's cache of attribute names keeps the last few thousand that were looked up.
clear_caches = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache


def measure(world: World) -> dict[str, int]:
    gc.collect()
    clear_caches()
    found = {f"references to {i}": sys.getrefcount(x) for i, x in enumerate(world.immortal)}
    found["fds"] = len(os.listdir("/proc/self/fd"))
    with open("/proc/self/maps", "rb") as maps:
        found["mappings"] = sum(b"shmflow" in line for line in maps)
    found["C bytes"] = c_bytes()
    found["blocks"] = sys.getallocatedblocks()
    return found


def grown(world: World, call: Callable[[World], Any]) -> dict[str, int]:
    """What every round added, per round, where that is one for two calls or more."""
    for _ in range(CALLS_A_ROUND):
        call(world)
    least: dict[str, int] = {}
    before = measure(world)
    for turn in range(ROUNDS):
        for _ in range(CALLS_A_ROUND):
            call(world)
        after = measure(world)
        for what, count in after.items():
            more = count - before[what]
            least[what] = more if turn == 0 else min(more, least[what])
        before = after
    smallest = {"C bytes": 16 * CALLS_A_ROUND}  # the least that malloc gives
    return {w: n for w, n in least.items() if n >= smallest.get(w, CALLS_A_ROUND // 2)}


GROUPS = sorted({name.split()[0] for name in CALLS if name.split()[0][0] in "wrmlT"})


def group_of(name: str) -> str:
    first = name.split()[0]
    return first if first in GROUPS else "others"


@pytest.mark.parametrize("group", [*GROUPS, "others"])
def test_calls_leak_nothing(world: World, group: str) -> None:
    leaks = {}
    for name, call in CALLS.items():
        if group_of(name) != group:
            continue
        for _ in range(5):  # a leak leaks each time; noise settles
            found = grown(world, call)
            if not found:
                break
        for what, count in found.items():
            if " to " in what:
                what = f"references to {world.immortal[int(what.split()[-1])]!r}"
            leaks[name, what] = count
    assert leaks == {}


def test_every_public_call_is_in_the_table() -> None:
    text = " ".join(CALLS)
    public = [n for n in dir(shmflow.Topic) if not n.startswith("_")]
    facts = {n for n in public if not callable(getattr(shmflow.Topic, n))}
    for name in {*public, "topics", "clean", "get_include", "wait"} - facts - {"shutdown", "close"}:
        assert name in text, name


LEAKS: dict[str, Callable[[World, list[Any]], Any]] = {
    "a block": lambda w, kept: kept.append(object()),
    "a reference": lambda w, kept: ctypes.pythonapi.Py_IncRef(ctypes.py_object(w.out)),
    "memory of the C library": lambda w, kept: ctypes.CDLL(None).malloc(24),
    "a view": lambda w, kept: kept.append(w.write_read(FRAME, timeout=5)),
    "a file": lambda w, kept: kept.append(os.open("/dev/null", os.O_RDONLY)),
}


@pytest.mark.skipif(SANITIZED, reason="a sanitizer's heap is not CPython's, nor the C library's")
@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.may_leak("it leaks on purpose, to be found out")
def test_a_leak_is_found(world: World, leak: str) -> None:
    kept: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert grown(world, lambda w: LEAKS[leak](w, kept)) != {}
    for one in kept:
        if isinstance(one, int):
            os.close(one)
