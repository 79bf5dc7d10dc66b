"""Who is in whose way, in sentences: from two samples of a topic and two looks at its lock.

Owns the words and the thresholds. Judges counters only, so it says what is so, not what will be.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from shmflow.cli import show

if TYPE_CHECKING:
    from shmflow._core import Participant
    from shmflow.cli.watch import Flow

MUCH = 0.25  # of the capacity: from there on, who holds it is told of


def is_stopped(pid: int) -> bool:
    """By SIGSTOP, Ctrl-Z or a debugger."""
    from shmflow._texts import _state_of

    return bool(_state_of(pid))


def who(participant: Participant) -> str:
    from shmflow._texts import who

    return who(participant)


def waiting(flow: Flow) -> list[Participant]:
    """Writers that had to wait for room since the first sample."""
    from shmflow.cli.watch import key_of

    return [p for p in flow.now.living if flow.waits.get(key_of(p), 0) > 0]


def stuck(flow: Flow) -> list[Participant]:
    """Writers that have waited, and wrote nothing since the first sample. (A wait is counted when
    it begins, so one that lasts is not counted again.)"""
    from shmflow.cli.watch import key_of

    waits, written = flow.waits, flow.written
    return [
        p
        for p in flow.now.living
        if p.writer_waits > 0 and not (waits.get(key_of(p)) or written.get(key_of(p)))
    ]


def laggards(flow: Flow) -> list[list[Participant]]:
    """Lossless readers, or the members of lossless groups, that have yet to read the oldest
    message, so that it may not go. The furthest behind first."""
    from shmflow.cli.watch import key_of

    behind: dict[object, list[Participant]] = defaultdict(list)
    for p in flow.now.living:
        if p.lossless and p.lag >= max(1, flow.now.retained):
            behind[p.group or key_of(p)].append(p)
    return sorted(behind.values(), key=lambda members: -members[0].lag)


def of_laggards(flow: Flow) -> list[str]:
    is_full = flow.now.retained >= flow.now.depth
    writers = waiting(flow) + stuck(flow)
    if not is_full and not writers:
        return []  # there is room yet
    told = []
    for members in laggards(flow):
        one = members[0]
        subject = ", ".join(who(p) for p in members)
        if one.group:
            subject = f"group {one.group!r} ({subject})"
        text = f"{subject} is {show.counted(one.lag, 'message')} behind and lossless: "
        text += "writers wait for it" if writers else "the next write waits for it"
        stopped = [p for p in members if is_stopped(p.pid)]
        if stopped:
            text += f"; pid {stopped[0].pid} is stopped (kill -CONT {stopped[0].pid})"
        told.append(text)
    return told


def of_writers(flow: Flow) -> list[str]:
    from shmflow.cli.watch import key_of

    told = []
    for p in waiting(flow):
        waits, written = flow.waits[key_of(p)], flow.written[key_of(p)]
        told.append(
            f"{who(p)} had to wait for room {show.counted(waits, 'time')} in "
            f"{show.span(flow.seconds)}, in which it wrote {show.counted(written, 'message')}"
        )
    if laggards(flow) or flow.now.held_bytes >= MUCH * flow.now.capacity:
        told += [
            f"{who(p)} wrote nothing for {show.span(flow.seconds)}: it waits for room, or has "
            "nothing to write"
            for p in stuck(flow)
        ]
    return told


def of_holders(flow: Flow) -> list[str]:
    now = flow.now
    told = []
    for p in sorted(now.living, key=lambda p: -p.held_bytes):
        if now.capacity and p.held_bytes >= MUCH * now.capacity:
            share = 100 * p.held_bytes / now.capacity
            told.append(
                f"{who(p)} holds {show.size(p.held_bytes)} of the ring ({share:.0f} %) in "
                f"{show.counted(p.held_blocks, 'block')}; the flow has the rest"
            )
    return told


def of_losers(flow: Flow) -> list[str]:
    from shmflow.cli.watch import key_of

    return [
        f"{who(p)} lost {show.counted(lost, 'message')} in {show.span(flow.seconds)}: "
        "it reads more slowly than they come"
        for p in flow.now.living
        if (lost := flow.lost.get(key_of(p), 0)) > 0
    ]


def of_lock(
    flow: Flow, first: tuple[int, str, int] | None, then: tuple[int, str, int] | None
) -> list[str]:
    """The lock is held for microseconds: only a holder that stays is told of."""
    if then is None:
        return []
    pid, command, _ = then
    if is_stopped(pid):
        return [
            f"pid {pid} ({command}) holds the writer lock and is stopped: no write gets through "
            f"until it goes on (kill -CONT {pid}) or ends"
        ]
    if first == then and flow.messages == 0:
        return [f"pid {pid} ({command}) holds the writer lock, and nothing was written meanwhile"]
    return []


def of_dead(flow: Flow) -> list[str]:
    held: dict[str, int] = defaultdict(int)
    for p in flow.now.participants:
        if not p.alive:
            held[who(p)] += p.held_bytes
    return [
        f"{name} died{f', holding {show.size(nbytes)}' if nbytes else ''}: its place is taken back "
        "by the next to attach, or by shmflow clean"
        for name, nbytes in held.items()
    ]


def sentences(
    flow: Flow, first: tuple[int, str, int] | None = None, then: tuple[int, str, int] | None = None
) -> list[str]:
    """All there is to say; `first`, `then`: who held the writer lock at the two samples."""
    told = of_lock(flow, first, then) + of_laggards(flow) + of_writers(flow)
    return told + of_holders(flow) + of_losers(flow) + of_dead(flow)
