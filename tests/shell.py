"""`shmflow` as it is typed: in this process, piped, in the background, in a pseudo-terminal."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pexpect
import pytest
from click.testing import CliRunner, Result

from shmflow.cli import main

PATIENCE = 20  # s, for whatever is waited for
COMMAND = [sys.executable, "-W", "error", "-m", "shmflow"]
WITHOUT_RICH = "import sys; sys.modules['rich'] = None; from shmflow.cli import main; main()"
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def start(words: Iterable[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd="/",
    )


def run(*args: object, status: int = 0) -> Result:
    """In this process, to its end, which must be with this status: stdout, stderr."""
    done = CliRunner().invoke(main, [*map(str, args)], prog_name="shmflow")
    assert done.exit_code == status, f"{done.exit_code}\n{done.output}\n{done.exception!r}"
    return done


def run_piped(*commands: Iterable[object]) -> list[str]:
    """Processes of their own, all at the same time: what they say, when all have ended with 0."""
    processes = [start(words) for words in commands]
    try:
        ends = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for process, (out, err) in zip(processes, ends, strict=True):
        assert (process.returncode, err) == (0, ""), f"{process.args}\n{out}\n{err}"
    return [out for out, _ in ends]


@contextmanager
def running(*args: object) -> Iterator[subprocess.Popen[str]]:
    """In the background; killed if it still runs at the end."""
    process = start(args)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def terminal(
    *args: object,
    size: tuple[int, int] = (24, 110),
    rich: bool = True,
    program: Sequence[str] = (),
    env: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[pexpect.spawn[str]]:
    """In a pseudo-terminal of so many lines and columns; rich: with it, or as if it were absent;
    program: another one than shmflow."""
    if rich and not program:
        pytest.importorskip("rich")
    words = [*(COMMAND if rich else [sys.executable, "-c", WITHOUT_RICH]), *map(str, args)]
    command, *rest = program or words
    child = pexpect.spawn(
        command,
        rest,
        dimensions=size,
        timeout=PATIENCE,
        encoding="utf-8",
        cwd="/",
        env=os.environ | {"TERM": "xterm-256color"} | env,
    )
    try:
        yield child
    finally:
        child.close(force=True)


def settings(child: pexpect.spawn[str]) -> list[Any]:
    """Of the child's terminal."""
    return termios.tcgetattr(child.child_fd)


def end_of(child: pexpect.spawn[str]) -> str:
    """All it still says, without what moves the cursor; back when it has ended."""
    child.expect(pexpect.EOF)
    said = child.before or ""
    child.wait()
    return SEQUENCE.sub("", said)


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def digest(file: Path) -> tuple[str, int]:
    """Its bytes, and when they last changed."""
    return hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns


def mappings_of(pid: int, file: Path) -> set[str]:
    """The protections of a process's mappings of that file."""
    lines = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return {line[1] for line in lines if len(line) > 5 and line[5].startswith(str(file))}
