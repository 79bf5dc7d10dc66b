"""What ``shmflow doctor`` looks at in the folder of topics: what is left over, and whose it is.

Owns these checks only. Looks by monitors: nothing is taken, nothing is removed.
"""

from __future__ import annotations

import os
from pathlib import Path

from shmflow._names import format_size, is_name, name_of, names, path_of
from shmflow.cli import show
from shmflow.cli.doctor_checks import MIB, Finding
from shmflow.cli.show import counted, user_name
from shmflow.cli.watch import Sample, Watch

LARGE = 64 * MIB  # of idle topics together: worth a word
SHOWN = 3


def some(found: list[str]) -> str:
    """'a, b, c and 4 more'."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def strangers(folder: Path) -> Finding:
    """What else lies in the folder and takes its space."""
    found: list[tuple[int, str]] = []
    for path in folder.glob("*"):
        if path.name.startswith("shmflow.") and is_name(name_of(path.name)):
            continue
        try:
            info = path.lstat()
        except OSError:  # removed just now
            continue
        found.append(
            (info.st_blocks * 512, f"{show.printable(path.name)} of {user_name(info.st_uid)}")
        )
    if not found:
        return Finding("neighbours", "OK", "nobody else uses the folder")
    found.sort(reverse=True)
    total = sum(size for size, _ in found)
    listed = some([f"{what} ({format_size(size)})" for size, what in found])
    return Finding("neighbours", "OK", f"{format_size(total)} of others: {listed}")


def permissions(uid: int) -> Finding:
    """Topics of other users: which of them this one may not read."""
    closed, open_ = [], 0
    for name in names():
        try:
            info = os.stat(path_of(name))
        except OSError:
            continue
        if info.st_uid == uid:
            continue
        if os.access(path_of(name), os.R_OK):
            open_ += 1
        else:
            closed.append(f"{name} of {user_name(info.st_uid)}")
    if not closed:
        found = f"{open_} topics of other users, all readable" if open_ else "all topics are yours"
        return Finding("permissions", "OK", found)
    todo = "their owners may open them with permissions=0o660 (group) or 0o644 (monitors)"
    return Finding("permissions", "look", f"not readable: {some(closed)}", todo)


def leftovers(folder: Path) -> list[Finding]:
    """Dead participants, broken topics, unfinished files, and memory that nobody uses."""
    with Watch() as watch:
        samples = watch.sample()
    return [
        _broken([s for s in samples if s.error and os.access(path_of(s.name), os.R_OK)]),
        _dead([s for s in samples if any(not p.alive for p in s.participants)], folder),
        _idle([s for s in samples if not s.error and not s.living]),
    ]


def _broken(samples: list[Sample]) -> Finding:
    if not samples:
        return Finding("topics", "OK", "none is broken")
    todo = f"if nobody needs them: shmflow rm {' '.join(s.name for s in samples[:SHOWN])}"
    return Finding("topics", "bad", some([s.error for s in samples]), todo)


def _dead(samples: list[Sample], folder: Path) -> Finding:
    dead = [
        f"pid {p.pid} ({p.command}) of {s.name}"
        for s in samples
        for p in s.participants
        if not p.alive
    ]
    files = len(list(folder.glob(".shmflow-*")))
    parts = [f"dead and not cleaned up: {some(dead)}"] if dead else []
    parts += [counted(files, "unfinished file")] if files else []
    if not parts:
        return Finding("leftovers", "OK", "no dead participants, no unfinished files")
    todo = "the next who needs their place takes it; at once: shmflow clean (files after an hour)"
    return Finding("leftovers", "look", "; ".join(parts), todo)


def _idle(samples: list[Sample]) -> Finding:
    sizes = []
    for sample in samples:
        try:
            sizes.append((os.stat(path_of(sample.name)).st_blocks * 512, sample.name))
        except OSError:  # removed just now
            continue
    total = sum(size for size, _ in sizes)
    if not sizes:
        return Finding("idle topics", "OK", "none")
    sizes.sort(reverse=True)
    listed = some([f"{name} ({format_size(size)})" for size, name in sizes])
    found = f"{format_size(total)} that nobody is attached to: {listed}"
    if total < LARGE:
        return Finding("idle topics", "OK", found)
    return Finding("idle topics", "look", found, "if nobody needs them: shmflow rm --idle")
