"""What ``shmflow bench`` measures: short works, alone and between two processes.

Owns the works, their temporary topics and their child processes (spawned, ended in any case). Each
work takes the seconds that it may last and gives plain figures; the picture is drawn in bench.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

import shmflow
from shmflow.cli.watch import Watch

SMALL, FRAME = (64,), (720, 1280, 3)  # bytes
PATIENCE = 30.0  # seconds, for a child to start
ROUND = 0.02  # seconds of one kind of work before it is the other's turn
WATCHED_TOPICS = 10
TURN = 0.25  # seconds, with one look in it or none: four per second, as `shmflow top` does
LATENCY_HZ = 60.0  # of frames whose latency is measured


@dataclass
class Figures:
    """What a work found: seconds per message, for each thing it measured; and ratios, one for each
    time that two things took turns."""

    seconds: dict[str, float] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)  # s, of single messages
    ratios: dict[str, list[float]] = field(default_factory=dict)


def median(values: list[float]) -> float:
    return float(np.median(values))


# ---- in one process ------------------------------------------------------------------------------


def in_turns(works: Mapping[str, Callable[[int], None]], seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each, in rounds that take turns, so that a disturbance hits all."""
    counts, times = {}, {name: list[float]() for name in works}
    for name, work in works.items():
        count = 1
        while (took := timed(work, count)) < ROUND / 4:
            count *= 2
        counts[name] = max(1, int(count * ROUND / took))
    end = time.monotonic() + seconds
    while time.monotonic() < end or not all(times.values()):
        for name, work in works.items():
            times[name].append(timed(work, counts[name]) / counts[name])
    return times


def timed(work: Callable[[int], None], count: int) -> float:
    began = time.perf_counter()
    work(count)
    return max(time.perf_counter() - began, 1e-9)


def alone(seconds: float) -> Figures:
    """write and read in one process, against what NumPy needs to copy as much."""
    small, frame = np.ones(SMALL, np.uint8), np.ones(FRAME, np.uint8)
    ring = [np.ones(FRAME, np.uint8) for _ in range(8)]
    with (
        shmflow.Topic(name_of("small"), capacity="1 MiB", temporary=True) as letters,
        shmflow.Topic(name_of("frame"), capacity=8 * frame.nbytes, temporary=True) as frames,
    ):

        def copy(count: int) -> None:
            for _ in range(count):
                small.copy()

        def letter(count: int) -> None:
            write, read = letters.write, letters.read
            for _ in range(count):
                write(small)
                read()

        def copyto(count: int) -> None:
            for i in range(count):
                np.copyto(ring[i % 8], frame)

        def picture(count: int) -> None:
            write, read = frames.write, frames.read
            for _ in range(count):
                write(frame)
                read()

        works = {
            "64 B ndarray.copy()": copy,
            "64 B write + read": letter,
            "720p np.copyto": copyto,
            "720p write + read": picture,
        }
        times = in_turns(works, seconds)
    names = list(works)
    ratios = {
        f"{names[i + 1]} / {names[i]}": [
            b / a for a, b in zip(times[names[i]], times[names[i + 1]], strict=True)
        ]
        for i in (0, 2)
    }
    return Figures({name: median(values) for name, values in times.items()}, {}, ratios)


# ---- between two processes -----------------------------------------------------------------------


def name_of(part: str) -> str:
    """The name of one of the topics of this run; the same in its children."""
    parent = multiprocessing.parent_process()
    return f"bench-{parent.pid if parent else os.getpid()}/{part}"


def orphaned() -> bool:
    parent = multiprocessing.parent_process()
    return parent is None or parent.pid != os.getppid()


def serve(work: Callable[..., None], pipe: Connection, *arguments: Any) -> None:
    """Run in a child: the end of the stream ends the work."""
    with contextlib.suppress(shmflow.Closed, EOFError, BrokenPipeError):
        try:
            work(pipe, *arguments)
        except shmflow.Closed:
            raise
        except shmflow.Error as error:
            pipe.send(error)


@contextlib.contextmanager
def child(work: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """A process that runs the work until the block ends; gives the parent's end of its pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(work, theirs, *arguments), daemon=True)
    resource_tracker.ensure_running()  # now: its start would unblock the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child inherits it, from birth:
    try:  # Ctrl-C is the parent's
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(1.0)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def awaited(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE):
        raise RuntimeError(f"a child process did not answer within {PATIENCE:.0f} s")
    try:
        answer = pipe.recv()
    except EOFError:
        raise RuntimeError("a child process ended before it was done") from None
    if isinstance(answer, Exception):
        raise RuntimeError(f"in a child process: {answer}")
    return answer


def pour(pipe: Connection, shape: tuple[int, ...]) -> None:
    """A child: writes as fast as it can, until the stream is shut down."""
    message = np.ones(shape, np.uint8)
    with shmflow.Topic(name_of("stream"), "w", create=False) as topic:
        pipe.send("ready")
        while not orphaned():
            for _ in range(64):
                topic.write(message, timeout=PATIENCE)


def stream(shape: tuple[int, ...], seconds: float) -> float:
    """Seconds per message of a stream to a lossless reader."""
    size = int(np.prod(shape))
    with shmflow.Topic(
        name_of("stream"), capacity=max(1 << 20, 8 * size), temporary=True, lossless=True
    ) as topic:
        topic.read(timeout=0, default=None)  # it reads: writers wait for it from here on
        with child(pour, shape) as pipe:
            awaited(pipe)
            count, began = 0, time.perf_counter()
            while (took := time.perf_counter() - began) < seconds or count == 0:
                for _ in range(16):
                    topic.read(timeout=PATIENCE)
                count += 16
            topic.shutdown()
    return took / count


def reflect(pipe: Connection) -> None:
    """A child: sends back what comes."""
    with (
        shmflow.Topic(name_of("there"), "r", create=False) as there,
        shmflow.Topic(name_of("back"), "w", create=False) as back,
    ):
        pipe.send("ready")
        while not orphaned():
            back.write(there.read(timeout=PATIENCE))


def round_trips(seconds: float) -> list[float]:
    """Seconds of each of many 64 B messages there and back."""
    message = np.ones(SMALL, np.uint8)
    with (
        shmflow.Topic(name_of("there"), capacity="1 MiB", temporary=True) as there,
        shmflow.Topic(name_of("back"), capacity="1 MiB", temporary=True) as back,
        child(reflect) as pipe,
    ):
        awaited(pipe)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end or not times:
            there.write(message)
            back.read(timeout=PATIENCE)
            times.append(time.perf_counter() - began)
        there.shutdown()
    return times


def film(pipe: Connection, hz: float) -> None:
    """A child: publishes frames at a steady pace, each with the time at which it was finished."""
    with shmflow.Topic(name_of("film"), "w", create=False) as topic:
        pipe.send("ready")
        while not orphaned():
            with topic.loan(FRAME) as frame:
                frame[...] = 1
                frame.data.cast("B")[:8] = time.monotonic_ns().to_bytes(8, "little")
            time.sleep(1 / hz)


def latencies(seconds: float) -> list[float]:
    """Seconds from the end of drawing a 720p frame until its reader has it."""
    size = int(np.prod(FRAME))
    with (
        shmflow.Topic(name_of("film"), capacity=8 * size, temporary=True) as topic,
        child(film, LATENCY_HZ) as pipe,
    ):
        awaited(pipe)
        times: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end or not times:
            frame = topic.read(timeout=PATIENCE)
            now = time.monotonic_ns()
            times.append((now - int.from_bytes(frame.data.cast("B")[:8], "little")) / 1e9)
            del frame
        topic.shutdown()
    return times


def small_between(seconds: float) -> Figures:
    per_message = stream(SMALL, seconds / 2)
    times = round_trips(seconds / 2)
    return Figures({"64 B stream": per_message}, {"64 B round trip": times})


def frames_between(seconds: float) -> Figures:
    per_message = stream(FRAME, seconds / 2)
    times = latencies(seconds / 2)
    return Figures({"720p stream": per_message}, {"720p latency": times})


# ---- what watching costs -------------------------------------------------------------------------


def write_in_turns(pipe: Connection, shape: tuple[int, ...]) -> None:
    """A child: writes to all the topics in turn for as long as it is told, again and again; answers
    with its CPU seconds per message."""
    message = np.ones(shape, np.uint8)
    with contextlib.ExitStack() as stack:
        topics = [
            stack.enter_context(shmflow.Topic(name_of(f"watched{i}"), "w", create=False))
            for i in range(WATCHED_TOPICS)
        ]
        pipe.send("ready")
        while (seconds := pipe.recv()) > 0:
            count, began = 0, time.process_time()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for topic in topics:
                    topic.write(message)
                count += len(topics)
            pipe.send((time.process_time() - began) / count)


def watching(shape: tuple[int, ...], seconds: float) -> tuple[float, list[float]]:
    """CPU seconds per message of a writer whose topics nobody watches, and how many times that it
    costs while they are watched, for each time that the two took turns."""
    size = int(np.prod(shape))
    names = [name_of(f"watched{i}") for i in range(WATCHED_TOPICS)]
    calm: list[float] = []
    ratios: list[float] = []
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(
                shmflow.Topic(
                    name,
                    "w",
                    capacity=max(1 << 20, 2 * size),
                    max_message=max(1 << 18, size),
                    temporary=True,
                )
            )
        pipe = stack.enter_context(child(write_in_turns, shape))
        awaited(pipe)
        end = time.monotonic() + seconds
        watched_first = False
        while not ratios or time.monotonic() + 2 * TURN < end:
            cost = {}
            for watched in (watched_first, not watched_first):
                cost[watched] = one_turn(pipe, names if watched else [])
            watched_first = not watched_first
            calm.append(cost[False])
            ratios.append(cost[True] / cost[False])
        pipe.send(0)
    return median(calm), ratios


def one_turn(pipe: Connection, names: list[str]) -> float:
    """CPU seconds per message of the writer, while these topics are watched."""
    with Watch(names) as watch:
        watch.flows()  # opens the monitors, before it counts
        pipe.send(TURN)
        if not pipe.poll(TURN / 2):
            watch.flows()
        return float(awaited(pipe))


def watch_small(seconds: float) -> Figures:
    cost, ratios = watching(SMALL, seconds)
    return Figures({"64 B write, CPU": cost}, {}, {"64 B write, watched / not": ratios})


def watch_frames(seconds: float) -> Figures:
    cost, ratios = watching(FRAME, seconds)
    return Figures({"720p write, CPU": cost}, {}, {"720p write, watched / not": ratios})


WORKS: dict[str, tuple[float, Callable[[float], Figures]]] = {  # share of the time
    "one process, against copies": (0.14, alone),
    "64 B between two processes": (0.16, small_between),
    "720p between two processes": (0.16, frames_between),
    "64 B, ten topics watched": (0.27, watch_small),
    "720p, ten topics watched": (0.27, watch_frames),
}
