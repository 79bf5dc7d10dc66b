"""A monitor stores nothing, locks nothing, takes nothing: by what the kernel says of it.

Owns: its mappings, its files, its locks, the bytes of the segment before and after, as the owner,
with a read-only file, and as another user.
Does not own: what a monitor reads (tests/api/test_topic_object.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import missing

import shmflow

# A monitor that does all that a monitor can; between the steps it lets itself be looked at.
MONITOR = """
import ctypes, errno, os, sys
import difflib
import numpy as np
import shmflow, shmflow._admin, shmflow._errors, shmflow._texts, shmflow._wire
[getattr(shmflow, name) for name in shmflow.__all__]

name, user = sys.argv[1], int(sys.argv[2])
repr(np.arange(3))  # imports what it needs before the user changes
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)

def look(at):
    print(at, flush=True)
    assert sys.stdin.readline()

topic = shmflow.Topic(name, "monitor")
look("attached")
first = topic.read(0)
messages = [topic.read_message(0, copy=True)]
while (message := topic.read_message(0, default=None)) is not None:
    messages.append(message)
assert [m.seq for m in messages] == list(range(2, 21)), messages
assert all((m.array == m.seq % 7).all() for m in messages) and (first == 1).all()
look("read")
try:
    topic.read(0.4)
except shmflow.Empty:
    pass
else:
    raise AssertionError
assert topic.read(0, latest=True, default=None) is None
look("waited")
topic.stats(), topic.participants(), topic.head, topic.tail, topic.lost, topic.skipped, topic.ended
topic.capacity, topic.depth, topic.max_message, topic.writers, topic.readers, repr(topic)
topic._last(), topic._lock_holder(), topic._layout(), topic._blocks(5), topic.__reduce__()
for act in (lambda: topic.write(b"x"), lambda: topic.loan(9), topic.shutdown, topic.unlink):
    try:
        act()
    except shmflow.WrongMode:
        pass
    else:
        raise AssertionError
[info] = [info for info in shmflow.topics() if info.name == name]
assert info.head == 20 and info.participants == 1 and not info.error
start = shmflow.Topic(name, "monitor", start="latest")
assert start.read_message(0).seq == 20
pid = os.fork()
if pid == 0:
    assert (start.read(0, default=None), topic.head) == (None, 20)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
look("asked")
# Nor could it, if it wanted: the kernel refuses to make these mappings writable.
libc = ctypes.CDLL(None, use_errno=True)
tried = 0
with open("/proc/self/maps") as maps:
    lines = maps.readlines()
for line in lines:
    if "/shmflow." in line:
        begin, end = (int(x, 16) for x in line.split()[0].split("-"))
        assert libc.mprotect(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), 3) == -1
        assert ctypes.get_errno() == errno.EACCES
        tried += 1
assert tried >= 2
print("tried", flush=True)
topic.close()
start.close()
look("left")
"""


def mappings(pid: int, file: Path) -> list[str]:
    """The protections of all of its mappings of that file."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    lines = [line.split(maxsplit=5) for line in maps]
    return [x[1] for x in lines if len(x) > 5 and x[5] in (str(file), f"{file} (deleted)")]


def open_files(pid: int, file: Path) -> list[str]:
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += [fd.name] if os.readlink(fd) == str(file) else []
        except FileNotFoundError:
            pass
    return found


def locks(file: Path) -> list[str]:
    """The kernel's locks on that file, without their running numbers."""
    info = file.stat()
    # As /proc/locks names it, device included: inode numbers of several mounts may be equal.
    inode = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    lines = Path("/proc/locks").read_text().splitlines()
    return sorted(line.split(":", 1)[1] for line in lines if f" {inode} " in line)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def facts(topic: shmflow.Topic, file: Path) -> dict[str, Any]:
    """All that a monitor must leave as it is."""
    info = file.stat()
    return {
        "bytes": digest(file),
        "locks": locks(file),
        "participants": topic.participants(),
        "stats": topic.stats(),
        "file": (info.st_mode, info.st_size, info.st_nlink, info.st_mtime_ns, info.st_blocks),
    }


@pytest.fixture
def reachable(topic_name: str) -> Iterator[Path]:
    """A folder that other users can reach, for children and for this process."""
    path = Path("/dev/shm") / f"shmflow-monitor-{topic_name}"
    path.mkdir()
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def fill(topic: shmflow.Topic) -> None:
    for value in range(1, 21):  # small ones and large ones
        size = 20_000 if value % 2 else 10
        topic.write(np.full(size, value % 7, np.uint8), meta={"n": value})


@pytest.mark.parametrize("who", ["the owner", "a read-only file", "another user"])
def test_a_monitor_leaves_no_trace(
    topic_name: str,
    reachable: Path,
    monkeypatch: pytest.MonkeyPatch,
    spawn: Callable[..., Any],
    who: str,
) -> None:
    user = 0
    if who == "another user":
        if os.geteuid() != 0:
            missing("only root can become another user")
        user = 12345
    monkeypatch.setenv("SHMFLOW_DIR", str(reachable))
    file = reachable / f"shmflow.{topic_name}"
    with shmflow.Topic(topic_name, capacity="1 MiB", permissions=0o644) as topic:
        fill(topic)
        held = topic.read(0)  # a bit is set, a cursor stands somewhere
        if who == "a read-only file":
            file.chmod(0o444)
        before = facts(topic, file)
        assert len(before["locks"]) == 1, "this process's slot"
        assert digest(file) == before["bytes"]
        monitor = spawn(MONITOR, topic_name, user)
        for step in ("attached", "read", "waited", "asked", "tried", "left"):
            monitor.expect(step, 30)
            if step == "tried":
                continue
            mapped = mappings(monitor.pid, file)
            assert set(mapped) == (set() if step == "left" else {"r--s"})
            assert open_files(monitor.pid, file) == []
            assert facts(topic, file) == before, step
            monitor.send()
        monitor.finish()
        assert monitor.stderr == ""
        assert facts(topic, file) == before
        # This can tell: a participant that does the same is seen in each of these facts.
        with shmflow.Topic(topic_name, "r") as reader:
            reader.read(0)
            after = facts(topic, file)
            assert after["bytes"] != before["bytes"]
            assert len(after["locks"]) == 2 and len(after["participants"]) == 2
            assert "rw-s" in mappings(os.getpid(), file)
        assert (held == 1).all()
        del held
        topic.unlink()


def test_listing_topics_leaves_no_trace(
    topic_name: str,
    reachable: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHMFLOW_DIR", str(reachable))
    file = reachable / f"shmflow.{topic_name}"
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        fill(topic)
        before = facts(topic, file)
        (info,) = shmflow.topics()
        assert info.head == 20
        fresh = shmflow.Topic(topic_name)  # attached only by its first call that needs it
        assert (fresh.head, fresh.capacity, len(fresh.participants())) == (20, topic.capacity, 1)
        fresh.close()
        assert facts(topic, file) == before
        topic.unlink()


def test_a_monitor_in_a_wait_holds_up_nobody(topic_name: str, spawn: Callable[..., Any]) -> None:
    script = """
        import sys, shmflow
        topic = shmflow.Topic(sys.argv[1], "monitor", start="new", create=False)
        print("waits", flush=True)
        print(topic.read_message(60).seq, flush=True)
        topic.read(60)
        """
    with shmflow.Topic(topic_name, capacity="1 MiB", temporary=True) as topic:
        fill(topic)
        monitor = spawn(script, topic_name)
        monitor.expect("waits")
        topic.write(b"x")
        monitor.expect("21")
        assert len(topic.participants()) == 1
        monitor.stop()  # frozen: nobody notices
        for _ in range(100):
            topic.write(np.zeros(100_000, np.uint8), timeout=20)
        assert topic.loan(topic.max_message).in_ring
        monitor.cont()
    # The last participant has left, and the temporary topic with it.
    assert [info for info in shmflow.topics() if info.name == topic_name] == []
