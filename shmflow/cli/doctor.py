"""``shmflow doctor``: is this machine well for shmflow, and what to do if not.

Owns the command, the order of the checks and how they are printed. What is checked, and how it is
judged, is in doctor_checks (the machine), doctor_topics (the folder) and doctor_trial (a run).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shmflow.cli import show

if TYPE_CHECKING:
    from shmflow.cli.doctor_checks import Finding

COLOURS = {"OK": "green", "look": "yellow", "bad": "red"}
INDENT = " " * 20


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One object per check and line.")
def command(as_json: bool) -> None:
    """Look whether this machine is well for shmflow, and say what to do if not.

    Kernel, /dev/shm, limits, cgroup, container, logind, clock, processors, leftovers of dead
    processes, and a trial run with a child process that is killed. Changes nothing.

    \b
    Exit status:
      0    all is well, or deserves a look at most
      1    something is bad: shmflow does not work here, or not all of it
      130  you pressed Ctrl-C
    """
    counts = dict.fromkeys(COLOURS, 0)
    for finding in findings():
        counts[finding.level] += 1
        if as_json:
            show.print_json(
                {
                    "check": finding.check,
                    "level": finding.level,
                    "found": finding.found,
                    "todo": finding.todo,
                }
            )
        else:
            print_finding(finding)
    if not as_json:
        click.echo(verdict(counts))
    sys.exit(1 if counts["bad"] else 0)


def print_finding(finding: Finding) -> None:
    level = click.style(f"{finding.level:<4}", fg=COLOURS[finding.level])
    first, *more = folded(finding.found)
    click.echo(f"{level}  {finding.check:<12}  {first}")
    for line in more:
        click.echo(INDENT + line)
    for line in folded(finding.todo):
        click.echo(click.style(INDENT + line, dim=finding.level == "OK"))
    sys.stdout.flush()


def folded(text: str) -> list[str]:
    """As many lines as it takes on a terminal; one in a pipe."""
    if not show.on_terminal() or not text:
        return [text] if text else []
    width = max(40, show.terminal_width() - len(INDENT))
    return textwrap.wrap(text, width, break_on_hyphens=False)


def verdict(counts: dict[str, int]) -> str:
    if counts["bad"]:
        word = "is" if counts["bad"] == 1 else "are"
        return f"\n{counts['bad']} of {sum(counts.values())} checks {word} bad: see above."
    if counts["look"]:
        word = "deserves" if counts["look"] == 1 else "deserve"
        return f"\nIt works; {counts['look']} of {sum(counts.values())} checks {word} a look."
    return "\nAll is well."


def findings() -> Iterator[Finding]:
    """All checks, in the order in which they are told."""
    from shmflow._names import folder
    from shmflow.cli import doctor_checks as checks
    from shmflow.cli import doctor_topics as topics
    from shmflow.cli import doctor_trial

    root, where = Path("/"), folder()
    yield checks.Finding("versions", "OK", versions())
    yield checks.kernel(platform.release())
    yield checks.processors(root, platform.machine(), len(os.sched_getaffinity(0)))
    yield checks.clock(root, clock_cost())
    yield checks.huge_pages(root, where)
    container = checks.container(root, os.environ, where)
    yield container
    refusal = doctor_trial.lack(where) if os.path.isdir(where) else ""
    place = checks.location(root, where, bool(os.environ.get("SHMFLOW_DIR")), refusal)
    yield place
    if os.path.isdir(where):
        fs = os.statvfs(where)
        in_container = bool(checks.container_kind(root, os.environ))
        mount = checks.mount_at(root, where)
        yield checks.space(
            where, fs.f_blocks * fs.f_frsize, fs.f_bavail * fs.f_frsize, in_container, mount
        )
        yield checks.inodes(fs.f_files, fs.f_favail)
        yield topics.strangers(Path(where))
    yield from checks.limits(root)
    yield checks.memory_limit(root)
    yield checks.remove_ipc(root, os.getuid(), show.user_name(os.getuid()), where)
    if os.path.isdir(where):
        yield topics.permissions(os.getuid())
        yield from topics.leftovers(Path(where))
    if place.level != "bad":
        yield doctor_trial.trial()


def clock_cost() -> float:
    """Nanoseconds of one reading of CLOCK_MONOTONIC from Python, the best of some tries."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter_ns()
        for _ in range(1000):
            time.monotonic_ns()
        best = min(best, (time.perf_counter_ns() - began) / 1000)
    return best


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in ("shmflow", "numpy", "rich"):
        found.append(f"{name} {version_of(name) or 'none'}")
    opencv = next(filter(None, map(version_of, OPENCV)), None)
    return ", ".join([*found, f"OpenCV {opencv or 'none'}"])


OPENCV = tuple(
    f"opencv{contrib}-python{headless}"
    for contrib in ("", "-contrib")
    for headless in ("-headless", "")
)


def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
