"""What came of the demo, in plain words, and whether all was well.

Owns the verdict: `failures` is empty exactly when the exit status may say success.
"""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from shmflow.cli.demo_processes import PRODUCER
from shmflow.cli.demo_report import Part
from shmflow.cli.demo_table import span
from shmflow.cli.show import counted


@dataclass(frozen=True)
class Outcome:
    """All that is known when the last process is gone."""

    parts: list[Part]
    faults: list[str]  # processes that failed, in words
    left: list[str]  # files left in /dev/shm
    shape: tuple[int, ...]
    elapsed: float  # seconds the frames flowed
    fps: float | None  # what was asked for
    interrupted: int  # by this signal, or 0

    def total(self, name: str) -> int:
        return sum(part.total(name) for part in self.parts)

    @property
    def written(self) -> int:
        return sum(part.total("frames") for part in self.parts if part.role == PRODUCER)

    @property
    def readers(self) -> list[Part]:
        return [part for part in self.parts if part.role != PRODUCER]

    @property
    def read(self) -> int:
        return sum(part.total("frames") for part in self.readers)


def failures(outcome: Outcome) -> list[str]:
    """What was not as promised, one sentence each."""
    found = list(outcome.faults)
    if wrong := outcome.total("wrong"):
        found.append(f"{wrong} frames had a wrong checksum")
    if changed := outcome.total("changed"):
        found.append(f"{changed} frames changed while they were held")
    if misplaced := outcome.total("misplaced"):
        found.append(f"{misplaced} frames came out of order, or the loss told was not the real one")
    if waits := outcome.total("waits"):
        found.append(f"the producer waited {waits} times for a reader")
    if outcome.left:
        found.append(f"left in /dev/shm, now removed: {', '.join(outcome.left)}")
    if not outcome.interrupted and not outcome.faults:
        if not outcome.written:
            found.append("no frame was written")
        idle = [part.name for part in outcome.readers if not part.total("frames")]
        found += [f"{name} read nothing" for name in idle]
    return found


def summary(outcome: Outcome) -> Iterator[str]:
    """The last words of the demo, line by line."""
    width = max(40, min(80, shutil.get_terminal_size().columns)) - 1
    for words in paragraphs(outcome):
        yield from textwrap.wrap(words, width, subsequent_indent="  ") or [""]


def paragraphs(outcome: Outcome) -> Iterator[str]:
    if outcome.interrupted:
        yield "Interrupted." if outcome.written else "Interrupted before the first frame."
    if outcome.written:
        yield flow(outcome)
        yield ""
        for part in outcome.readers:
            yield f"{part.name} {fate(part)}"
        yield ""
        yield (
            f"Wrong checksums: {outcome.total('wrong')} in {outcome.read} frames read. "
            f"Writer waits: {outcome.total('waits')}. "
            f"Left in /dev/shm: {', '.join(outcome.left) or 'nothing'}."
        )
    if found := failures(outcome):
        yield from (f"NOT WELL: {sentence}." for sentence in found)
    elif outcome.written:
        yield "All is well."


def flow(outcome: Outcome) -> str:
    """What went through."""
    frame_len = math.prod(outcome.shape)
    height, width = outcome.shape[:2]
    seconds = max(outcome.elapsed, 1e-9)
    rate = f"{outcome.written / seconds:.1f} per second"
    if outcome.fps is not None and outcome.written < 0.9 * outcome.fps * seconds:
        rate += f" ({outcome.fps:g} were asked for: more than this machine can do now)"
    into, out_of = (count * frame_len / seconds for count in (outcome.written, outcome.read))
    return (
        f"{outcome.written} frames of {width}x{height} ({megabytes(frame_len)} each) "
        f"in {outcome.elapsed:.1f} s: {rate}, "
        f"{megabytes(into)}/s written, {megabytes(out_of)}/s read by "
        f"{counted(len(outcome.readers), 'reader')}."
    )


def megabytes(count: float) -> str:
    value = count / 1e6
    return f"{value:.0f} MB" if value >= 10 else f"{value:.2g} MB"


def fate(part: Part) -> str:
    """What became of one reader."""
    lost = part.total("lost")
    words = f"read {part.total('frames')} frames"
    if percentiles := part.percentiles(recent=False):
        words += f", half of them within {span(percentiles[0])}, 99 % within {span(percentiles[1])}"
    words += f", and lost {lost}, which it was told" if lost else ", and lost none"
    if checked := part.total("checked"):
        changed = part.total("changed")
        words += f"; held {checked} of them to the end, "
        words += f"{changed} OF WHICH CHANGED" if changed else "none of which changed"
    if copied := part.total("copied"):
        words += f"; {copied} it got as copies"
        words += ", once it held its fill" if checked else ""
    if part.kills:
        words += (
            f"; killed {'once' if part.kills == 1 else f'{part.kills} times'}, to nobody's harm"
        )
    return words + "."
