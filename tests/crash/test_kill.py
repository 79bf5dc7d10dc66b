"""kill -9 of readers and writers in the middle of their work: the others never notice.

Every message tells who wrote it, its number among that writer's, and its checksum, so that a torn
one, one out of order and one delivered twice are all seen. Writers and readers are killed at
whatever instruction they happen to be, many times.
"""

from __future__ import annotations

import os
import random
import signal
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest

import shmflow

CAPACITY = 2 << 20
ROUNDS = 400 if os.environ.get("SHMFLOW_LONG") == "1" else 40

# Forks a process for each line on stdin, so that a round costs no start of an interpreter.
NURSERY = """
    import ctypes, os, signal, sys, warnings, zlib
    import numpy as np
    import shmflow

    PR_SET_PDEATHSIG = 1
    libc = ctypes.CDLL(None)
    warnings.simplefilter("ignore", RuntimeWarning)  # "read() copies now": hoarders are meant to
    name = sys.argv[1]

    def write(who, sizes):
        # Message: [writer, count, size, crc of the rest] as u32, then that many bytes.
        random = np.random.default_rng(who)
        bodies = [random.integers(0, 2**32, size // 4, np.uint32) for size in sizes]
        crcs = [zlib.crc32(body) for body in bodies]
        whole = [np.concatenate([np.zeros(4, np.uint32), body]) for body in bodies]
        topic = shmflow.Topic(name, "w")
        count = 0
        while True:
            count += 1
            kind = count % len(sizes)
            head = (who, count, bodies[kind].nbytes, crcs[kind])
            if who % 2 == 1 and count % 3 == 0:
                with topic.loan(len(whole[kind]), "uint32") as a:
                    a[:4] = head
                    a[4:] = bodies[kind]
            else:
                whole[kind][:4] = head
                topic.write(whole[kind], timeout=20)

    def hoard(count):
        topic = shmflow.Topic(name, "r", max_held=1 << 30)
        held = []
        while True:
            held.append(topic.read())
            del held[:-count]

    for line in sys.stdin:
        act, *numbers = line.split()
        if act == "reap":
            os.waitpid(int(numbers[0]), 0)
            print("gone", flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # none outlives the test
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            try:
                if act == "write":
                    write(int(numbers[0]), [int(n) for n in numbers[1:]])
                else:
                    hoard(int(numbers[0]))
            finally:
                os._exit(1)
        print(pid, flush=True)
"""

# A reader that checks all it gets, and holds the last few.
READER = """
    import signal, sys, warnings, zlib
    import shmflow

    warnings.simplefilter("ignore", RuntimeWarning)
    name, hold = sys.argv[1], int(sys.argv[2])
    done = []
    signal.signal(signal.SIGTERM, lambda *_: done.append(1))
    topic = shmflow.Topic(name, "r")
    held, last, expected, seen = [], {}, None, 0

    def check(array):
        who, count, size, crc = map(int, array[:4])
        assert array.nbytes == size + 16, "torn: the size"
        assert zlib.crc32(array[4:]) == crc, "torn: the bytes"
        return who, count

    print("ready")
    while not done:
        message = topic.read_message(0.2, default=None)
        if message is None:
            continue
        who, count = check(message.array)
        assert count > last.get(who, 0), f"order: {count} of {who} after {last[who]}"
        assert expected is None or message.seq == expected + message.lost, "numbers"
        last[who], expected = count, message.seq + 1
        seen += 1
        held.append(message.array)
        if len(held) > hold:
            check(held.pop(0))
        del message
    for array in held:
        check(array)
    print("seen", seen, len(last))
    topic.close()
"""


class Nursery:
    """Processes to be killed."""

    def __init__(self, spawn: Callable, name: str) -> None:
        self.child = spawn(NURSERY, name)

    def begin(self, act: str, *numbers: int) -> int:
        self.child.send(f"{act} {' '.join(map(str, numbers))}")
        return int(self.child.readline())

    def kill(self, pid: int) -> None:
        """Back when it is gone, and the kernel has released what it held."""
        os.kill(pid, signal.SIGKILL)
        self.child.send(f"reap {pid}")
        self.child.expect("gone")


def wait_until(is_true: Callable[[], bool], what: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.0005)


def check_message(array: np.ndarray) -> int:
    who, _, size, crc = map(int, array[:4])
    assert array.nbytes == size + 16
    assert zlib.crc32(array[4:]) == crc
    return who


def check_history(name: str) -> None:
    """Whoever comes now finds whole messages without a gap."""
    with shmflow.Topic(name, "r", max_held=CAPACITY) as reader:
        last = None
        while (message := reader.read_message(0, default=None)) is not None:
            check_message(message.array)
            assert last is None or message.seq == last + 1 + message.lost
            last = message.seq
            del message
        assert last is not None


def nothing_is_left(topic: shmflow.Topic, largest: int) -> None:
    """After cleaning: no slot of the dead, nothing held, and all of the space is there."""
    shmflow.clean()
    assert all(p.alive for p in topic.participants())
    assert sum(p.held_bytes for p in topic.participants()) == 0
    # A message of main's whole size fits only where nothing is held or claimed.
    with shmflow.Topic(topic.name, "r", start="new") as reader:
        assert reader.stats().read == 0
        topic.write(np.zeros(largest, np.uint8), timeout=5)
        assert reader.read(5).nbytes == largest
        assert reader.stats().pinned == 1, "it came by the lane: main was not free"


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [[64], [60_000, 400_000], [0, 64, 3000, 9000, 70_000]],
    ids=["small", "large", "mixed"],
)
def test_writers_are_killed_in_a_tight_loop_and_nothing_is_torn(
    topic_name: str, spawn: Callable, sizes: list[int]
) -> None:
    chance = random.Random(str(sizes))
    with shmflow.Topic(topic_name, capacity=CAPACITY, max_message=CAPACITY) as topic:
        readers = [spawn(READER, topic_name, hold) for hold in (0, 3)]
        nursery = Nursery(spawn, topic_name)
        for reader in readers:
            reader.expect("ready")
        survivor = nursery.begin("write", 1000, *sizes)
        for number in range(ROUNDS):
            victim = nursery.begin("write", number, *sizes)
            wait_until(lambda pid=victim: writes(topic, pid), "the victim has written")
            time.sleep(chance.random() * 0.01)
            nursery.kill(victim)
            # The others go on: the survivor publishes more, and so do I.
            head = topic.head
            topic.write(np.array([2000 + number, 1, 0, 0], np.uint32), timeout=5)
            wait_until(lambda past=head + 3: topic.head > past, "the surviving writer goes on")
        nursery.kill(survivor)
        # The last claim of the dead may have evicted all there was: one message is there for sure.
        topic.write(np.array([3000, 1, 0, 0], np.uint32), timeout=5)
        check_history(topic_name)
        for reader in readers:
            reader.process.send_signal(signal.SIGTERM)
            kind, seen, _writers = reader.readline().split()
            assert kind == "seen" and int(seen) > 20
            reader.finish()
        nothing_is_left(topic, CAPACITY)


def writes(topic: shmflow.Topic, pid: int) -> bool:
    return any(p.pid == pid and p.written > 0 for p in topic.participants())


def holds(topic: shmflow.Topic, pid: int) -> bool:
    return any(p.pid == pid and p.held_bytes > 0 for p in topic.participants())


@pytest.mark.slow
def test_readers_are_killed_while_they_hold_and_their_space_comes_back(
    topic_name: str, spawn: Callable
) -> None:
    chance = random.Random(5)
    with shmflow.Topic(topic_name, capacity=CAPACITY, max_message=CAPACITY) as topic:
        steady = spawn(READER, topic_name, 2)
        nursery = Nursery(spawn, topic_name)
        steady.expect("ready")
        writer = nursery.begin("write", 1, 5000, 50_000, 200_000)
        for _ in range(ROUNDS):
            victims = [nursery.begin("hoard", 40) for _ in range(2)]
            for victim in victims:
                wait_until(lambda pid=victim: holds(topic, pid), "the victim holds something")
            time.sleep(chance.random() * 0.01)
            for victim in victims:
                nursery.kill(victim)
            head = topic.head
            wait_until(lambda past=head + 10: topic.head > past, "the writer goes on")
        steady.process.send_signal(signal.SIGTERM)
        kind, seen, _ = steady.readline().split()
        assert kind == "seen" and int(seen) > 50
        steady.finish()
        nursery.kill(writer)
        # Slots came back as newcomers attached: not all the dead are left.
        assert len(topic.participants()) < 8
        check_history(topic_name)
        nothing_is_left(topic, CAPACITY)


def hold_and_wait(spawn: Callable, name: str) -> object:
    child = spawn(
        """
        import sys, time
        import shmflow
        topic = shmflow.Topic(sys.argv[1], "r", max_held=1 << 30)
        held = [topic.read(0) for _ in range(topic.stats().lag)]
        print("held", topic.stats().held_bytes)
        time.sleep(100)
        """,
        name,
    )
    assert int(child.readline().split()[1]) > 0
    return child


def test_what_the_dead_held_is_taken_back_when_somebody_needs_room(
    topic_name: str, spawn: Callable
) -> None:
    block = CAPACITY // 8
    with shmflow.Topic(topic_name, "w", capacity=CAPACITY, max_message=CAPACITY) as topic:
        for _ in range(8):
            topic.write(np.ones(block, np.uint8))
        holder = hold_and_wait(spawn, topic_name)
        (participant,) = [p for p in topic.participants() if p.pid == holder.pid]
        assert participant.held_bytes == CAPACITY
        holder.kill()
        (participant,) = [p for p in topic.participants() if p.pid == holder.pid]
        assert not participant.alive and participant.held_bytes == CAPACITY
        # Main is full of what the dead held: the first goes by the lane, and cleans.
        deadline = time.monotonic() + 5
        while holder.pid in {p.pid for p in topic.participants()}:
            topic.write(np.ones(block, np.uint8), timeout=5)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        nothing_is_left(topic, CAPACITY)


def test_clean_takes_back_what_the_dead_held(topic_name: str, spawn: Callable) -> None:
    with shmflow.Topic(topic_name, "w", capacity=CAPACITY, max_message=CAPACITY) as topic:
        for _ in range(8):
            topic.write(np.ones(CAPACITY // 8, np.uint8))
        holders = [hold_and_wait(spawn, topic_name) for _ in range(3)]
        for holder in holders:
            holder.kill()
        assert sum(not p.alive for p in topic.participants()) == 3
        assert shmflow.clean() == 3
        assert shmflow.clean() == 0
        assert len(topic.participants()) == 1
        nothing_is_left(topic, CAPACITY)


def test_more_deaths_than_slots_leave_a_slot_for_everybody(
    topic_name: str, spawn: Callable
) -> None:
    """64 slots, 70 dead: the next one gets a dead one's slot."""
    with shmflow.Topic(topic_name, "w", capacity=CAPACITY, max_participants=64) as topic:
        topic.write(np.ones(9000, np.uint8))
        victim = spawn(
            """
            import sys, time
            import shmflow
            topics = [shmflow.Topic(sys.argv[1], "r") for _ in range(int(sys.argv[2]))]
            held = [topic.read(0) for topic in topics]
            print("attached")
            time.sleep(100)
            """,
            topic_name,
            63,
        )
        victim.expect("attached")
        with pytest.raises(shmflow.NoSlot):
            shmflow.Topic(topic_name, "r")
        victim.kill()
        assert sum(not p.alive for p in topic.participants()) == 63
        with shmflow.Topic(topic_name, "r") as reader:
            assert (reader.read(0) == 1).all()
            assert len(reader.participants()) == 2
