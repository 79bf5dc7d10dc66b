"""What the tests of the Python surface share.

Owns: checks that a topic still works and lost nothing; the outcome of a missing facility.
Does not own: children, names and leak checks (tests/conftest.py).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import itertools
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from needs import missing

import shmflow

# ---- the same test in several threads: make test-parallel ---------------------------------------

_copies = itertools.count(1)


@pytest.hookimpl(tryfirst=True)  # before the plugin, so that each of its threads comes through here
def pytest_itemcollected(item: pytest.Item) -> None:
    """With --parallel-threads each thread has a topic and a name of its own: else they would read
    each other's messages."""
    if item.config.getoption("--parallel-threads", "1") in ("1", 1):
        return
    test = item.obj  # type: ignore[attr-defined]
    names = set(inspect.signature(test).parameters)

    @functools.wraps(test)
    def in_each_thread(*args: Any, **kwargs: Any) -> None:
        own = f"{kwargs.get('topic_name') or kwargs['topic'].name}.{next(_copies)}"
        if "topic_name" in names:
            kwargs["topic_name"] = own
        if "topic" not in names:
            return test(*args, **kwargs)
        like = kwargs["topic"]
        with shmflow.Topic(own, capacity=like.capacity, max_message=like.max_message) as topic:
            test(*args, **kwargs | {"topic": topic})

    if names & {"topic", "topic_name"}:
        item.obj = in_each_thread  # type: ignore[attr-defined]


@pytest.fixture(name="missing")
def missing_fixture() -> Callable[[str], NoReturn]:
    return missing


@pytest.fixture
def topic(topic_name: str) -> Iterator[shmflow.Topic]:
    """A topic of 1 MiB, for one test."""
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        yield topic
        gc.collect()
        if not topic.closed:
            topic.unlink()


@pytest.fixture
def keeps_working(topic_name: str) -> Iterator[Callable[..., Any]]:
    """``with keeps_working() as topic:`` a topic with messages waiting; at the end of the block
    exactly these, in order and unchanged, are there, and writing and reading go on."""

    @contextlib.contextmanager
    def check(**options: Any) -> Iterator[shmflow.Topic]:
        options = {"capacity": "1 MiB"} | options
        with shmflow.Topic(topic_name, **options) as topic:
            waiting = [np.arange(n, dtype="i4") for n in (3, 0, 5000)]
            for number, array in enumerate(waiting, 1):
                assert topic.write(array, meta={"number": number}) == number
            yield topic
            assert topic.head == len(waiting), "something was published"
            for number, array in enumerate(waiting, 1):
                message = topic.read_message(timeout=0)
                assert (message.seq, message.lost, message.skipped) == (number, 0, 0)
                assert message.meta == {"number": number}
                np.testing.assert_array_equal(message.array, array)
            assert topic.write(b"goes on") == len(waiting) + 1
            assert bytes(topic.read(timeout=0)) == b"goes on"
            assert topic.read(timeout=0, default=None) is None
            del message
            gc.collect()
            assert topic.stats().held_bytes == 0
            topic.unlink()

    yield check


class Background(threading.Thread):
    """A thread whose result, or exception, is had by `outcome()`; it never outlives its test."""

    def __init__(self, call: Callable[..., Any], *args: Any, **kwargs: Any):
        super().__init__(daemon=True)
        self.call, self.args, self.kwargs = call, args, kwargs
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.call(*self.args, **self.kwargs)
        except BaseException as error:
            self.error = error

    def outcome(self, timeout: float = 20) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "the thread is still at it"
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        result, self.result = self.result, None
        return result


@pytest.fixture
def background() -> Callable[..., Background]:
    return Background


# Where things lie in a segment: src/core/layout.h.
LOCK_OFF, PARTICIPANTS_OFF, PARTICIPANT_LEN = 320, 4096, 256


@pytest.fixture
def hold_lock(shm_dir: Path) -> Callable[..., None]:
    """``hold_lock(name, slot)``: as if that participant had stopped inside the critical section.
    ``slot=None`` lets go. Participants get slots from 0 on, in the order in which they attach."""

    def hold(name: str, slot: int | None) -> None:
        with open(shm_dir / f"shmflow.{name}", "r+b", buffering=0) as file:
            word = 0
            if slot is not None:
                file.seek(PARTICIPANTS_OFF + slot * PARTICIPANT_LEN)
                (generation,) = struct.unpack("=I", file.read(4))
                word = (generation & 0xFFFFF) << 11 | (slot + 1)
            file.seek(LOCK_OFF)
            file.write(struct.pack("=I", word))

    return hold


@pytest.fixture
def small_tmpfs(
    request: pytest.FixtureRequest, tmp_path: Path, missing: Callable[[str], Any]
) -> Iterator[Path]:
    """An empty tmpfs of 4 MiB, or of the size that the test asks for."""
    path = tmp_path / "shm"
    path.mkdir()
    size = getattr(request, "param", "4m")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "shmflow-test", str(path)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        missing("no mount command")
    if mounted.returncode != 0:
        missing(f"mounting a tmpfs is refused: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True, timeout=20)
