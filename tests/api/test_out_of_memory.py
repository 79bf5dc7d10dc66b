"""When an allocation fails, a call raises MemoryError or succeeds, and nothing is lost by it.

Owns: every call of the surface with each of its Python allocations failing in turn, alone and
with all that follow; what must be true afterwards.
Does not own: allocations of the C library and system calls that fail (the core's own tests).

In child processes: twenty allocations from the n-th on fail, for n = 0, 1, … until the call needs
none so late; then each of these alone. Not all that follow: CPython's own loops do not end then.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

import shmflow

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("_testcapi") is None, reason="this Python comes without _testcapi"
)

BEGIN = """
import contextlib, errno, gc, os, sys, warnings
import difflib
import _testcapi
import numpy as np
import shmflow, shmflow._admin, shmflow._errors, shmflow._texts, shmflow._wire
[getattr(shmflow, name) for name in shmflow.__all__]
np.ma  # an import without memory may leave CPython's import lock taken
warnings.simplefilter("ignore")

name = sys.argv[1]
FRAME = np.full(20_000, 7, np.uint8)
SMALL = np.arange(5, dtype=np.uint8)
META = {"a": 1, "b": [2.5, None]}
RECORDS = np.zeros(300, np.dtype([(f"field_{i}", "f8", (2,)) for i in range(9)]))
STRIDED = np.zeros((200, 200), np.uint8)[::2, ::3]
OUT = np.empty_like(FRAME)
WRONG = np.empty(7, np.uint8)

# A block of its largest message takes all of main: there is room only if nothing at all is held.
topic = shmflow.Topic(name, capacity="1 MiB", max_message="1 MiB", depth=500)
reader = shmflow.Topic(name, "r")
monitor = shmflow.Topic(name, "monitor")
capped = shmflow.Topic(name, "r", max_held=10)
ended = shmflow.Topic(name + "/ended", capacity="64 KiB")
ended.write(SMALL)
ended.shutdown()
absent = shmflow.Topic(name + "/none", "r")
for _ in range(300):  # beyond the small integers, which need no memory
    topic.write(SMALL)
reader.read(0, latest=True)
monitor.read(0, latest=True)

gc.collect()
gc.freeze()

def leave():
    # What a call left in `result` is no leak.
    global result, loan, message, other
    result = loan = message = other = None

def settle():
    leave()
    stats = topic.stats(), reader.stats(), capped.stats()
    held = [s.held_bytes for s in stats]
    assert held == [0, 0, 0], f"held: {held}"
    mine = len([p for p in topic.participants()])
    assert mine == 3, f"{mine} participants"

def fill(data=FRAME, **options):
    topic.write(data, **options)

def fails(act):
    # What it is to raise, it raises; out of memory is what is looked for.
    try:
        act()
    except (MemoryError, AssertionError):
        raise
    except (shmflow.Error, ValueError, TypeError, OSError):
        return True
    raise AssertionError("no error")
"""

# name: (what is made ready each time, the call, what it may raise besides MemoryError)
CALLS = {
    "write small": ("", "topic.write(SMALL)"),
    "write large": ("", "topic.write(FRAME)"),
    "write bytes": ("", "topic.write(b'bytes')"),
    "write a number": ("", "topic.write(1.5)"),
    "write with meta": ("", "topic.write(FRAME, meta=META, timestamp_ns=1 << 60)"),
    "write strided": ("", "topic.write(STRIDED)"),
    "write strided small": ("", "topic.write(FRAME[:90:3])"),
    "write a memoryview": ("", "topic.write(memoryview(FRAME)[::2])"),
    "write records": ("", "topic.write(RECORDS)"),
    "write a dtype never seen": (
        "dtype = np.dtype([(f'f{turn}', 'u1')]); data = np.zeros(3, dtype)",
        "topic.write(data)",
    ),
    "write what cannot travel": ("", "fails(lambda: topic.write('text'))"),
    "write too much": ("data = bytes(2 << 20)", "fails(lambda: topic.write(data))"),
    "write after the end": ("", "fails(lambda: ended.write(SMALL))"),
    "write in the wrong mode": ("", "fails(lambda: reader.write(SMALL))"),
    "read a view": ("fill()", "reader.read(0, latest=True)"),
    "read small": ("fill(SMALL)", "reader.read(0, latest=True)"),
    "read a copy": ("fill()", "reader.read(0, latest=True, copy=True)"),
    "read into out": ("fill()", "reader.read(0, latest=True, out=OUT)"),
    "read into the wrong out": ("fill()", "fails(lambda: reader.read(0, latest=True, out=WRONG))"),
    "read records": ("fill(RECORDS)", "reader.read(0, latest=True)"),
    "read a dtype never seen": (
        "fill(np.zeros(3, np.dtype([(f'f{turn}', 'u1')])))",
        "reader.read(0, latest=True)",
    ),
    "read many dimensions": (
        "fill(np.zeros((1,) * 9 + (9000,), np.uint8))",
        "reader.read(0, latest=True)",
    ),
    "read over the cap": ("fill()", "capped.read(0, latest=True)"),
    "read by a monitor": ("fill()", "monitor.read(0, latest=True)"),
    "read nothing": ("reader.read(0, latest=True, default=0)", "fails(lambda: reader.read(0))"),
    "read of what is not there": ("", "fails(lambda: absent.read(0))"),
    "read_message": ("fill(meta=META)", "reader.read_message(0, latest=True)"),
    "read_message small": ("fill(SMALL, meta=META)", "reader.read_message(0, latest=True)"),
    "Message.meta": (
        "fill(SMALL, meta=META); message = reader.read_message(0, latest=True)",
        "message.meta",
    ),
    "repr of a Message": (
        "fill(SMALL); message = reader.read_message(0, latest=True)",
        "repr(message)",
    ),
    "messages": ("fill()", "next(reader.messages(latest=True, timeout=0))"),
    "wait": ("fill()", "shmflow.wait([topic, reader, monitor, absent])"),
    "wait in vain": (
        "reader.read(0, latest=True, default=0)",
        "shmflow.wait([reader, absent], 0.001)",
    ),
    "loan": ("", "topic.loan(20_000, meta=META)"),
    "loan small": ("", "topic.loan((2, 3), 'f4')"),
    "loan published": ("loan = topic.loan(20_000)", "loan.publish()"),
    "loan published, private": ("loan = topic.loan(20)", "loan.publish()"),
    "loan published shorter": ("loan = topic.loan(20_000)", "loan.publish((30, 40))"),
    "loan published shorter, moved": (
        "loan = topic.loan(20_000, meta=META)",
        "loan.publish((30, 1, 1, 1, 40))",
    ),
    "loan published too long": ("loan = topic.loan(20_000)", "fails(lambda: loan.publish(20_001))"),
    "loan of an array": ("loan = topic.loan(20_000)", "(loan.array, loan.in_ring, loan.seq)"),
    "loan that cannot be": ("", "fails(lambda: topic.loan(3, 'O'))"),
    "Topic": ("", "shmflow.Topic(name, 'r')"),
    "Topic that writes": ("", "shmflow.Topic(name, 'w', create=False)"),
    "Topic that monitors": ("", "shmflow.Topic(name, 'monitor')"),
    "Topic that is new": ("", "shmflow.Topic(name + '/new', capacity='64 KiB', temporary=True)"),
    "Topic of its own": ("", "shmflow.Topic(capacity='64 KiB').write(SMALL)"),
    "Topic that exists": ("", "fails(lambda: shmflow.Topic(name, create=True, capacity=1))"),
    "Topic that does not": ("", "fails(lambda: shmflow.Topic(name + '/no', 'r', create=False))"),
    "Topic that does not fit": ("", "fails(lambda: shmflow.Topic(name, capacity='2 MiB'))"),
    "Topic with a bad name": ("", "fails(lambda: shmflow.Topic('a b'))"),
    "Topic with a bad capacity": ("", "fails(lambda: shmflow.Topic(name, capacity='x'))"),
    "stats": ("", "topic.stats()"),
    "participants": ("", "topic.participants()"),
    "participants by a stranger": ("", "(absent.participants(), absent.head, absent.writers)"),
    "facts": (
        "",
        "(topic.head, topic.tail, topic.capacity, topic.name, topic.readers, repr(topic))",
    ),
    "for texts": ("", "(topic._last(), topic._lock_holder())"),
    "pickle": ("", "reader.__reduce__()"),
    "restore": ("f, args = reader.__reduce__()", "f(*args)"),
    "pickle a message": (
        "fill(); m = reader.read_message(0, latest=True, copy=True)",
        "m.__reduce__()",
    ),
    "restore a message": (
        "fill(); f, args = reader.read_message(0, latest=True, copy=True).__reduce__()",
        "f(*args)",
    ),
    "damaged meta": (
        "fill(); f, args = reader.read_message(0, latest=True, copy=True).__reduce__(); "
        "m = f(args[0], b'[1]', *args[2:])",
        "fails(lambda: m.meta)",
    ),
    "topics": ("", "shmflow.topics()"),
    "clean": ("", "shmflow.clean()"),
    "unlink by name": (
        "shmflow.Topic(name + '/u', 'w', capacity='64 KiB').close()",
        "shmflow.unlink(name + '/u')",
    ),
    "close": ("other = shmflow.Topic(name, 'r')", "other.close()"),
}

# What allocates nothing by Python's allocators, or says so only to those who write its texts.
FREE = {"close", "loan of an array", "read into out", "participants by a stranger"}

TURNS = """
def once(n, stop, call):
    # One try, the n-th allocation failing. True: it went through.
    global result
    set_nomemory, remove = _testcapi.set_nomemory, _testcapi.remove_mem_hooks
    try:
        set_nomemory(n, stop)
        result = call()
        remove()
        return True
    except MemoryError:
        remove()
        return False
    except SystemError as error:
        remove()
        # The interpreter itself forgets an exception here and there. Not for our calls.
        if "built-in" in str(error) or "shmflow" in str(error):
            raise
        return False
    except (shmflow.Error, TypeError, ValueError):
        # Also a documented error: NumPy and the standard library take some for errors of theirs
        # ("entry not a 2- or 3- tuple", "path should be string, not PosixPath").
        remove()
        return False
    finally:
        remove()

def attempt(n, stop, turn, ready, call):
    exec(ready, globals() | {"turn": turn}, globals())
    head = topic.head
    went = once(n, stop, call)
    told_too_late = not went and topic.head > head
    settle()
    # A write that raises has published nothing; but where the very last allocation fails, the
    # message is out, and only the int that tells its number cannot be made.
    if told_too_late:
        assert attempt(n + 1, n + 21, turn + 50_000, ready, call), f"{n} was not the last"
    return went

def try_all(ready, call):
    call = eval("lambda: " + call)
    # A score of allocations in a row, until a hundred such scores have made no difference.
    last, n = 0, 0
    while n < last + 100:
        last = last if attempt(n, n + 20, n, ready, call) else n + 1
        n += 1 + last // 100
    for n in range(0, last, 1 + last // 60):
        attempt(n, n + 1, 10_000 + n, ready, call)
    return last

def works():
    # Everything is as before, and all of main is free.
    global other, loan, message
    other = loan = message = None
    leave()
    gc.collect()
    reader.read(0, latest=True, default=None)
    seq = topic.write(FRAME, meta=META)
    got = reader.read_message(0)
    assert got.seq == seq and (got.array == 7).all() and got.meta == META
    del got
    settle()
    whole = topic.loan(topic.max_message)
    assert whole.in_ring, "main is not free"
    whole.discard()
    del whole
    assert topic.write(np.zeros(topic.max_message, np.uint8)) == seq + 1

for title, (ready, call) in CALLS.items():
    print(title, end=" ", flush=True)
    print(try_all(ready, call), flush=True)
    works()
"""

GROUPS = sorted({name.split()[0] for name in CALLS if name.split()[0][0] in "wrlTM"})


def group_of(name: str) -> str:
    first = name.split()[0]
    return first if first in GROUPS else "others"


@pytest.mark.slow
@pytest.mark.parametrize("group", [*GROUPS, "others"])
def test_calls_without_memory_lose_nothing(
    topic_name: str, run_python: Callable[..., Any], group: str
) -> None:
    calls = {name: call for name, call in CALLS.items() if group_of(name) == group}
    done = run_python(f"{BEGIN}\nCALLS = {calls!r}\n{TURNS}", topic_name, timeout=110)
    assert done.stderr == ""
    said = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert said.keys() == calls.keys()
    # At least one allocation failed in each, but for those that need none.
    assert {name for name, last in said.items() if last == "0"} <= FREE
    shmflow.clean()
    for info in shmflow.topics():
        if info.name.startswith(topic_name):
            assert info.participants == 0 and not info.error
            shmflow.unlink(info.name)


def test_a_reader_without_memory_takes_no_message_for_damaged(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    script = """
import sys
import numpy as np
import _testcapi
import shmflow

topic = shmflow.Topic(sys.argv[1], capacity="1 MiB")
failed = 0
for turn in range(1000):
    inner = np.dtype([((f"t{turn}", f"a{turn}"), "u1"), (f"b{turn}", "f4", (2,))])
    fields = np.dtype([("x", "u1"), ("ä", inner), ("y", ">f8")])
    seq = topic.write(np.zeros(3, fields))
    _testcapi.set_nomemory(turn, turn + 1)
    try:
        message = topic.read_message(0)
    except MemoryError:
        message = None
    finally:
        _testcapi.remove_mem_hooks()
    failed += message is None
    message = message or topic.read_message(0)  # it was not passed over
    assert message.seq == seq and message.array.dtype == fields, (turn, message)
    if failed <= turn:
        break
assert 20 < failed < 1000, failed
topic.unlink()
"""
    run_python(script, topic_name)


@pytest.mark.parametrize("size", [8, 100_000])
def test_a_message_outlives_every_lack_of_memory_of_its_reader(
    topic_name: str, run_python: Callable[..., Any], size: int
) -> None:
    script = """
import sys
import numpy as np
import _testcapi
import shmflow

topic = shmflow.Topic(sys.argv[1], capacity="1 MiB")
for _ in range(2):
    topic.write(np.ones(int(sys.argv[2]), np.uint8), meta={"a": 1})
    warm = topic.read_message(0)
seq = topic.write(np.ones(int(sys.argv[2]), np.uint8), meta={"a": 1})
message = None
failures = -1
while message is None:
    failures += 1
    _testcapi.set_nomemory(failures, failures + 1)
    try:
        message = topic.read_message(0)
    except MemoryError:
        pass
    finally:
        _testcapi.remove_mem_hooks()
assert message.seq == seq and message.array.all() and failures > 2, (message, failures)
topic.unlink()
"""
    assert run_python(script, topic_name, str(size)).stderr == ""
