"""`shmflow` as it is typed: in this process, piped, in the background, in a pseudo-terminal.

Owns how each of these is started, waited for and ended. Processes run the installed package, not
the checkout, and a warning is an error in them and in their children. Their environment is this
process's: a test changes it with monkeypatch.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import pexpect
import pytest
from click.testing import CliRunner, Result

from shmflow.cli import main

PATIENCE = 20  # s, for whatever is waited for
PYTHON = (sys.executable, "-P")  # -P: without the folder it is started in, the checkout
COMMAND = (*PYTHON, "-m", "shmflow")
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")  # moves the cursor, or sets a colour


def without(module: str) -> Sequence[str]:
    """The command where this module is not installed."""
    script = f"import sys; sys.modules[{module!r}] = None; from shmflow.cli import main; main()"
    return (*PYTHON, "-c", script)


with_rich_and_without = pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            COMMAND,
            marks=pytest.mark.skipif(find_spec("rich") is None, reason="rich is not installed"),
            id="rich",
        ),
        pytest.param(without("rich"), id="plain"),
    ],
)


def environment() -> dict[str, str]:
    """Of the processes: this one's, but that warnings are errors and a cursor can be moved."""
    return os.environ | {"PYTHONWARNINGS": "error", "TERM": "xterm-256color"}


def run(*args: object, status: int = 0) -> Result:
    """In this process, to its end, which must be with this status: stdout, stderr, output (both).
    Much quicker than a process."""
    done = CliRunner().invoke(main, [*map(str, args)], prog_name="shmflow")
    told = f"{done.exit_code}\n{done.output}\n{done.exception!r}"
    assert done.exit_code == status and isinstance(done.exception, SystemExit | None), told
    return done


def piped(
    *args: object, stdin: bytes = b"", command: Sequence[str] = COMMAND
) -> tuple[int, str, str]:
    """In a process of its own, to its end: exit status, stdout, stderr."""
    done = subprocess.run(
        [*command, *map(str, args)],
        input=stdin,
        capture_output=True,
        timeout=3 * PATIENCE,
        env=environment(),
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Running(subprocess.Popen):
    """In the background, its output piped; killed if it still runs when the block ends."""

    def __init__(self, *args: object) -> None:
        super().__init__(
            [*COMMAND, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.communicate()

    def finish(self) -> tuple[int, str, str]:
        """Wait for its end: exit status, the rest of stdout, the rest of stderr."""
        out, err = self.communicate(timeout=PATIENCE)
        return self.returncode, out, err

    def interrupt(self, signum: int = signal.SIGINT) -> tuple[int, str, str]:
        """Ctrl-C, or another signal, and `finish`."""
        self.send_signal(signum)
        return self.finish()


def side_by_side(*commands: Iterable[object]) -> list[str]:
    """Piped, all at the same time: what each says, when all have ended with 0 and no complaint."""
    with ExitStack() as stack:
        processes = [stack.enter_context(Running(*words)) for words in commands]
        ends = [process.finish() for process in processes]
    assert [(status, err) for status, _, err in ends] == [(0, "")] * len(ends), ends
    return [out for _, out, _ in ends]


class Terminal(pexpect.spawn):
    """In a pseudo-terminal of so many columns, which is closed when the block ends.

    `command` may be another one than shmflow. `said` is what came at the end, after all that was
    expected: without colours and what moves the cursor, which `before` has."""

    def __init__(self, *args: object, columns: int = 110, command: Sequence[str] = COMMAND) -> None:
        program, *words = [*command, *map(str, args)]
        super().__init__(
            program,
            words,
            timeout=PATIENCE,
            encoding="utf-8",
            env=environment(),
            dimensions=(24, columns),
        )
        self.modes = termios.tcgetattr(self.child_fd)

    def is_as_before(self) -> bool:
        """Has the terminal the modes (echo, waiting for Enter, ...) that it began with?"""
        return termios.tcgetattr(self.child_fd) == self.modes

    def finish(self) -> int:
        """Wait for its end, at which the terminal must be as it was before: the exit status."""
        self.expect(pexpect.EOF)
        self.said = SEQUENCE.sub("", self.before)
        self.wait()
        assert self.is_as_before(), f"the terminal is not as it was: {self.said}"
        assert self.exitstatus is not None, f"ended by signal {self.signalstatus}: {self.said}"
        return self.exitstatus

    def ctrl_c(self) -> int:
        """Press it, and `finish`."""
        self.sendintr()
        return self.finish()


def until(condition: Callable[[], Any], what: str) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)
    return value
