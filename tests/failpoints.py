"""Participants that stop or die at a chosen store: frozen_writer.c, and talking to it.

Owns: compiling it once per run, with failpoints and invariant checks, whatever the installed
extension was built with; starting it and the conversation by lines. Every wait has a limit.
Does not own: what must be true afterwards; the tests say.
"""

from __future__ import annotations

import atexit
import functools
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest
from compiled import ROOT, compile_core


@functools.cache
def compile_agent() -> Path:
    """The program, compiled; it is removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="shmflow-actor-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = ROOT / "tests" / "process" / "frozen_writer.c"
    macros = ("-DSF_FAILPOINTS", "-DSF_DEBUG")
    return compile_core(folder / "frozen_writer", [source], "-O1", *macros)


class Answer(NamedTuple):
    """What the actor said: the points it passed; of a message, its number, length and byte."""

    points: int
    seq: int = 0
    length: int = 0
    byte: int = -1


class Stopped(Exception):
    """The actor raised SIGSTOP on itself and is frozen now."""


class Died(Exception):
    """The actor raised SIGKILL on itself and is gone."""


class Actor:
    """One participant. A context manager: it never outlives the block."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [compile_agent()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._pending = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def open(self, topic_name: str) -> None:
        """Attaches to a topic that exists."""
        self.do(f"open {topic_name}")

    def arm(self, point: int, number: signal.Signals, where: str = "any") -> None:
        """At the `point`-th store of the next act, raise the signal."""
        self.do(f"arm {where} {point} {int(number)}")

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def do(self, line: str, timeout: float = 20) -> Answer:
        """One act, to its end. Raises Stopped or Died where it was armed for that."""
        self.send(line)
        return self.answer(line, timeout)

    def answer(self, to: str, timeout: float = 20) -> Answer:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._pending:
            if select.select([self.process.stdout], [], [], 0.002)[0]:
                chunk = os.read(self.process.stdout.fileno(), 65536)
                if not chunk:
                    self._gone(to)
                self._pending += chunk
            elif os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
                # Consumed, so that the next stop is told from this one.
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
                raise Stopped(to)
            elif time.monotonic() > deadline:
                pytest.fail(f"the actor did not answer {to!r} in {timeout} s")
        line, _, self._pending = self._pending.partition(b"\n")
        kind, *words = line.decode().split()
        if kind != "done":
            pytest.fail(f"the actor could not {to!r}: {' '.join(words)}")
        return Answer(*map(int, words))

    def _gone(self, doing: str) -> None:
        assert self.process.stderr is not None
        status = self.process.wait(20)
        if status == -signal.SIGKILL:
            time.sleep(0.02)  # as in kill
            raise Died(doing)
        said = self.process.stderr.read().decode(errors="replace")
        pytest.fail(f"the actor ended with {status} while it did {doing!r}\n{said}")

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and back when it is gone."""
        self.process.kill()
        self.process.wait(20)
        time.sleep(0.02)  # the last references to files go a little after the parent was told

    def finish(self) -> None:
        """Leaves the topic and ends by itself."""
        self.do("close")
        assert self.process.stdin is not None
        self.process.stdin.close()
        if (status := self.process.wait(20)) != 0:
            pytest.fail(f"the actor ended with {status}")
