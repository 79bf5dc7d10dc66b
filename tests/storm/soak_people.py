"""Who takes part in the soak: writers, readers, holders, visitors, and what their messages are.

Owns: the content of messages and its check; each participant, from its first call to its last; the
board on which they tell how far they are.
Does not own: when they come and go, and whether the figures add up (soak.py).

A message is 1 … 8 numbers of 64 bits; the first is `count * STEP` modulo 2**64, the last that plus
their number. STEP is odd, so a count is read back by its inverse, and what is not a message gives
an impossible one. A count is the writer's number above its own count. A frame is one such number
all over.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import random
import signal
import time
import traceback
from collections.abc import Callable

import numpy as np

import shmflow

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15
INVERSE = pow(STEP, -1, 1 << 64)
WRITER_SHIFT = 32
MOST_WRITERS = 1 << 16

FRAME = (720, 1280, 3)
FRAME_LEN = 720 * 1280 * 3
HELD_FRAMES = 3
BATCH = 4000

GO, WRITERS_STOP, READERS_STOP = range(1, 4)


class Violation(Exception):
    """What must not be."""


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise Violation(what)


def decode(value: int, size: int, last: int) -> tuple[int, int]:
    """(writer, count) of a message, from its first and last numbers."""
    number = value * INVERSE & MASK
    writer, count = number >> WRITER_SHIFT, number & (1 << WRITER_SHIFT) - 1
    demand(writer < MOST_WRITERS and count > 0, f"torn: {value:#x} is no first number")
    demand(size == 1 + count % 8, f"torn: message {count} of {writer} has {size} numbers")
    if size > 1 and last != value + size & MASK:
        raise Violation(f"torn: message {count} of {writer} ends with {last:#x}")
    return writer, count


# ---- what the processes share ------------------------------------------------------------------


class Board:
    """Figures in anonymous shared memory; each row has one writer."""

    ROWS = 64

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 8 * 8 * self.ROWS)
        self.rows = np.frombuffer(self.memory, np.uint64).reshape(self.ROWS, 8)

    @property
    def phase(self) -> int:
        return int(self.rows[0, 0])

    @phase.setter
    def phase(self, phase: int) -> None:
        self.rows[0, 0] = phase


board = Board()


@dataclasses.dataclass
class Order:
    """What was last seen of each writer; the counts of one only rise."""

    last: dict[int, int] = dataclasses.field(default_factory=dict)

    def see(self, writer: int, count: int) -> int:
        """How many of this writer's were passed over."""
        passed = count - self.last.get(writer, 0) - 1
        demand(passed >= 0, f"message {count} of {writer} after {self.last.get(writer)}")
        self.last[writer] = count
        return passed


def account(topic: shmflow.Topic, row: np.ndarray, seen: int) -> None:
    """At the end of a reader that lived through: everything is read, lost or skipped."""
    stats = topic.stats()
    demand(stats.read == seen, f"stats tell {stats.read} read, they were {seen}")
    row[1], row[2], row[3] = stats.read, stats.lost, stats.skipped


# ---- the long-lived ----------------------------------------------------------------------------


def write_small(name: str, row: np.ndarray) -> None:
    topic = shmflow.Topic(name, "w")
    arrays = [np.zeros(1 + count % 8, np.uint64) for count in range(1, 9)]
    eight = [(a, memoryview(a), len(a)) for a in arrays]
    write, value, count = topic.write, 0, 0
    while board.phase < WRITERS_STOP:
        for _ in range(BATCH // 8):
            for array, numbers, size in eight:
                value = value + STEP & MASK
                numbers[-1] = value + size & MASK
                numbers[0] = value
                write(array)
        count += BATCH // 8 * 8
        row[1], row[5] = count, time.process_time_ns()
    topic.close()


def read_small(name: str, row: np.ndarray) -> None:
    """The cheapest loop there is: read() and a look at the first and last number."""
    topic = shmflow.Topic(name, "r")
    demand(topic.read(0, default=None) is None, "there is a message before the first")
    row[0] = 1
    read, expected, order, seen, missing = topic.read, STEP, Order(), 0, 0
    while True:
        for _ in range(BATCH):
            array = read(0.2, default=None)
            if array is None:
                break
            seen += 1
            numbers = array.tolist()
            if numbers[0] != expected:  # after a loss, or not the main writer's
                writer, count = decode(numbers[0], len(numbers), numbers[-1])
                passed = order.see(writer, count)
                if writer == 0:
                    missing += passed
                    demand(missing <= topic.lost, f"{missing} missing, {topic.lost} told as lost")
                    expected = (count + 1) * STEP & MASK
                continue
            if len(numbers) > 1 and numbers[-1] != expected + len(numbers) & MASK:
                raise Violation(f"torn: {numbers}")
            order.last[0] = order.last.get(0, 0) + 1
            expected = expected + STEP & MASK
        row[1], row[2], row[4] = seen, topic.lost, order.last.get(0, 0)
        row[5] = time.process_time_ns()
        if array is None and board.phase == READERS_STOP:
            break
    account(topic, row, seen)
    row[4] = order.last[0]
    topic.close()


def read_messages(name: str, row: np.ndarray, mode: str, latest: bool) -> None:
    """read_message(): each number is the last one plus what was told as passed."""
    topic = shmflow.Topic(name, mode)
    demand(topic.read(0, default=None) is None, "there is a message before the first")
    row[0] = 1
    seen, lost, skipped, seq, order, chance = 0, 0, 0, 0, Order(), random.Random(2)
    while True:
        message = topic.read_message(0.2, latest=latest, default=None)
        if message is None:
            if board.phase == READERS_STOP:
                break
            continue
        lost, skipped = lost + message.lost, skipped + message.skipped
        seq += 1 + message.lost + message.skipped
        demand(message.seq == seq, f"seq {message.seq}, {seq} was expected")
        numbers = message.array.tolist()
        writer, count = decode(numbers[0], len(numbers), numbers[-1])
        order.see(writer, count)
        demand(writer != 0 or count <= seq, f"message {count} has seq {seq}")
        seen += 1
        row[1], row[2], row[3] = seen, lost, skipped
        if latest:
            time.sleep(chance.random() / 500)
    if mode != "monitor":  # has no slot that would count for it
        account(topic, row, seen)
        demand((int(row[2]), int(row[3])) == (lost, skipped), "stats tell other losses")
    row[4] = order.last[0]
    topic.close()


def frame_value(array: np.ndarray) -> int:
    """The number that a frame has all over."""
    flat = array.reshape(-1).view(np.uint64)
    demand(bool((flat == flat[0]).all()), "a frame is torn")
    value = int(flat[0])
    number = value * INVERSE & MASK
    demand(number >> WRITER_SHIFT < MOST_WRITERS, f"a frame of {value:#x}")
    return number


def write_frames(name: str, row: np.ndarray, writer: int = 0) -> None:
    topic = shmflow.Topic(name, "w")
    frame, count, chance = np.zeros(FRAME, np.uint8), 0, random.Random(writer)
    while board.phase < WRITERS_STOP:
        count += 1
        value = ((writer << WRITER_SHIFT) + count) * STEP & MASK
        if count % 2:
            with topic.loan(FRAME) as array:
                array.reshape(-1).view(np.uint64)[:] = value
        else:
            frame.reshape(-1).view(np.uint64)[:] = value
            topic.write(frame)
        row[1] = count
        if count % 16 == 0:
            loan = topic.loan(FRAME)
            loan.array[:10] = 1  # not a frame: nobody may see it
            loan.discard()
        time.sleep(chance.random() / 25)
    topic.close()


def in_fork(act: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(60)
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    demand(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "a forked reader failed")


def hold_frames(name: str, row: np.ndarray) -> None:
    """Holds some at random, looks again before it lets go; forks now and then."""
    topic = shmflow.Topic(name, "r", max_held=HELD_FRAMES * FRAME_LEN)
    demand(topic.read(0, default=None) is None, "there is a frame before the first")
    row[0] = 1
    held: list[tuple[np.ndarray, int]] = []
    order, chance, seen, forked, seq = Order(), random.Random(3), 0, time.monotonic(), 0

    def look() -> None:
        for array, number in held:
            demand(frame_value(array) == number, f"held frame {number:#x} changed")

    def as_child() -> None:
        look()
        if (message := topic.read_message(1, default=None)) is not None:
            frame_value(message.array)
            topic.close()
        look()
        held.clear()  # nothing of the parent's: its views and pins stay

    while True:
        message = topic.read_message(0.2, default=None)
        if message is None:
            if board.phase == READERS_STOP:
                break
            continue
        seq += 1 + message.lost
        demand(message.seq == seq, f"frame {message.seq}, {seq} was expected")
        number = frame_value(message.array)
        order.see(number >> WRITER_SHIFT, number & (1 << WRITER_SHIFT) - 1)
        seen += 1
        row[1], row[2] = seen, topic.lost
        if chance.random() < 0.3:
            held.append((message.array, number))
        del message
        if len(held) > HELD_FRAMES - 1:
            look()
            del held[chance.randrange(len(held))]
        if time.monotonic() - forked > 3:
            in_fork(as_child)
            forked = time.monotonic()
            row[4] += 1
    look()
    held.clear()
    account(topic, row, seen)
    topic.close()


# ---- the short-lived: they end by SIGKILL, or leave after a while ------------------------------


def visit_small(name: str, writer: int, until: float) -> None:
    if writer % 2:
        topic, count = shmflow.Topic(name, "w"), 0
        while time.monotonic() < until:
            for _ in range(200):
                count += 1
                value = ((writer << WRITER_SHIFT) + count) * STEP & MASK
                array = np.zeros(1 + count % 8, np.uint64)
                array[-1] = value + len(array) & MASK
                array[0] = value
                topic.write(array)
            time.sleep(0.002)
    else:
        topic, order = shmflow.Topic(name, "r"), Order()
        while time.monotonic() < until:
            if (array := topic.read(0.1, copy=True, default=None)) is not None:
                order.see(*decode(int(array[0]), len(array), int(array[-1])))
    topic.close()


def visit_frames(name: str, writer: int, until: float) -> None:
    if writer % 2:
        topic = shmflow.Topic(name, "w")
        with topic.loan(FRAME) as array:
            array.reshape(-1).view(np.uint64)[:] = ((writer << WRITER_SHIFT) + 1) * STEP & MASK
            time.sleep(max(0.0, until - time.monotonic()))
    else:
        topic, held = shmflow.Topic(name, "r"), []
        while time.monotonic() < until:
            if (array := topic.read(0.1, latest=True, default=None)) is not None:
                held.append((array, frame_value(array)))
                del held[:-2]
        demand(all(frame_value(a) == number for a, number in held), "a held frame changed")
        held.clear()
    topic.close()


# ---- before and after ----


def make_topics() -> None:
    shmflow.Topic("small", "w", capacity="8 MiB", depth=65535).close()
    # Few enough that at times all are held: then writers use the lane, and clean up the dead.
    shmflow.Topic("frames", "w", capacity=6 * FRAME_LEN, max_message=FRAME_LEN).close()


def tell_what_is_left(name: str, pipe: int) -> None:
    """The topic's head. Nobody is attached, and after cleaning nothing is held."""
    topic = shmflow.Topic(name, "rw", create=False)
    until = time.monotonic() + 10
    while len(people := topic.participants()) > 1 and time.monotonic() < until:
        time.sleep(0.01)  # the last references to files go a little after the parent was told
        shmflow.clean()
    demand(len(people) <= 1, f"{people} are there still")
    os.write(pipe, str(topic.head).encode())
    topic.close()
