"""What shmflow set out to reach, each as a bound on something in the results.

Owns: the goals. A goal whose figures are not in the results is missing, not missed.
Of several peers (an iceoryx2 that polls and one that sleeps) the hardest to beat counts; for
frames, where who polls wins by not sleeping, each is set beside shmflow's own of the same kind.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]
Measured = Callable[[Results], float | None]

SMALL = "stream shape=64 depth=1024"
FRAMES = "stream shape=720x1280x3 depth=4"
FRAMES_4 = FRAMES + " readers=4"
FRAMES_2 = FRAMES + " writers=2"
TRIP = "round_trip nbytes=64"
TRIP_PINNED = TRIP + " pinned=True"
AGE = "latency shape=720x1280x3 depth=2"
ICEORYX2 = ("iceoryx2-events", "iceoryx2-polling")


def entry(results: Results, key: str, peer: str) -> dict[str, Any] | None:
    for found in results["figures"]:
        if found["key"] == key and found["peer"] == peer and found.get("median") is not None:
            return dict(found)
    return None


def figure(results: Results, key: str, peer: str = "shmflow") -> float | None:
    found = entry(results, key, peer)
    return None if found is None else float(found["median"])


def quotient(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def limit(results: Results, *path: str) -> float | None:
    found: Any = results["limits"]
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


# ---- what is measured ----------------------------------------------------------------------------


def against(key: str, *peers: str) -> tuple[Measured, Measured]:
    """shmflow's ratios to these: the least of them, and the greatest."""

    def ratios(results: Results) -> list[float]:
        found = (entry(results, key, peer) for peer in peers)
        return [float(one["ratio"]["median"]) for one in found if one and "ratio" in one]

    return lambda r: min(ratios(r), default=None), lambda r: max(ratios(r), default=None)


def polling(key: str) -> Measured:
    """shmflow's reader that only polls, by iceoryx2's."""
    return lambda r: quotient(figure(r, key, "shmflow-spin"), figure(r, key, "iceoryx2-polling"))


def inside(name: str, field: str = "ratio") -> Measured:
    def look(results: Results) -> float | None:
        found = [line.get(field) for line in results["inside"] if line.get("name") == name]
        return float(found[0]) if found and found[0] is not None else None

    return look


def batches_by_one(results: Results) -> float | None:
    return quotient(figure(results, SMALL.replace("stream", "batches")), figure(results, SMALL))


def two_by_one(results: Results) -> float | None:
    """What two producers wrote in all, by what one wrote."""
    both, one = entry(results, FRAMES_2, "shmflow"), entry(results, FRAMES, "shmflow")
    if both is None or one is None:
        return None
    return quotient(
        *(statistics.median(t["written_rate"] for t in e["rounds"]) for e in (both, one))
    )


def two_by_machine(results: Results) -> float | None:
    """The same, by what a second thread brings to plain copies."""
    both, one = (limit(results, f"memcpy_{n}", "bytes_per_second") for n in (2, 1))
    return quotient(two_by_one(results), quotient(both, one))


def by_futex(results: Results) -> float | None:
    seconds = limit(results, "futex", "unpinned", "median")
    return None if seconds is None else quotient(figure(results, TRIP), 1e6 * seconds)


def one_way_pinned(results: Results) -> float | None:
    return quotient(figure(results, TRIP_PINNED), 2)


def place_pinned(results: Results) -> float | None:
    """1 is first of all, of those that are not shmflow's own other forms."""
    ours = figure(results, TRIP_PINNED)
    if ours is None:
        return None
    return 1.0 + sum(
        found["key"] == TRIP_PINNED
        and not found["peer"].startswith("shmflow")
        and found.get("median", ours) < ours
        for found in results["figures"]
    )


def idle_percent(results: Results) -> float | None:
    cores = figure(results, "idle")
    return None if cores is None else 100 * cores


def idle_wakeups(results: Results) -> float | None:
    found = entry(results, "idle", "shmflow")
    return None if found is None else statistics.median(t["wakeups"] for t in found["rounds"])


# ---- goals ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    measured: Measured
    sign: str  # "<=" or ">="
    bound: float
    of: str = ""  # "× iceoryx2", "µs"

    def text(self) -> str:
        return f"{'≤' if self.sign == '<=' else '≥'} {self.bound:g} {self.of}".strip()

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.sign == "<=" else value >= self.bound


def faster(key: str, bound: float, of: str, *peers: str) -> Wanted:
    return Wanted(against(key, *peers)[0], ">=", bound, f"× {of}")


def sooner(key: str, bound: float, of: str, *peers: str) -> Wanted:
    return Wanted(against(key, *peers)[1], "<=", bound, f"× {of}")


def at_most(measured: Measured, bound: float, of: str) -> Wanted:
    return Wanted(measured, "<=", bound, of)


@dataclass(frozen=True)
class Goal:
    work: str
    wanted: tuple[Wanted, ...]


GOALS = (
    Goal("64 B write + read, one process", (at_most(inside("small"), 1.4, "× ndarray.copy()"),)),
    Goal(
        "64 B, process to process, one call per message",
        (
            faster(SMALL, 12, "iceoryx2", *ICEORYX2),
            faster(SMALL, 60, "multiprocessing.Queue", "mp-queue"),
            faster(SMALL, 6, "the ctypes ring", "ctypes-ring"),
        ),
    ),
    Goal("the same in batches", (Wanted(batches_by_one, ">=", 2, "× one by one"),)),
    Goal(
        "64 B round trip, not pinned",
        (
            sooner(TRIP, 0.3, "iceoryx2 with events", "iceoryx2-events"),
            sooner(TRIP, 0.6, "iceoryx2 polling", "iceoryx2-polling"),
            at_most(by_futex, 1, "× a bare futex ping-pong"),
        ),
    ),
    Goal(
        "64 B one way, pinned to two CPUs",
        (at_most(one_way_pinned, 0.5, "µs"), at_most(place_pinned, 1, "place among all peers")),
    ),
    Goal("720p write + read, one process", (at_most(inside("frame"), 1.08, "× np.copyto"),)),
    Goal(
        "720p frames/s, 1 reader, depth 4",
        (
            faster(FRAMES, 1.1, "iceoryx2 with events", "iceoryx2-events"),
            Wanted(polling(FRAMES), ">=", 1.1, "× iceoryx2 polling, polling"),
            faster(FRAMES, 3, "zenoh and eCAL", "zenoh", "ecal"),
            faster(FRAMES, 30, "the ctypes ring", "ctypes-ring"),
            faster(FRAMES, 80, "multiprocessing.Queue", "mp-queue"),
        ),
    ),
    Goal(
        "720p frames/s, 4 readers",
        (
            faster(FRAMES_4, 1.6, "iceoryx2", *ICEORYX2),
            faster(FRAMES_4, 35, "the ctypes ring", "ctypes-ring"),
        ),
    ),
    Goal("720p latency, depth 2", (sooner(AGE, 0.95, "iceoryx2", *ICEORYX2),)),
    Goal(
        "loan + read, 64 B … 33 MB",
        (
            at_most(inside("loan"), 1.3, "× 64 B"),
            at_most(inside("loan", "ours_us"), 2, "µs"),
        ),
    ),
    Goal(
        "write with 63 readers that do not sleep, by with 1",
        (
            at_most(inside("readers"), 1.15, "× 64 B"),
            at_most(inside("readers_frame"), 1.15, "× 720p"),
        ),
    ),
    Goal(
        "two producers of 720p by one: the one or the other",
        (
            Wanted(two_by_one, ">=", 1.5, "× in total"),
            Wanted(two_by_machine, ">=", 1, "× the machine's own for two threads' memcpy"),
        ),
    ),
    Goal(
        "first 720p frame of a new topic",
        (at_most(inside("first_frame"), 1.3, "× the steady state"),),
    ),
    Goal(
        "a reader asleep in read()",
        (at_most(idle_percent, 0.1, "% of a core"), at_most(idle_wakeups, 10, "wake-ups/s")),
    ),
    Goal(
        "1,000 topics of 1 MiB in one process",
        (
            at_most(inside("create", "ours_ms"), 2, "ms to create one"),
            at_most(inside("attach", "ours_ms"), 0.5, "ms to attach"),
            at_most(inside("attach_large", "ours_ms"), 5, "ms to attach to 1 GiB"),
        ),
    ),
)
