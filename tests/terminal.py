"""Commands of `shmflow` as a user runs them: in a pipe, and in a real pseudo-terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
from click.testing import CliRunner

from shmflow.cli import main

SHMFLOW = [sys.executable, "-P", "-m", "shmflow"]  # -P: the installed one, not the checkout's
PATIENCE = 20  # seconds


def environment(**extra: str) -> dict[str, str]:
    return os.environ | {"PYTHONWARNINGS": "error", "TERM": "xterm", "COLUMNS": "100"} | extra


def shmflow(*words: str | Path, stdin: bytes = b"", **env: str) -> tuple[int, str, str]:
    """Run a command to its end, piped: (exit status, stdout, stderr)."""
    done = subprocess.run(
        [*SHMFLOW, *map(str, words)],
        input=stdin,
        capture_output=True,
        timeout=60,
        env=environment(**env),
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def within(*words: str) -> tuple[int, str]:
    """Run a command in this process, where all that counts is what it refuses: (exit status, what
    it said). Much quicker than a process."""
    result = CliRunner().invoke(main, list(words), prog_name="shmflow")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


class Piped:
    """A command that runs beside the test, its output piped; ended when the block ends."""

    def __init__(self, *words: str | Path, **env: str) -> None:
        self.process = subprocess.Popen(
            [*SHMFLOW, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(PYTHONUNBUFFERED="1", **env),
            text=True,
        )

    def __enter__(self) -> Piped:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def interrupt(self, signum: int = signal.SIGINT) -> tuple[int, str, str]:
        """Ctrl-C: (exit status, the rest of stdout, the rest of stderr)."""
        self.process.send_signal(signum)
        return self.finish()

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


class InTerminal(pexpect.spawn):
    """A command in a pseudo-terminal of 100 columns; closed when the block ends."""

    def __init__(self, *words: str | Path, **env: str) -> None:
        command, *arguments = [*SHMFLOW, *map(str, words)]
        super().__init__(
            command,
            arguments,
            timeout=PATIENCE,
            encoding="utf-8",
            env=environment(**env),
            dimensions=(40, 100),
        )
        self.modes = termios.tcgetattr(self.child_fd)

    def __exit__(self, *_: object) -> None:
        self.close(force=True)

    def ctrl_c(self) -> int:
        """Press it, wait for the end: the exit status. The terminal is as it was."""
        self.sendintr()
        return self.ended()

    def ended(self) -> int:
        self.expect(pexpect.EOF)
        assert termios.tcgetattr(self.child_fd) == self.modes
        self.wait()
        assert self.exitstatus is not None, f"ended by signal {self.signalstatus}"
        return self.exitstatus


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)
