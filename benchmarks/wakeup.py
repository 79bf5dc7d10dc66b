"""How long a sleeping reader takes to have a message, by the way it waits, as ratios of one run.

    python benchmarks/wakeup.py [--rounds N]

Owns: the time from just before write() in one process to just after the read in another, which has
been asleep for about a millisecond, for a plain read(), for select() on fileno() and read(0), and
for `await read_async()`, on asyncio's loop and on uvloop's if it is there. Each round takes all of
them in turn; of the ratios to read() in the same round, the median is printed with its quartiles.

The way over the descriptor has one more thread to wake, and the loop has its own work to do. The
adaptive spin of read() is off: it would find a message before it fell asleep. On a machine with few
cores, or busy ones, these are the scheduler's figures more than anybody else's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

import shmflow

BATCH = 40  # messages per way and round
ASLEEP = 0.001  # seconds that the writer waits, so that the reader sleeps


def write(name: str) -> None:
    """The other process: at each byte from stdin, a message that tells when it was written."""
    with shmflow.Topic(name, "w") as topic:
        while os.read(0, 1):
            time.sleep(ASLEEP)
            topic.write(np.int64(time.monotonic_ns()))


@contextlib.contextmanager
def writer(name: str) -> Iterator[Callable[[], None]]:
    child = subprocess.Popen([sys.executable, __file__, "--write", name], stdin=subprocess.PIPE)
    assert child.stdin is not None
    fd = child.stdin.fileno()
    yield lambda: void(os.write(fd, b"."))
    child.stdin.close()
    child.wait()


def void(_: object) -> None:
    pass


def age_ns(message: np.ndarray) -> float:
    return float(time.monotonic_ns() - int(message))


def by_read(topic: shmflow.Topic, ask: Callable[[], None]) -> list[float]:
    ages = []
    for _ in range(BATCH):
        ask()
        ages.append(age_ns(topic.read()))
    return ages


def by_select(topic: shmflow.Topic, ask: Callable[[], None]) -> list[float]:
    ages: list[float] = []
    topic.fileno()
    while len(ages) < BATCH:
        ask()
        while True:
            select.select([topic], [], [])
            if (message := topic.read(0, default=None)) is not None:
                ages.append(age_ns(message))
                break
    return ages


def by_loop(topic: shmflow.Topic, ask: Callable[[], None], runner: asyncio.Runner) -> list[float]:
    async def batch() -> list[float]:
        ages = []
        for _ in range(BATCH):
            ask()
            ages.append(age_ns(await topic.read_async()))
        return ages

    return runner.run(batch())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default 15)")
    parser.add_argument("--write", metavar="TOPIC", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.write)
        return

    name = f"wakeup-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: shmflow.unlink(name))
        ask = stack.enter_context(writer(name))
        # A Topic for each way: read()'s is to have no waiting thread beside it.
        plain, selected, awaited, awaited_uv = (
            stack.enter_context(shmflow.Topic(name, "r", start="new", spin=0)) for _ in range(4)
        )
        runner = stack.enter_context(asyncio.Runner())
        ways: dict[str, tuple[shmflow.Topic, Callable[[], list[float]]]] = {
            "read()": (plain, lambda: by_read(plain, ask)),
            "select() on fileno()": (selected, lambda: by_select(selected, ask)),
            "read_async(), asyncio": (awaited, lambda: by_loop(awaited, ask, runner)),
        }
        with contextlib.suppress(ImportError):
            import uvloop

            fast = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
            ways["read_async(), uvloop"] = (awaited_uv, lambda: by_loop(awaited_uv, ask, fast))
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(max(options.rounds, 3) + 1):
            for way, (topic, run) in ways.items():
                topic.read(0.05 if turn == 0 else 0, latest=True, default=None)  # the others' ones
                median = statistics.median(run())
                if turn > 0:  # the first one warms up
                    times[way].append(median)

    print(
        f"shmflow {shmflow.__version__}, Python {platform.python_version()}, "
        f"Linux {platform.release()}, {os.cpu_count()} CPUs"
    )
    for way, ours in times.items():
        ratios = [a / b for a, b in zip(ours, times["read()"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{way:<24} {middle:5.2f}  ({low:.2f} … {high:.2f})   "
            f"{statistics.median(ours) / 1000:7.1f} us"
        )


if __name__ == "__main__":
    main()
