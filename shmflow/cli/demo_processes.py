"""What the demo's processes do: one draws frames into the ring, the others read them.

Started by `demo_children` as ``python -m shmflow.cli.demo_processes JOB``. Each ends when the
stream does, and a fraction of a second after the process that started it is gone, however it went.
A crash in one leaves nothing to do for the others: that is what the demo shows.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from itertools import count
from typing import Literal

import shmflow
from shmflow.cli.demo_report import Reporter
from shmflow.cli.demo_stamp import check, stamp
from shmflow.cli.frames import Frame, Painter, Source, SourceError, wait_until

PRODUCER, KEEPER, HOARDER, VICTIM = "draws", "keeps up", "slow, hoards", "killed"

LOOK_UP = 0.2  # seconds: how long a wait lasts before it looks whether the conductor still is there
SLOWNESS = 3  # the hoarder reads every third frame
IMAGE = {"encoding": "bgr8"}


@dataclass(frozen=True)
class Job:
    """What a process is told when it starts."""

    part: str
    role: str
    conductor: int  # pid
    frames: str  # topic
    reports: str  # topic
    start: Literal["oldest", "new"] = "oldest"
    source: Source | None = None  # the producer's

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        values = json.loads(text)
        if values["source"] is not None:
            values["source"] = Source(**values["source"])
        return cls(**values)

    def is_orphaned(self) -> bool:
        return os.getppid() != self.conductor


@dataclass(frozen=True)
class Go:
    """The word that it begins: a line on stdin, when the shape of the frames is known."""

    frame_len: int  # bytes
    fps: float | None
    max_held: int  # bytes

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def wait(cls) -> Go:
        line = sys.stdin.readline()
        if not line:  # nobody is there any more who could say it
            sys.exit(1)
        return cls(**json.loads(line))


def produce(job: Job, reporter: Reporter) -> None:
    """Open the source, tell the shape of its frames, wait for the word, then draw until the end."""
    assert job.source is not None
    painter = job.source.open()
    report = reporter.report
    report.shape, report.fps, report.how = painter.shape, painter.fps, painter.how
    reporter.publish("ready")
    Go.wait()
    with shmflow.Topic(job.frames, "w", create=False) as topic:
        due = time.monotonic()
        for number in count(1):
            due = wait_until(due, painter.fps)
            if job.is_orphaned():
                return
            try:
                send(topic, painter, number)
            except shmflow.Closed:
                break
            report.frames, report.how = number, painter.how
            report.waits = topic.stats().writer_waits
            if reporter.is_due():
                reporter.publish("running")
        report.waits = topic.stats().writer_waits


def send(topic: shmflow.Topic, painter: Painter, number: int) -> None:
    with topic.loan(painter.shape, "uint8", meta=IMAGE) as frame:
        painter.draw(frame, number)
        stamp(frame, number)


def read(job: Job, reporter: Reporter) -> None:
    """Read and check every frame that comes. A hoarder also keeps all that it is given without a
    copy, to the end, and then looks at it again."""
    hoarding = job.role == HOARDER
    hoard: list[tuple[int, Frame]] = []
    # Beyond its cap the hoarder is given copies, and warned once: here that is what is wanted.
    warnings.simplefilter("ignore", RuntimeWarning)
    report = reporter.report
    reporter.publish("ready")
    go = Go.wait()
    with shmflow.Topic(job.frames, "r", start=job.start, max_held=go.max_held) as topic:
        previous: int | None = None
        while not job.is_orphaned():
            if reporter.is_due():
                observe(reporter, topic, go, previous)
                reporter.publish("running")
            try:
                message = topic.read_message(timeout=LOOK_UP)
            except shmflow.Empty:
                continue
            except shmflow.Closed:
                break
            reporter.latencies.append(time.time_ns() - message.timestamp_ns)
            frame: Frame = message.array
            number, right = check(frame)
            report.frames += 1
            report.wrong += not right
            if previous is not None and number != previous + 1 + message.lost:
                report.misplaced += 1
            previous = number
            if hoarding and topic.stats().copied == 0:
                hoard.append((number, frame))
            del message, frame
            if hoarding:
                dawdle(job, topic, SLOWNESS / (go.fps or 30))
        report.checked = len(hoard)
        report.changed = sum(check(frame) != (number, True) for number, frame in hoard)
        observe(reporter, topic, go, previous)
        hoard.clear()


def dawdle(job: Job, topic: shmflow.Topic, seconds: float) -> None:
    """Be slow, but not when the stream has ended."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not topic.ended and not job.is_orphaned():
        time.sleep(min(left, LOOK_UP))


def observe(reporter: Reporter, topic: shmflow.Topic, go: Go, previous: int | None) -> None:
    """Bring the report up to date with what the topic knows of this reader."""
    report, stats = reporter.report, topic.stats()
    report.lost, report.pinned, report.copied = stats.lost, stats.pinned, stats.copied
    report.held = round(stats.held_bytes / go.frame_len)
    report.lag = 0 if previous is None else (topic.head or previous) - previous
    if stats.copied == 0:
        report.how = "zero-copy" if stats.pinned else ""
    else:
        report.how = "some copied" if stats.pinned else "copied"


def main(job: Job) -> int:
    # The conductor's way to end a process early; `with` closes what is open.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    reporter = Reporter(job.reports, job.part)
    try:
        (produce if job.role == PRODUCER else read)(job, reporter)
        reporter.publish("done")
    except SourceError as error:
        reporter.publish("failed", str(error))
        return 1
    except Exception as error:
        reporter.publish("failed", f"{type(error).__name__}: {error}")
        traceback.print_exc()
        return 1
    finally:
        reporter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Job.from_json(sys.argv[1])))
