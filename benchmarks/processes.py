"""Roles of one measurement, each in a process of its own, with a deadline.

Owns: spawning, the control block through which the roles agree on when to begin and to end, the
warm-up, and the end of those that do not end by themselves.
Does not: know what is measured.

1. Every process is spawned, and the leader of a process group of its own. One that is to end early
   is asked to (SIGTERM: it closes what it has open); if it does not, it is killed with all that it
   started.
2. Whatever ends `run()`, also Ctrl-C, no process of it is left.
3. What a child raises, or what it last said when it dies without a word, comes back as text.

The phases: WARM, until every reader has got a message of every writer (peers that find each other
by discovery need a while); SETTLE, until each reader has drained what the warm-up left; RUN.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import numpy as np
from peers.base import Reader, Writer

WARM, SETTLE, RUN = range(3)
LINE = 16  # words of 8 bytes from one process's to the next: no two of them share a cache line
QUIET_S = 0.02  # nothing for so long: the warm-up has been drained
PR_SET_PDEATHSIG = 1
PATIENCE_S = 2  # for a process that was asked to end


class Failed(Exception):
    """A role raised, or its process died."""


class Hung(Exception):
    """The deadline is over."""


class Control:
    """A few words in shared memory, pickled to each process as it is spawned."""

    def __init__(self, context: SpawnContext, writers: int, readers: int) -> None:
        self.writers, self.readers = writers, readers
        self._raw = context.RawArray("q", LINE * (1 + writers + readers))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "lines"}

    def __getattr__(self, name: str) -> np.ndarray:
        if name != "lines":
            raise AttributeError(name)
        self.lines = np.frombuffer(self._raw, np.int64).reshape(-1, LINE)
        return self.lines

    @property
    def phase(self) -> int:
        return int(self.lines[0, 0])

    @phase.setter
    def phase(self, phase: int) -> None:
        self.lines[0, 0] = phase

    def _of_writers(self, word: int) -> np.ndarray:
        return self.lines[1 : 1 + self.writers, word]

    def _of_readers(self, word: int) -> np.ndarray:
        return self.lines[1 + self.writers :, word]

    # By those that own them; each word is written by one process only.
    ready_writers = property(lambda self: self._of_writers(0))
    finished = property(lambda self: self._of_writers(1))
    ready_readers = property(lambda self: self._of_readers(0))
    got = property(lambda self: self._of_readers(1))  # bit w: a message of writer w
    settled = property(lambda self: self._of_readers(2))
    acknowledged = property(lambda self: self._of_readers(3))
    drained = property(lambda self: self._of_readers(4))  # nothing more is to come

    def over(self) -> bool:
        """Every writer has written its last message."""
        return bool(self.finished.all())

    def finish(self, index: int) -> None:
        """Of a writer: says so, and stays until the readers have all; some libraries drop what is
        under way when they are closed."""
        self.finished[index] = 1
        while not self.drained.all():
            time.sleep(0.001)


def first_word(array: np.ndarray) -> np.ndarray:
    """The first 8 bytes of a message, as a number."""
    return array.reshape(-1)[:8].view(np.int64)


def warm_up_writer(control: Control, writer: Writer, index: int, array: np.ndarray) -> None:
    """Writes until everybody is heard everywhere; returns when the measurement is to begin."""
    control.ready_writers[index] = 1
    while not (control.ready_readers.all() and control.ready_writers.all()):
        time.sleep(0.001)
    everybody = (1 << control.writers) - 1
    first_word(array)[0] = index
    while control.phase == WARM:
        writer.write(array)
        if index == 0 and (control.got == everybody).all():
            control.phase = SETTLE
        time.sleep(0.002)
    while not control.settled.all():
        time.sleep(0.001)
    control.phase = RUN


def warm_up_reader(control: Control, reader: Reader, index: int) -> None:
    """Reads what the warm-up sends, to the last; the next message is the first that counts."""
    control.ready_readers[index] = 1
    while control.phase == WARM:
        if (array := reader.read(QUIET_S)) is not None:
            control.got[index] |= 1 << int(first_word(array)[0])
    while reader.read(QUIET_S) is not None:
        pass
    control.settled[index] = 1


@dataclass(frozen=True)
class Role:
    function: Callable[..., dict[str, Any]]  # of a module, so that it can be pickled
    arguments: tuple[Any, ...]
    cpu: int | None = None


def child(role: Role, connection: Connection, log: str) -> None:
    """What each process does."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    signal.signal(signal.SIGTERM, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if role.cpu is not None:
        os.sched_setaffinity(0, {role.cpu})
    try:
        answer: tuple[bool, Any] = (True, role.function(*role.arguments))
    except BaseException:
        answer = (False, traceback.format_exc())
    with contextlib.suppress(BrokenPipeError):
        connection.send(answer)
    connection.close()


def leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """SIGINT is the runner's: what is spawned in here has it blocked, for good."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Asks all that are left to end, then kills."""
    left = [process for process in processes if process.is_alive()]
    for process in left:
        process.terminate()
    deadline = time.monotonic() + PATIENCE_S
    for process in left:
        process.join(max(deadline - time.monotonic(), 0))
    for process in processes:
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()


def last_words(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip()[-2000:]
    return ""


def run(
    context: SpawnContext, roles: Sequence[Role], control: Control, limit_s: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """What each role returns, and what is to be told about how they ended."""
    deadline = time.monotonic() + limit_s
    started: list[tuple[Any, Connection, str]] = []
    answers: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as room:
        try:
            with without_interrupts():
                for number, role in enumerate(roles):
                    ours, theirs = context.Pipe(duplex=False)
                    log = os.path.join(room, str(number))
                    process = context.Process(target=child, args=(role, theirs, log))
                    started.append((process, ours, log))
                    process.start()
                    theirs.close()
            while len(answers) < len(roles):
                collect(started, answers, control, deadline)
            return [answers[number] for number in range(len(roles))], end(started)
        finally:
            with without_interrupts():
                stop([process for process, _, _ in started])
                for _, connection, _ in started:
                    connection.close()


def collect(
    started: list[tuple[Any, Connection, str]],
    answers: dict[int, dict[str, Any]],
    control: Control,
    deadline: float,
) -> None:
    """Waits for the next answer, or for a death, or for the deadline."""
    waiting = {started[n][1]: n for n in range(len(started)) if n not in answers}
    ready = wait(list(waiting), max(deadline - time.monotonic(), 0))
    if not ready:
        got = int((control.got != 0).sum())
        raise Hung(
            f"only {got} of {control.readers} readers ever got a message"
            if control.phase == WARM
            else "while it settled after the warm-up"
            if control.phase == SETTLE
            else "after its last message"
            if control.over()
            else "in the middle of it"
        )
    for connection in ready:
        number = waiting[connection]  # type: ignore[index]
        process, _, log = started[number]
        try:
            good, answer = connection.recv()  # type: ignore[union-attr]
        except EOFError:
            process.join()
            words = last_words(log)
            raise Failed(f"a process ended with {process.exitcode}. {words}".strip()) from None
        if not good:
            raise Failed(answer)
        answers[number] = answer


def end(started: list[tuple[Any, Connection, str]], patience_s: float = 0) -> list[str]:
    """They have answered, and may take a moment to end."""
    deadline = time.monotonic() + (patience_s or 3 + 0.25 * len(started))
    for process, _, _ in started:
        process.join(max(deadline - time.monotonic(), 0))
    slow = sum(process.exitcode is None for process, _, _ in started)
    bad = sorted({p.exitcode for p, _, _ in started if p.exitcode})
    return [f"{slow} of its processes did not end by themselves"] * bool(slow) + [
        f"a process ended with {code}" for code in bad
    ]
