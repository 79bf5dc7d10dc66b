"""Starting, killing and reaping the demo's processes.

A child gets a process group of its own, so that Ctrl-C reaches the conductor alone; what it prints
goes to a file and is shown only when it fails. Whatever happens, `end_all` leaves none behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time

from shmflow.cli.demo_processes import Go, Job


class Child:
    """One process of the demo."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.output = tempfile.TemporaryFile()
        # It finds the packages where this process found them, also when run from a checkout.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "shmflow.cli.demo_processes", job.to_json()],
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=self.output,
            env=os.environ | {"PYTHONPATH": path},
            process_group=0,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def status(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def go(self, word: Go) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word.to_line())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; its status tells

    def kill(self) -> None:
        """SIGKILL, and back when it is gone."""
        self.process.kill()
        self.close()

    def close(self) -> None:
        """Reap it, and let go of its pipe and its file."""
        self.process.wait()
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                pass
        self.output.close()

    def last_words(self) -> str:
        """How it ended, and the last line it printed."""
        status = self.status or 0
        end = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").strip().splitlines()
        return f"{end} ({lines[-1]})" if lines else end


def end_all(children: list[Child], patience: float = 2.0) -> None:
    """SIGTERM, and SIGKILL for those who do not heed it."""
    for child in children:
        if child.status is None:
            child.process.terminate()
    deadline = time.monotonic() + patience
    for child in children:
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
        child.close()
    children.clear()
