"""The end of a process, in every way it can come: its status is the expected one, stderr has
nothing but what is expected, nothing is left behind, and the others go on.

Owns: a table of endings; Ctrl-C and SIGTERM in every call that waits; what atexit handlers may
do; subinterpreters.
Does not own: kill -9 at any store (tests/crash), children by fork (test_fork_family.py).
"""

from __future__ import annotations

import os
import re
import signal
import struct
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import shmflow

SIZE = 20_000
QUARTER = 256 * 1024

BEGIN = """
import atexit, gc, os, resource, signal, sys, threading, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def late():
    # Registered first, so it runs last: when the package's own exit handler has run.
    if LATE:
        LATE[0]()
LATE = []
atexit.register(late)
import numpy as np
import shmflow

def frame(value, size=20_000):
    return np.full(size, value % 256, np.uint8)

name = sys.argv[1]
topic = shmflow.Topic(name, max_held="1 MiB")
assert topic.write(frame(1)) == 1
view = topic.read(0)
topic.write(frame(2))
"""


class Ending(NamedTuple):
    """What a process does after BEGIN; its status; a pattern for all of its stderr; how many
    messages there are afterwards (None: that depends)."""

    script: str
    status: int = 0
    stderr: str = ""
    head: int | None = 2


TRACEBACK = r"Traceback \(most recent call last\):\n(  .*\n)*"

ENDINGS = {
    "views in module globals": Ending("part = view[5:10]; copy = topic.read(0, copy=True)"),
    "views in a module of the standard library": Ending("sys.kept = os.kept = view"),
    "views in cycles that nobody collects": Ending(
        """
        gc.disable()
        class Node: pass
        node = Node()
        node.me, node.view, node.topic, node.loan = node, view, topic, topic.loan(20_000)
        node.messages = topic.messages()
        del node, view, topic
        """
    ),
    "a finalizer that looks at its view": Ending(
        """
        class Node:
            def __init__(self): self.view, self.me, self.write = topic.read(0), self, os.write
            def __del__(self):
                if not (self.view == 2).all(): self.write(2, b"the view has changed")
        node = sys.node = Node()
        """
    ),
    "del topic, views stay": Ending("del topic; gc.collect(); assert (view == 1).all()"),
    "an open iterator": Ending("for message in topic.messages(): break"),
    "an open loan in the ring": Ending("loan = topic.loan(20_000); assert loan.in_ring"),
    "an open private loan": Ending("loan = topic.loan(20); array = loan.array"),
    "the array of a loan that was published": Ending(
        "loan = topic.loan(20_000); array = loan.array; loan.publish()", head=3
    ),
    "sys.exit in the block of a loan": Ending(
        "with topic.loan(20_000) as array:\n    array[:] = 9\n    sys.exit(3)", 3
    ),
    "an exception in the block of a loan": Ending(
        "with topic.loan(20_000) as array:\n    raise KeyError('meant')",
        1,
        TRACEBACK + r"KeyError: 'meant'\n",
    ),
    "os._exit in the block of a loan": Ending("with topic.loan(20_000):\n    os._exit(4)", 4),
    "os._exit": Ending("os._exit(5)", 5),
    "an exception nobody catches": Ending(
        "raise ValueError('meant')", 1, TRACEBACK + r"ValueError: meant\n"
    ),
    "an error of ours nobody catches": Ending(
        "topic.read(0); topic.read(0)",
        1,
        TRACEBACK + r"shmflow\.Empty: no message on '.*' in 0 s; .*\n",
    ),
    "abort": Ending("import faulthandler; faulthandler.disable(); os.abort()", -signal.SIGABRT, ""),
    "SIGTERM": Ending("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "SIGINT": Ending(
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
        -signal.SIGINT,
        TRACEBACK + r"KeyboardInterrupt\n",
    ),
    "a thread that is blocked in read until main closes": Ending(
        """
        def act():
            try:
                topic.read(60); topic.read(60)
            except shmflow.Closed:
                pass
        threading.Thread(target=act).start()
        time.sleep(0.05)
        topic.close()
        """
    ),
    "a thread that reads on after main has ended": Ending(
        """
        reader = shmflow.Topic(name, "r", start="new")
        threading.Thread(target=lambda: reader.read(0.3, default=None)).start()
        """
    ),
    "a thread that writes on after main has ended": Ending(
        "threading.Thread(target=lambda: [topic.write(frame(i)) for i in range(300)]).start()",
        head=302,
    ),
    "daemon threads that write": Ending(
        """
        def act(size):
            with shmflow.Topic(name, "w") as own:
                while True: own.write(frame(7, size))
        for size in (10, 10, 20_000, 200_000):
            threading.Thread(target=act, args=(size,), daemon=True).start()
        time.sleep(0.05)
        """,
        head=None,
    ),
    "daemon threads that share a Topic": Ending(
        """
        def write():
            while True: topic.write(frame(7, 100_000))
        def read():
            held = []
            while True: held = [*held[-1:], topic.read(copy=len(held) % 2)]
        def lend():
            while True:
                with topic.loan(30_000) as array: array[:] = 3
        for act in (write, read, lend, write, read):
            threading.Thread(target=act, daemon=True).start()
        time.sleep(0.05)
        """,
        head=None,
    ),
    "daemon threads blocked in every call": Ending(
        """
        topic.read(0)
        calls = (topic.read, topic.read_message, lambda: next(topic))
        calls += (lambda: list(topic.messages()),)
        calls += (shmflow.Topic(name, "monitor", start="new").read, shmflow.Topic("none", "r").read)
        for call in calls:
            threading.Thread(target=call, daemon=True).start()
        time.sleep(0.05)
        """
    ),
    "daemon threads that open and close": Ending(
        """
        def act():
            while True:
                with shmflow.Topic(name, "r") as own: own.read(0)
        for _ in range(3): threading.Thread(target=act, daemon=True).start()
        time.sleep(0.05)
        """
    ),
    "an atexit handler that uses the topic": Ending(
        """
        @atexit.register
        def last():
            assert (topic.read(0) == 2).all()
            topic.write(frame(3))
            with topic.loan(20_000) as array: array[:] = 4
            topic.close()
        """,
        head=4,
    ),
    "an atexit handler after the package's own": Ending(
        """
        def last():
            assert (topic.read(0) == 2).all() and (view == 1).all()
            topic.write(frame(3))
            with shmflow.Topic(name, "r") as other: assert (other.read(0) == 1).all()
            with shmflow.Topic("late", temporary=True) as other: other.write(b"x")
            assert [info.name for info in shmflow.topics()] == [name]
            keep = sys.keep = topic.loan(20_000)
        LATE.append(last)
        """,
        head=3,
    ),
    "an atexit handler that exits": Ending("atexit.register(lambda: os._exit(6))", 6),
    "a signal handler that exits in a blocked read": Ending(
        """
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(7))
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        topic.read(0)
        topic.read(60)
        """,
        7,
    ),
    "a signal handler that closes the topic it reads": Ending(
        """
        signal.signal(signal.SIGALRM, lambda *_: topic.close())
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        topic.read(0)
        try: topic.read(60)
        except shmflow.Closed: sys.exit(8)
        """,
        8,
    ),
    "the writer removes its topic": Ending("topic.unlink()", head=None),
    "everything is replaced while views live": Ending(
        """
        topic.unlink()
        topic.write(frame(9))
        again = topic.read(0), topic.loan(20_000)
        assert topic.generation == 2
        """,
        head=None,
    ),
}


def alone(topic: shmflow.Topic) -> bool:
    """No living slot but our own."""
    return [p.pid for p in topic.participants() if p.alive] == [os.getpid()]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def goes_on(topic: shmflow.Topic) -> None:
    """Whoever ended, slots are given back or can be cleaned, and all of main is to be had."""
    until(lambda: alone(topic))
    shmflow.clean()
    assert [p.pid for p in topic.participants()] == [os.getpid()]
    with shmflow.Topic(topic.name, "r", start="new") as reader:
        for i in range(30):
            topic.write(np.full(QUARTER - 64, i, np.uint8), timeout=20)
        assert (reader.read(0, latest=True) == 29).all()
    assert topic.loan(topic.max_message).in_ring


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends_and_leaves_nothing(
    topic_name: str, run_python: Callable[..., Any], ending: str
) -> None:
    script, status, stderr, head = ENDINGS[ending]
    with shmflow.Topic(topic_name, "rw", capacity="1 MiB") as topic:
        watcher = shmflow.Topic(topic_name, "r")
        done = run_python(BEGIN + textwrap.dedent(script), topic_name, check=False)
        assert done.returncode == status, done.stderr
        assert re.fullmatch(stderr, done.stderr), done.stderr
        assert done.stdout == ""
        if head is not None:
            assert topic.head == head
            first = watcher.read_message(20, copy=True)
            assert first.lost > 0 or (first.array == 1).all()
            assert first.seq == first.lost + 1
        watcher.close()
        assert [info.name for info in shmflow.topics() if info.temporary] == []
        goes_on(topic)
        topic.unlink()


# ---- Ctrl-C and SIGTERM in calls that wait -----------------------------------------------------

# Where the lock and the slots are in a segment: src/core/layout.h.
LOCK_OFF, PARTICIPANTS_OFF, PARTICIPANT_LEN = 320, 4096, 256


def hold_lock(file: Path, slot: int | None) -> None:
    """As if the participant in that slot had stopped inside the critical section."""
    with open(file, "r+b", buffering=0) as segment:
        word = 0
        if slot is not None:
            segment.seek(PARTICIPANTS_OFF + slot * PARTICIPANT_LEN)
            (generation,) = struct.unpack("=I", segment.read(4))
            word = (generation & 0xFFFFF) << 11 | (slot + 1)
        segment.seek(LOCK_OFF)
        segment.write(struct.pack("=I", word))


WAITS = {
    "read": "topic.read()",
    "read_message": "topic.read_message(timeout=100)",
    "next": "next(topic)",
    "messages": "for message in topic.messages(): pass",
    "read of a monitor": "shmflow.Topic(name, 'monitor', start='new').read()",
    "read of a topic that is not there": "shmflow.Topic('none', 'r').read(4)",
    "a small write": "topic.write(b'x')",
    "a large write": "topic.write(frame(3, 100_000))",
    "a strided write": "topic.write(np.zeros((300, 300))[::2, ::2])",
    "the end of a loan in the ring": "with loan as array: array[:] = 1",
    "a loan's beginning and end": "with topic.loan(20_000) as array: array[:] = 1",
    "the end of a private loan": "with private as array: array[:] = 1",
    "shutdown": "topic.shutdown()",
}
NEEDS_LOCK = [w for w in WAITS if "read" not in w and w not in ("next", "messages")]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(signal.SIGINT, id="SIGINT"),
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("wait", WAITS)
def test_a_signal_ends_a_wait(
    topic_name: str,
    shm_dir: Path,
    spawn: Callable[..., Any],
    wait: str,
    sent: signal.Signals,
) -> None:
    script = BEGIN + (
        "topic.read(0)\n"
        "loan, private = topic.loan(20_000), topic.loan(20)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print('now', flush=True)\n" + WAITS[wait] + "\n"
    )
    file = shm_dir / f"shmflow.{topic_name}"
    with shmflow.Topic(topic_name, "rw", capacity="1 MiB", max_message=QUARTER) as topic:
        child = spawn(script, topic_name)
        child.expect("ready")
        if wait in NEEDS_LOCK:
            hold_lock(file, 0)  # slot 0 is this process's Topic
        child.send()
        child.expect("now")
        time.sleep(0.15)  # it spins, then sleeps
        assert child.process.poll() is None, child.stderr
        os.kill(child.pid, sent)
        assert child.wait() == -sent
        if sent == signal.SIGINT:
            assert re.fullmatch(TRACEBACK + r"KeyboardInterrupt\n", child.stderr), child.stderr
        else:
            assert child.stderr == ""
        if wait in NEEDS_LOCK:
            hold_lock(file, None)
        assert topic.head == 2 and not topic.ended
        goes_on(topic)
        topic.unlink()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("act", ["topic.write(frame(1, 9))", "topic.write(frame(1, 90_000))"])
def test_a_signal_ends_a_loop_that_never_waits(
    topic_name: str, spawn: Callable[..., Any], act: str, sent: signal.Signals
) -> None:
    script = BEGIN + f"print('now', flush=True)\nwhile True: {act}; topic.read(0)\n"
    with shmflow.Topic(topic_name, "rw", capacity="1 MiB", max_message=QUARTER) as topic:
        child = spawn(script, topic_name)
        child.expect("now")
        until(lambda: topic.head > 50)
        os.kill(child.pid, sent)
        assert child.wait() == -sent
        expected = TRACEBACK + r"KeyboardInterrupt\n" if sent == signal.SIGINT else ""
        assert re.fullmatch(expected, child.stderr), child.stderr
        goes_on(topic)
        topic.unlink()


# ---- subinterpreters ---------------------------------------------------------------------------


WITHIN = """
import os, warnings
warnings.simplefilter("ignore")  # of NumPy, about itself
try:
    import shmflow
    with shmflow.Topic(name, "rw") as topic:
        topic.write(b"from within")
        assert topic.read(0).nbytes == 20_000
    said = b"works"
except ImportError:
    said = b"ImportError"
os.write(1, said + b"\\n")
"""


def test_a_subinterpreter_either_works_or_refuses_the_import(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        BEGIN
        + textwrap.dedent("""
        import warnings
        warnings.simplefilter("ignore")  # of NumPy, about itself
        for module in ("_interpreters", "_xxsubinterpreters"):
            try:
                interpreters = __import__(module)
                break
            except ImportError:
                pass
        code = f"name = {name!r}\\n" + sys.argv[2]
        for _ in range(2):
            one = interpreters.create()
            failure = interpreters.run_string(one, code)
            assert failure is None, failure
            interpreters.destroy(one)
        # The first interpreter's package is what it was.
        assert (view == 1).all() and (topic.read(0) == 2).all()
        topic.write(frame(3))
        """),
        topic_name,
        WITHIN,
    )
    assert done.stdout in ("works\n" * 2, "ImportError\n" * 2)
    # NumPy, which refuses in its turn, shows its traceback; ours has nothing to add.
    assert "shmflow" not in done.stderr
    with shmflow.Topic(topic_name, "r") as topic:
        until(lambda: alone(topic))
        assert topic.head == (5 if "works" in done.stdout else 3)
        topic.unlink()


def test_ctrl_c_while_a_temporary_topic_is_made_leaves_none(
    topic_name: str, run_python: Callable[..., Any], shm_dir: Path
) -> None:
    """Wherever it comes: before there is a file, between its making and the attaching, after."""
    done = run_python(
        """
        import os, signal, sys, shmflow
        name, folder = sys.argv[1:]
        shmflow.Topic(name, "w", capacity="1 MiB", temporary=True).close()  # what it imports
        came = 0
        for tenths in range(2, 62):
            try:
                signal.signal(signal.SIGALRM, signal.default_int_handler)
                signal.setitimer(signal.ITIMER_REAL, tenths * 1e-4)
                while True:
                    shmflow.Topic(name, "w", capacity="8 MiB", temporary=True)
            except KeyboardInterrupt:
                came += 1
            left = [file for file in os.listdir(folder) if name in file]
            assert left == [], (tenths, left)
        assert came == 60
        """,
        topic_name,
        shm_dir,
    )
    assert done.stderr == ""
