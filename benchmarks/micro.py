"""What a message costs inside one process, as ratios to what NumPy costs, taken in one run.

    make bench                          # or: python benchmarks/micro.py [--json FILE]

Owns: the ratios below. Each round times both sides in turn, so that a machine that slows
down slows both; the median of the rounds is printed with its spread (quartiles).

1. small   write + read of 64 B           against   ndarray.copy() of 64 B
2. frame   write + read of a 720p frame   against   np.copyto into a plain ring of as many frames
3. loan    loan + read of 33 MB           against   loan + read of 64 B
4. batch   64 B one by one                against   256 at once, per message: write : write_many,
           a list of read() : read_many, the same : read_many(stack=True)

They are costs of calls, in a warm cache, without another process: what a message takes at least.
They say nothing about latency between processes. Pin the process (taskset) and keep the machine
idle for figures that repeat.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

import shmflow

FRAME = (720, 1280, 3)
LARGE = (2160, 3840, 4)  # 33 MB
DEPTH = 10


def per_call(function: Callable[[int], None], count: int) -> float:
    """Seconds per round of `function(count)`."""
    start = time.perf_counter()
    function(count)
    return (time.perf_counter() - start) / count


@contextmanager
def topic(**options: object) -> Iterator[shmflow.Topic]:
    with shmflow.Topic(temporary=True, **options) as opened:  # type: ignore[arg-type]
        yield opened


def small(rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Write + read, copy, and write alone, of 64 B."""
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

        flow(1000)
        times = [
            (per_call(flow, 20000), per_call(plain, 20000), per_call(only_write, 20000))
            for _ in range(rounds)
            if read(latest=True, timeout=0, default=0) is not None
        ]
    flows, plains, writes = zip(*times, strict=True)
    return list(flows), list(plains), list(writes)


def frame(rounds: int) -> tuple[list[float], list[float]]:
    """Write + read of a 720p frame, and np.copyto into a ring of DEPTH arrays."""
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
        plain(3 * DEPTH)
        times = [(per_call(flow, 50), per_call(plain, 50)) for _ in range(rounds)]
    flows, plains = zip(*times, strict=True)
    return list(flows), list(plains)


def loan(rounds: int) -> tuple[list[float], list[float]]:
    """A cycle of loan and read, of 33 MB and of 64 B; nobody touches the payload."""
    size = int(np.prod(LARGE))
    with (
        topic(capacity=size * 6, max_message=size, depth=4) as large,
        topic(capacity="1 MiB") as tiny,
    ):

        def cycle(ring: shmflow.Topic, shape: tuple[int, ...], count: int) -> None:
            for _ in range(count):
                with ring.loan(shape) as array:
                    pass
                del array
                ring.read()

        cycle(large, LARGE, 50)
        cycle(tiny, (64,), 1000)
        times = [
            (
                per_call(lambda n: cycle(large, LARGE, n), 5000),
                per_call(lambda n: cycle(tiny, (64,), n), 5000),
            )
            for _ in range(rounds)
        ]
    flows, plains = zip(*times, strict=True)
    return list(flows), list(plains)


def batch(rounds: int) -> dict[str, list[float]]:
    """64 B, one by one and 256 at once: writing, and reading into a list or one array."""
    size = 256
    rows = [np.zeros(64, np.uint8) for _ in range(size)]
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
            ring.read_many(size)

        def read_stack(_: int) -> None:
            ring.read_many(size, stack=True)

        steps = (write_each, read_each, write_many, read_many, write_each, read_stack)
        times: dict[str, list[float]] = {step.__name__: [] for step in steps}
        for _ in range(rounds):
            spent = dict.fromkeys(times, 0.0)
            for _ in range(40):
                for step in steps:
                    spent[step.__name__] += per_call(step, size)
            for name, seconds in spent.items():
                times[name].append(seconds / (80 if name == "write_each" else 40))
    return times


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    each = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    quartiles = statistics.quantiles(each, n=4)
    return {"ratio": statistics.median(each), "low": quartiles[0], "high": quartiles[2]}


def show(name: str, result: dict[str, float], ours: float, theirs: float, reach: str) -> None:
    print(
        f"{name:<44} {result['ratio']:5.2f}  ({result['low']:.2f} … {result['high']:.2f})   "
        f"{ours * 1e9:>10,.0f} ns to {theirs * 1e9:>9,.0f} ns   reach {reach}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help="rounds per ratio (default 21)")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE as well")
    options = parser.parse_args()
    rounds = max(options.rounds, 3)

    print(
        f"shmflow {shmflow.__version__}, NumPy {np.__version__}, Python "
        f"{platform.python_version()}, Linux {platform.release()}, {platform.machine()}"
    )
    results = {}
    flows, copies, writes = small(rounds)
    results["small"] = ratio(flows, copies)
    show(
        "64 B write+read : ndarray.copy()",
        results["small"],
        *map(statistics.median, (flows, copies)),
        "<= 1.6",
    )
    results["small_write"] = ratio(writes, copies)
    show(
        "64 B write : ndarray.copy()",
        results["small_write"],
        *map(statistics.median, (writes, copies)),
        "-",
    )
    flows, copies = frame(rounds)
    results["frame"] = ratio(flows, copies)
    show(
        f"720p write+read : np.copyto, ring of {DEPTH}",
        results["frame"],
        *map(statistics.median, (flows, copies)),
        "<= 1.15",
    )
    large, tiny = loan(rounds)
    results["loan"] = ratio(large, tiny)
    show(
        "loan+read of 33 MB : of 64 B",
        results["loan"],
        *map(statistics.median, (large, tiny)),
        "<= 1.3",
    )
    times = batch(rounds)
    for one, many in (
        ("write_each", "write_many"),
        ("read_each", "read_many"),
        ("read_each", "read_stack"),
    ):
        results[many] = ratio(times[one], times[many])
        show(
            f"64 B {one} : {many}",
            results[many],
            *(statistics.median(times[name]) for name in (one, many)),
            "-" if many == "read_many" else ">= 2",
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    main()
