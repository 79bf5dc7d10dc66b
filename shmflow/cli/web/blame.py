"""Who is in whose way, in sentences.

Owns the rules: what of a topic's counters is worth a sentence. Reads what a monitor may read.
"""

from __future__ import annotations

from shmflow._core import Participant, Topic
from shmflow._names import format_size
from shmflow._texts import _state_of, who
from shmflow.cli.watch import Flow, key_of

MUCH = 0.25  # of the capacity, held by one


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def grew(flow: Flow, participant: Participant, counter: str) -> int:
    """By how much a counter of a participant did, since the sample before."""
    for was in flow.before.participants:
        if key_of(was) == key_of(participant):
            return max(0, int(getattr(participant, counter)) - int(getattr(was, counter)))
    return 0


def blame(monitor: Topic, flow: Flow) -> list[str]:
    """Sentences, the worst first; none if all flows."""
    living = flow.now.living
    found = []
    holder = monitor._lock_holder()
    if holder is not None and (state := _state_of(holder[0])):
        found.append(
            f"pid {holder[0]} ({holder[1]}){state}, has the writer lock: writers wait until it "
            "goes on (kill -CONT) or ends"
        )
    waiting = [p for p in living if "w" in p.mode and grew(flow, p, "writer_waits")]
    behind = sorted((p for p in living if p.lossless and p.lag), key=lambda p: -p.lag)
    full = bool(behind) and behind[0].lag >= flow.now.retained > 0
    if behind and (waiting or full):
        whom = ", ".join(who(p) for p in waiting) or "Writers"
        verb = "waits" if len(waiting) == 1 else "wait"
        found.append(
            f"{whom} {verb} for {who(behind[0])}{_state_of(behind[0].pid)}: a lossless reader, "
            f"{plural(behind[0].lag, 'message')} behind"
        )
    for p in sorted(living, key=lambda p: -p.held_bytes):
        if flow.now.capacity and p.held_bytes > MUCH * flow.now.capacity:
            found.append(
                f"{who(p)} holds {plural(p.held_blocks, 'block')}, {format_size(p.held_bytes)} of "
                f"{format_size(flow.now.capacity)}: what is retained for others is less"
            )
    for p in living:
        if lost := grew(flow, p, "lost"):
            found.append(
                f"{who(p)}{_state_of(p.pid)} is too slow: lost {plural(lost, 'message')} in "
                f"{flow.seconds:.1f} s"
            )
    dead = [p for p in flow.now.participants if not p.alive]
    if dead:
        found.append(
            f"{', '.join(who(p) for p in dead[:3])} died attached; the next to join, or shmflow "
            "clean, takes back what was held"
        )
    return found
