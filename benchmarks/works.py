"""The works between processes: each takes a peer and parameters, and returns a dict of figures.

Owns: what is done with a channel, and what is counted. The loops are the same for all peers.
Does not: start processes (processes.py), choose sizes and peers (plan.py), compare (results.py).

1. No loop looks at a flag or at the clock for each message: it does so every `stride` messages,
   which grows to 256 as messages get faster, and whenever a read times out.
2. A reader counts from its first to its last message after the warm-up; start-up is not in it.
3. To `touch` a message is to read one byte of each of its pages. Of a message of less than a page
   nothing is read.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from measures import Figures, cpu_seconds, distribution, next_stride, sleeps
from peers.base import Peer, Reader, Spec, Writer
from processes import RUN, Control, Role, first_word, run, warm_up_reader, warm_up_writer

PAGE = 4096
TIMEOUT_S = 0.2  # of each read; so long after the last message a reader stops
START_S = float(
    os.environ.get("BENCH_START_S", "20")
)  # for processes to start and find each other, and as much again to end
PER_PROCESS_S = 1.0
BATCH = 64

_numbers = itertools.count(1)


@contextlib.contextmanager
def channels(kind: type[Peer], count: int = 1, **spec: Any) -> Iterator[tuple[Any, list[Peer]]]:
    """So many peers of their own names; closed, and their segments removed, whatever happens."""
    context = multiprocessing.get_context("spawn")
    opened: list[Peer] = []
    try:
        for _ in range(count):
            name = f"bench-{os.getpid()}-{next(_numbers)}"
            opened.append(kind(Spec(name=name, **spec), context))
        yield context, opened
    finally:
        for peer in opened:
            peer.close()
            for entry in os.listdir("/dev/shm"):  # what one that was killed could not remove
                if peer.spec.name in entry.replace("_", "-").split("."):
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join("/dev/shm", entry))


def limit(seconds: float, processes: int) -> float:
    return START_S + seconds + PER_PROCESS_S * processes


# ---- as fast as it goes --------------------------------------------------------------------------


def send(call: Callable[[Any], None], what: Any, each: int, seconds: float) -> Figures:
    """Calls for so many seconds; each call writes so many messages."""
    clock, stride, calls = time.perf_counter, 1, 0
    cpu, begin = cpu_seconds(), time.perf_counter()
    now = begin
    while now < begin + seconds:
        before = now
        for _ in itertools.repeat(None, stride):
            call(what)
        calls += stride
        now = clock()
        stride = next_stride(stride, now - before)
    return {"count": calls * each, "seconds": now - begin, "cpu": cpu_seconds() - cpu}


# Each takes so many messages (or batches), and tells how many came and whether the time was over.
Take = Callable[[int], tuple[int, bool]]


def taking(reader: Reader, touch: bool, batch: int) -> Take:
    read, read_many = reader.read, reader.read_many

    def each(stride: int) -> tuple[int, bool]:
        for taken in range(stride):
            if read(TIMEOUT_S) is None:
                return taken, True
        return stride, False

    def touching(stride: int) -> tuple[int, bool]:
        for taken in range(stride):
            array = read(TIMEOUT_S)
            if array is None:
                return taken, True
            array.reshape(-1)[::PAGE].sum()
        return stride, False

    def batches(stride: int) -> tuple[int, bool]:
        taken = 0
        for _ in range(stride):
            count = len(read_many(batch, TIMEOUT_S))
            if not count:
                return taken, True
            taken += count
        return taken, False

    return batches if batch else touching if touch else each


def drain(take: Take, over: Callable[[], bool]) -> Figures:
    """Takes until all is over and nothing comes any more. The rate is that between the first and
    the last look at the clock before a time-out."""
    clock, stride, count = time.perf_counter, 1, 0
    marks: list[tuple[float, int]] = []
    cpu = cpu_seconds()
    while True:
        taken, late = take(stride)
        count += taken
        if late:
            if over():
                break
            continue
        now = clock()
        if len(marks) < 2:
            marks.append((now, count))
        else:
            stride = next_stride(stride, now - marks[-1][0])
            marks[-1] = (now, count)
    elapsed, arrived = np.subtract(marks[-1], marks[0]) if len(marks) > 1 else (0, 0)
    rate = float(arrived / elapsed) if elapsed else 0.0
    return {"count": count, "rate": rate, "cpu": cpu_seconds() - cpu}


def stream_writer(peer: Peer, control: Control, index: int, seconds: float, batch: int) -> Figures:
    array = np.zeros(peer.spec.shape, np.uint8)
    with contextlib.closing(peer.writer()) as writer:
        warm_up_writer(control, writer, index, array)
        if batch:
            sent = send(writer.write_many, [array] * batch, batch, seconds)
        else:
            sent = send(writer.write, array, 1, seconds)
        control.finish(index)
    return sent


def stream_reader(peer: Peer, control: Control, index: int, touch: bool, batch: int) -> Figures:
    touch = touch and peer.spec.nbytes >= PAGE
    with contextlib.closing(peer.reader(index)) as reader:
        warm_up_reader(control, reader, index)
        found = drain(taking(reader, touch, batch), control.over)
        control.drained[index] = 1
    return found


def stream(
    kind: type[Peer],
    *,
    shape: tuple[int, ...],
    depth: int,
    readers: int = 1,
    writers: int = 1,
    seconds: float = 1.0,
    touch: bool = True,
    batch: int = 0,
    pinned: Sequence[int] | None = None,
) -> Figures:
    """Writers write as fast as they can; each reader takes all it can get."""
    cpus = itertools.cycle(pinned or [None])
    spec = {"shape": tuple(shape), "depth": depth, "readers": readers, "writers": writers}
    with channels(kind, **spec) as (context, [peer]):
        control = Control(context, writers, readers)
        roles = [
            Role(stream_writer, (peer, control, n, seconds, batch), next(cpus))
            for n in range(writers)
        ] + [
            Role(stream_reader, (peer, control, n, touch, batch), next(cpus))
            for n in range(readers)
        ]
        results, notes = run(context, roles, control, limit(seconds, len(roles)))
    wrote, read = results[:writers], results[writers:]
    written = sum(result["count"] for result in wrote)
    arrived = statistics.median(result["count"] for result in read)
    return {
        "rate": statistics.median(result["rate"] for result in read),
        "slowest": min(result["rate"] for result in read),
        "written_rate": sum(result["count"] / result["seconds"] for result in wrote),
        "lost": max(0.0, 1 - arrived / written),
        "writer_cpu_us": 1e6 * sum(result["cpu"] for result in wrote) / written,
        "reader_cpu_us": 1e6 * statistics.median(r["cpu"] / max(r["count"], 1) for r in read),
        "notes": notes,
    }


def batches(kind: type[Peer], **parameters: Any) -> Figures:
    """stream(), with write_many and read_many of 64."""
    return stream(kind, batch=BATCH, **parameters)


# ---- there and back ------------------------------------------------------------------------------


def settle(there: Writer, back: Reader, control: Control, array: np.ndarray) -> None:
    """Until an answer comes, and then until no more of them come."""
    control.ready_writers[0] = 1
    while not control.ready_readers.all():
        time.sleep(0.001)
    while back.read(0.002) is None:
        there.write(array)
    while back.read(0.05) is not None:
        pass
    control.got[0] = 1
    control.phase = RUN


def ping(there: Peer, back: Peer, control: Control, count: int) -> Figures:
    array, clock = np.zeros(there.spec.shape, np.uint8), time.perf_counter_ns
    times: list[int] = []
    lost = 0
    with (
        contextlib.closing(there.writer()) as writer,
        contextlib.closing(back.reader(0)) as reader,
    ):
        settle(writer, reader, control, array)
        write, read = writer.write, reader.read
        for _ in range(count):
            begin = clock()
            write(array)
            if read(1.0) is None:
                lost += 1
                if lost > 3:
                    break
            else:
                times.append(clock() - begin)
        control.finished[0] = 1
    return distribution(times[len(times) // 10 :]) | {"lost": lost}


def pong(there: Peer, back: Peer, control: Control) -> Figures:
    array = np.zeros(there.spec.shape, np.uint8)
    with (
        contextlib.closing(back.writer()) as writer,
        contextlib.closing(there.reader(0)) as reader,
    ):
        write, read = writer.write, reader.read
        control.ready_readers[0] = 1
        while True:
            if read(TIMEOUT_S) is not None:
                write(array)
            elif control.over():
                return {}


def round_trip(
    kind: type[Peer], *, nbytes: int, count: int, pinned: Sequence[int] | None = None
) -> Figures:
    """A message to the other process and one back; percentiles of the time for both."""
    cpus = pinned or [None, None]
    with channels(kind, 2, shape=(nbytes,), depth=8) as (context, [there, back]):
        control = Control(context, 1, 1)
        roles = [
            Role(ping, (there, back, control, count), cpus[0]),
            Role(pong, (there, back, control), cpus[1]),
        ]
        results, notes = run(context, roles, control, limit(5, 2))
    return results[0] | {"notes": notes}


# ---- how old a message is when it has been read --------------------------------------------------


def stamping_writer(peer: Peer, control: Control, seconds: float, rate: float | None) -> Figures:
    array = np.zeros(peer.spec.shape, np.uint8)
    stamp, clock = first_word(array), time.monotonic_ns
    sent = 0
    with contextlib.closing(peer.writer()) as writer:
        warm_up_writer(control, writer, 0, array)
        write, acknowledged = writer.write, control.acknowledged
        begin = time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            if rate is not None:
                time.sleep(max(begin + sent / rate - now, 0))
            else:
                while acknowledged[0] < sent and time.monotonic() < now + 1:
                    os.sched_yield()
            stamp[0] = clock()
            write(array)
            sent += 1
        control.finish(0)
    return {"sent": sent}


def ageing_reader(peer: Peer, control: Control) -> Figures:
    clock, ages = time.monotonic_ns, []
    with contextlib.closing(peer.reader(0)) as reader:
        warm_up_reader(control, reader, 0)
        read, acknowledged = reader.read, control.acknowledged
        while True:
            array = read(TIMEOUT_S)
            if array is None:
                if control.over():
                    break
                continue
            flat = array.reshape(-1)
            flat[::PAGE].sum()
            ages.append(clock() - int(flat[:8].view(np.int64)[0]))
            acknowledged[0] += 1
        control.drained[0] = 1
    return distribution(ages[len(ages) // 10 :])


def latency(
    kind: type[Peer],
    *,
    shape: tuple[int, ...],
    depth: int = 2,
    seconds: float = 1.0,
    rate: float | None = None,
    pinned: Sequence[int] | None = None,
) -> Figures:
    """The age of each message, from just before write() to after the look at its last page; so many
    per second, or (rate=None) each as soon as the one before it has been looked at."""
    cpus = pinned or [None, None]
    with channels(kind, shape=tuple(shape), depth=depth) as (context, [peer]):
        control = Control(context, 1, 1)
        roles = [
            Role(stamping_writer, (peer, control, seconds, rate), cpus[0]),
            Role(ageing_reader, (peer, control), cpus[1]),
        ]
        results, notes = run(context, roles, control, limit(seconds, 2))
    sent = results[0]["sent"]
    return results[1] | {"sent": sent, "notes": notes}


# ---- nothing to do -------------------------------------------------------------------------------


def silent_writer(peer: Peer, control: Control, seconds: float) -> Figures:
    with contextlib.closing(peer.writer()) as writer:
        warm_up_writer(control, writer, 0, np.zeros(peer.spec.shape, np.uint8))
        time.sleep(seconds)
        control.finished[0] = 1
    return {}


def waiting_reader(peer: Peer, control: Control, seconds: float) -> Figures:
    with contextlib.closing(peer.reader(0)) as reader:
        warm_up_reader(control, reader, 0)
        while control.phase != RUN:
            time.sleep(0.001)
        before, cpu, begin = sleeps(), cpu_seconds(), time.perf_counter()
        reader.read(seconds * 0.8)
        elapsed = time.perf_counter() - begin
        cost = {"cores": (cpu_seconds() - cpu) / elapsed, "wakeups": (sleeps() - before) / elapsed}
        while not control.over():
            time.sleep(0.01)
    return cost


def idle(kind: type[Peer], *, seconds: float = 1.0) -> Figures:
    """What a reader costs to which nothing is sent: cores, and times it slept, per second."""
    with channels(kind, shape=(64,), depth=8) as (context, [peer]):
        control = Control(context, 1, 1)
        roles = [
            Role(silent_writer, (peer, control, seconds)),
            Role(waiting_reader, (peer, control, seconds)),
        ]
        results, notes = run(context, roles, control, limit(seconds, 2))
    return results[1] | {"notes": notes}


WORKS: dict[str, Callable[..., Figures]] = {
    work.__name__: work for work in (stream, batches, round_trip, latency, idle)
}
