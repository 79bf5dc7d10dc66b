"""What shmflow costs inside one process, as ratios to what NumPy or shmflow itself costs beside it.

    python benchmarks/inside.py [--rounds N]          # make bench runs it with all the rest

Owns: the lines below. Each round times both sides in turn, so that a machine that slows down slows
both; told is the median of the rounds' ratios, with their quartiles.

    small          write + read of 64 B          : ndarray.copy() of 64 B
    small_write    write of 64 B                 : the same
    frame          write + read of a 720p frame  : np.copyto into a plain ring of as many frames
    loan           loan + read, 64 B … 33 MB     : the slowest size : the fastest
    write_many     64 B, a write() each          : 256 in one write_many()
    read_many      64 B, a list of read()        : read_many(), a list
    read_stack     64 B, a list of read()        : read_many(stack=True), one array
    readers        write of 64 B with 63 readers attached that do not sleep : with one
    readers_frame  the same for 720p
    first_frame    write + read + a look at every page of a topic's first 720p frame : of later ones
    create, attach, attach_large                 : see opening.py

They are costs of calls, in warm caches, without another process: what a message takes at least.
They say nothing about latency between processes. The process is pinned to one CPU meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import opening

import shmflow

FRAME = (720, 1280, 3)
LOANS = ((64,), (4096,), (256, 256), FRAME, (2160, 3840, 4))
DEPTH = 10
BATCH = 256
READERS = 63

Line = dict[str, Any]
Step = Callable[[int], None]  # does something so many times


def per_call(step: Step, count: int) -> float:
    """Seconds for one of `count`."""
    start = time.perf_counter()
    step(count)
    return (time.perf_counter() - start) / count


@contextmanager
def topic(**options: object) -> Iterator[shmflow.Topic]:
    with shmflow.Topic(temporary=True, **options) as opened:  # type: ignore[arg-type]
        yield opened


def line(
    name: str, text: str, ours: Sequence[float], theirs: Sequence[float], better: str = "lower"
) -> Line:
    """Of one ratio: seconds by seconds, round for round."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4)
    one, other = statistics.median(ours), statistics.median(theirs)
    told = f"{text}: {1e9 * one:,.0f} ns to {1e9 * other:,.0f} ns"
    return {"name": name, "ratio": middle, "low": low, "high": high, "text": told, "better": better}


def rounds_of(rounds: int, *steps: tuple[Step, int]) -> list[list[float]]:
    """Of each step the seconds per call in each round; the first round warms up."""
    times = [[per_call(step, count) for step, count in steps] for _ in range(rounds + 1)]
    return [list(column) for column in zip(*times[1:], strict=True)]


def small(rounds: int) -> Iterator[Line]:
    data = np.zeros(64, np.uint8)
    with topic(capacity="1 MiB") as ring:
        write, read, copy = ring.write, ring.read, data.copy

        def flow(count: int) -> None:
            for _ in range(count):
                write(data)
                read()

        def plain(count: int) -> None:
            for _ in range(count):
                copy()

        def only_write(count: int) -> None:
            for _ in range(count):
                write(data)

        def skip(_: int) -> None:
            read(latest=True, timeout=0, default=0)

        flows, copies, writes, _ = rounds_of(
            rounds, (flow, 20_000), (plain, 20_000), (only_write, 20_000), (skip, 1)
        )
    yield line("small", "64 B write + read : ndarray.copy()", flows, copies)
    yield line("small_write", "64 B write : ndarray.copy()", writes, copies)


def frame(rounds: int) -> Iterator[Line]:
    data = np.random.default_rng(1).integers(0, 255, FRAME, np.uint8)
    ring_of_arrays = [np.empty_like(data) for _ in range(DEPTH)]
    with topic(capacity=data.nbytes * (DEPTH + 2), depth=DEPTH) as ring:
        write, read = ring.write, ring.read

        def flow(count: int) -> None:
            for _ in range(count):
                write(data)
                read()

        def plain(count: int) -> None:
            for i in range(count):
                np.copyto(ring_of_arrays[i % DEPTH], data)

        flow(3 * DEPTH)
        times = rounds_of(rounds, (flow, 50), (plain, 50))
    yield line("frame", f"720p write + read : np.copyto, ring of {DEPTH}", *times)


def loan(rounds: int) -> Iterator[Line]:
    """Nobody touches the payload: what is measured is that no size is copied, cleared or mapped."""

    def cycle(ring: shmflow.Topic, shape: tuple[int, ...]) -> Step:
        def run(count: int) -> None:
            for _ in range(count):
                with ring.loan(shape) as array:
                    pass
                del array
                ring.read()

        return run

    with ExitStack() as stack:
        steps = []
        for shape in LOANS:
            size = int(np.prod(shape))
            ring = stack.enter_context(
                topic(capacity=max(size * 6, 1 << 20), max_message=size, depth=4)
            )
            steps.append((cycle(ring, shape), 5000))
            cycle(ring, shape)(50)
        times = rounds_of(rounds, *steps)
    slowest = [max(each) for each in zip(*times, strict=True)]
    fastest = [min(each) for each in zip(*times, strict=True)]
    told = line("loan", "loan + read, 64 B … 33 MB, slowest : fastest", slowest, fastest)
    yield told | {"ours_us": max(1e6 * statistics.median(each) for each in times)}


def batch(rounds: int) -> Iterator[Line]:
    rows = [np.zeros(64, np.uint8) for _ in range(BATCH)]
    with topic(capacity="4 MiB") as ring:

        def write_each(_: int) -> None:
            for row in rows:
                ring.write(row)

        def write_many(_: int) -> None:
            ring.write_many(rows)

        def read_each(_: int) -> None:
            kept = [ring.read() for _ in rows]
            del kept

        def read_many(_: int) -> None:
            ring.read_many(BATCH)

        def read_stack(_: int) -> None:
            ring.read_many(BATCH, stack=True)

        steps = (write_each, read_each, write_many, read_many, write_each, read_stack)
        times: dict[str, list[float]] = {step.__name__: [] for step in steps}
        for _ in range(rounds):
            spent = dict.fromkeys(times, 0.0)
            for _ in range(40):
                for step in steps:
                    spent[step.__name__] += per_call(step, BATCH)
            for name, seconds in spent.items():
                times[name].append(seconds / (80 if name == "write_each" else 40))
    for one, many in (
        ("write_each", "write_many"),
        ("read_each", "read_many"),
        ("read_each", "read_stack"),
    ):
        yield line(many, f"64 B {one} : {many}", times[one], times[many], better="higher")


def readers(rounds: int) -> Iterator[Line]:
    """None of them sleeps, so that nobody is woken: what is left is what their number costs."""
    for name, shape, count in (("readers", (64,), 20_000), ("readers_frame", FRAME, 50)):
        data = np.zeros(shape, np.uint8)
        size = {"capacity": max(data.nbytes * (DEPTH + 2), 1 << 20)}

        def writes(ring: shmflow.Topic, data: np.ndarray = data) -> Step:
            write = ring.write

            def run(turns: int) -> None:
                for _ in range(turns):
                    write(data)

            return run

        with ExitStack() as stack:
            steps = []
            for number in (READERS, 1):
                ring = stack.enter_context(topic(**size, depth=DEPTH))
                ring.write(data)
                for _ in range(number):
                    stack.enter_context(shmflow.Topic(ring.name, "r", create=False))
                steps.append((writes(ring), count))
            times = rounds_of(rounds, *steps)
        human = "64 B" if shape == (64,) else "720p"
        yield line(name, f"{human} write with {READERS} readers : with one", *times)


def run(rounds: int) -> list[Line]:
    """All lines."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        works = (small, frame, loan, batch, readers, opening.first_frame, opening.create_and_attach)
        return [each for work in works for each in work(max(rounds, 3))]
    finally:
        os.sched_setaffinity(0, allowed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help="rounds per ratio (default 21)")
    for each in run(parser.parse_args().rounds):
        print(
            f"{each['name']:<14}{each['ratio']:7.2f}  ({each['low']:.2f} … {each['high']:.2f})  "
            f"{each['text']}"
        )


if __name__ == "__main__":
    main()
