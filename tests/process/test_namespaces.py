"""PID namespaces: two processes of equal number on one topic are two participants.

Owns: liveness, cleaning and the writer lock where pids say nothing, or the wrong thing.
Does not own: the same within one namespace (tests/crash).
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import missing

import shmflow

SIZE = 20_000
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]

# Inside: the first process of its namespace. It does what it is told, line by line.
MEMBER = """
import os, sys, time
import numpy as np
import shmflow

topic = shmflow.Topic(sys.argv[1])
for _ in range(int(sys.argv[2])):
    topic.write(np.full(20_000, int(sys.argv[2]), np.uint8))
view = topic.read(20, latest=True)
assert (view == int(sys.argv[2])).all()
print(os.getpid(), os.listdir("/proc").count("1"), flush=True)
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except shmflow.Error as error:
        print(type(error).__name__, flush=True)
"""

LAUNCH = """
import os, sys
command = [*sys.argv[1].split(), sys.executable, "-c", sys.argv[2], *sys.argv[3:]]
os.execvp(command[0], command)
"""


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skips where new PID namespaces are not permitted."""
    try:
        tried = subprocess.run(
            [*NAMESPACE, sys.executable, "-c", "import os; print(os.getpid())"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except FileNotFoundError:
        missing("no unshare command (util-linux)")
    if tried.returncode != 0 or tried.stdout != "1\n":
        missing(f"a new PID namespace is refused: {tried.stderr.strip()}")


class Member:
    """A process that is number 1 in a PID namespace of its own."""

    def __init__(self, child: Any):
        self.child = child
        child.expect("1 1")
        # As we see it: the only child of `unshare`.
        path = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        (self.outer_pid,) = map(int, path.read_text().split())

    def ask(self, expression: str) -> str:
        self.child.send(expression)
        return self.child.readline()

    def kill(self) -> None:
        os.kill(self.outer_pid, signal.SIGKILL)
        self.child.wait()  # unshare ends when its child has
        time.sleep(0.05)  # the last references to files go a little after the parent was told


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


@pytest.fixture
def members(
    namespaces: None, topic_name: str, spawn: Callable[..., Any]
) -> Callable[[int], Member]:
    """``members(n)``: a member that has written n messages."""

    def start(count: int) -> Member:
        return Member(spawn(LAUNCH, " ".join(NAMESPACE), MEMBER, topic_name, count))

    return start


def seen(topic: shmflow.Topic) -> list[tuple[int, bool, int, int]]:
    return sorted((p.pid, p.alive, p.written, p.held_blocks) for p in topic.participants())


SEEN = "sorted((p.pid, p.alive, p.written, p.held_blocks) for p in topic.participants())"


@pytest.mark.parametrize("cleaner", ["outside", "inside", "a newcomer inside"])
@pytest.mark.parametrize("victim", ["the older", "the younger"])
def test_two_participants_of_equal_pid_are_told_apart(
    topic_name: str, members: Callable[[int], Member], victim: str, cleaner: str
) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB"):
        pass  # it exists, and we are not in it
    with shmflow.Topic(topic_name, "monitor") as monitor:
        older, younger = members(1), members(2)
        both = [(1, True, 1, 1), (1, True, 2, 1)]
        assert seen(monitor) == both
        assert older.ask(SEEN) == younger.ask(SEEN) == str(both)
        dies, lives = (older, younger) if victim == "the older" else (younger, older)
        dead, living = (both[0], both[1]) if dies is older else (both[1], both[0])
        dies.kill()
        dead = (1, False, *dead[2:])
        until(lambda: seen(monitor) == sorted([dead, living]))
        # The same from inside, where the dead one's number is the looker's own.
        assert lives.ask(SEEN) == str(sorted([dead, living]))
        if cleaner == "outside":
            assert shmflow.clean() == 1
        elif cleaner == "inside":
            assert lives.ask("shmflow.clean()") == "1"
        else:
            members(3).kill()
            until(lambda: sum(alive for _, alive, _, _ in seen(monitor)) == 1)
            shmflow.clean()
        assert seen(monitor) == [living]
        # Its view stays what it is, and it goes on.
        value = living[2]
        write = "[topic.write(np.full(20_000, 9, np.uint8)) for _ in range(200)][-1]"
        assert int(lives.ask(write)) == monitor.head
        assert lives.ask(f"bool((view == {value}).all())") == "True"
        lives.kill()
        shmflow.clean()
        assert seen(monitor) == []
    shmflow.unlink(topic_name)


# Where the lock and the slots are in a segment: src/core/layout.h.
LOCK_OFF, PARTICIPANTS_OFF, PARTICIPANT_LEN = 320, 4096, 256


def hold_lock(file: Path, slot: int) -> None:
    """As if the participant in that slot had stopped inside the critical section."""
    with open(file, "r+b", buffering=0) as segment:
        segment.seek(PARTICIPANTS_OFF + slot * PARTICIPANT_LEN)
        (generation,) = struct.unpack("=I", segment.read(4))
        segment.seek(LOCK_OFF)
        segment.write(struct.pack("=I", (generation & 0xFFFFF) << 11 | (slot + 1)))


def test_the_lock_of_a_living_namesake_is_not_stolen_and_a_dead_ones_is(
    topic_name: str, shm_dir: Path, members: Callable[[int], Member]
) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB"):
        pass
    older, younger = members(1), members(2)
    hold_lock(shm_dir / f"shmflow.{topic_name}", 0)  # the older came first: slot 0
    assert younger.ask("topic.write(b'x', timeout=0.5)") == "Full"
    assert older.ask("topic.stats().written") == "1"
    older.kill()
    assert younger.ask("topic.write(b'x', timeout=20)") == "4"
    assert younger.ask("bool((view == 2).all())") == "True"
    younger.kill()
    shmflow.unlink(topic_name)


def test_messages_and_views_cross_namespaces(
    topic_name: str, members: Callable[[int], Member]
) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        member = members(1)
        message = topic.read_message(20)
        assert (message.writer, message.seq) == (1, 1) and (message.array == 1).all()
        member.child.send("topic.read(20)[:3].tolist()")
        topic.write(np.full(SIZE, 7, np.uint8))
        assert member.child.readline() == "[7, 7, 7]"
        member.kill()
        for _ in range(100):
            topic.write(np.full(SIZE, 8, np.uint8))
        assert (message.array == 1).all()
        del message
        topic.unlink()
