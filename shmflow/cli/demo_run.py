"""The demo's conductor: starts the processes, kills one now and then, ends them, adds up.

Owns the two topics (frames and reports, both temporary: they vanish with their last participant)
and the order of things. It attaches to the frames as a writer that never writes, so it can say who
is there and end the stream, and is in nobody's way.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Literal

import numpy as np

import shmflow
from shmflow.cli.demo_children import Child, end_all
from shmflow.cli.demo_processes import HOARDER, KEEPER, PRODUCER, VICTIM, Go, Job
from shmflow.cli.demo_report import Part
from shmflow.cli.demo_summary import Outcome, failures, summary
from shmflow.cli.demo_table import PlainView, RichView, open_view
from shmflow.cli.frames import Source

RING = (48, 24, 12)  # frames: as many as there is room for
FIRST_KILL, KILL_EVERY = 1.5, 2.0  # seconds
START_UP = 60.0  # seconds: how long the processes may take to be ready
DRAIN = 20.0  # seconds: how long they may take to end
HEADER = 4096  # bytes a message may need beside its frame


class DemoError(Exception):
    """The demo could not run; the text says why."""


class Stop:
    """Ctrl-C, hang-up and SIGTERM only leave a note; `signum` is 0 as long as there was none.

    A second one says that even a clean end takes too long.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.signum = 0
        self.impatient = False

    def __enter__(self) -> Stop:
        self.before = {signum: signal.signal(signum, self._note) for signum in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.impatient = self.signum != 0
        self.signum = self.signum or signum


class Demo:
    """One run. `prepare`, `flow`, `drain` in this order; `clear_up` in any case."""

    def __init__(self, source: Source, seconds: float, stop: Stop) -> None:
        self.source, self.seconds, self.stop = source, seconds, stop
        self.name = f"demo-{os.getpid()}"
        self.parts: dict[str, Part] = {}
        self.children: list[Child] = []
        self.faults: list[str] = []  # processes that did not end as they should
        self.reports: shmflow.Topic | None = None
        self.frames: shmflow.Topic | None = None
        self.word: Go | None = None
        self.shape: tuple[int, ...] = ()
        self.ring = 0  # frames
        self.elapsed = 0.0  # seconds since the first frame

    def prepare(self, readers: int) -> None:
        """Everything up to the first frame: processes, the shape, the ring, readers in place."""
        self.reports = shmflow.Topic(
            f"{self.name}/reports", capacity="1 MiB", temporary=True, replace=True
        )
        self._start("producer", PRODUCER)
        for number in range(1, readers + 1):
            self._start(f"reader {number}", {2: HOARDER, 3: VICTIM}.get(number, KEEPER))
        self._wait_for(lambda: all(part.is_ready for part in self.parts.values()), "be ready")
        if self.stop.signum:
            return
        producer = self.parts["producer"].last
        assert producer is not None
        self.shape = tuple(producer.report.shape)
        self._make_ring(producer.report.fps)
        assert self.frames is not None and self.word is not None
        waiting = {child.pid for child in self.children[1:]}
        for child in self.children[1:]:
            child.go(self.word)
        frames = self.frames
        self._wait_for(
            lambda: waiting <= {one.pid for one in frames.participants()}, "attach to the ring"
        )
        self.children[0].go(self.word)

    def flow(self, view: PlainView | RichView) -> None:
        """Let it flow; kill and restart the victims; show."""
        began = time.monotonic()
        next_kill = FIRST_KILL
        while not self.stop.signum and not self.faults and self.elapsed < self.seconds:
            self._listen()
            self.elapsed = time.monotonic() - began
            if self.elapsed >= next_kill:
                next_kill += KILL_EVERY
                for child in [child for child in self.children if child.job.role == VICTIM]:
                    self._kill_and_restart(child)
            self._look_after_children()
            view.update(list(self.parts.values()), self._caption())
        view.finish(list(self.parts.values()), self._caption())

    def drain(self) -> None:
        """End the stream; the readers take what is left, look at what they hold, and end."""
        assert self.frames is not None
        self.frames.shutdown()
        deadline = time.monotonic() + DRAIN
        while self.children and time.monotonic() < deadline and not self.stop.impatient:
            self._listen()
            self._look_after_children()
        for child in self.children:
            self.faults.append(f"{child.job.part} (pid {child.pid}) did not end by itself")
        end_all(self.children)
        self._listen()

    def clear_up(self) -> list[str]:
        """No process, no topic. Returns the files that were left in spite of it, now removed."""
        end_all(self.children)
        for topic in (self.frames, self.reports):
            if topic is not None:
                topic.close()
        left = sorted(Path(os.environ.get("SHMFLOW_DIR", "/dev/shm")).glob(f"*{self.name}+*"))
        for path in left:
            path.unlink(missing_ok=True)
        return [path.name for path in left]

    def _start(self, name: str, role: str, start: Literal["oldest", "new"] = "oldest") -> Child:
        part = self.parts.setdefault(name, Part(name, role))
        part.waiting = True
        job = Job(
            part=name,
            role=role,
            conductor=os.getpid(),
            frames=f"{self.name}/frames",
            reports=f"{self.name}/reports",
            start=start,
            source=self.source if role == PRODUCER else None,
        )
        self.children.append(Child(job))
        return self.children[-1]

    def _kill_and_restart(self, child: Child) -> None:
        assert self.word is not None
        child.kill()
        self.children.remove(child)
        self.parts[child.job.part].kills += 1
        self._start(child.job.part, child.job.role, start="new").go(self.word)

    def _make_ring(self, fps: float | None) -> None:
        """The frames' topic, with room for as many frames as /dev/shm has room for."""
        frame_len = int(np.prod(self.shape))
        for self.ring in RING:
            capacity = self.ring * (frame_len + HEADER)
            try:
                self.frames = shmflow.Topic(
                    f"{self.name}/frames",
                    "w",
                    capacity=capacity,
                    max_message=frame_len + HEADER,
                    temporary=True,
                    replace=True,
                )
            except shmflow.NoSpace as error:
                text = str(error)
                continue
            self.word = Go(frame_len, fps, max_held=capacity // 2)
            return
        raise DemoError(f"{text}; or choose a smaller --size")

    def _listen(self) -> None:
        """Take in the reports that are there; wait for the first one for a moment."""
        assert self.reports is not None
        timeout = 0.05
        while True:
            try:
                message = self.reports.read_message(timeout=timeout)
            except shmflow.Empty:
                return
            assert message.meta is not None
            self.parts[message.meta["part"]].take(message)
            timeout = 0

    def _look_after_children(self) -> None:
        """Reap those who have ended; note who did not end well."""
        for child in [child for child in self.children if child.status is not None]:
            self._listen()
            life = self.parts[child.job.part].last
            if life is not None and life.report.pid == child.pid and life.report.text:
                self.faults.append(f"{child.job.part}: {life.report.text}")
            elif child.status != 0:
                self.faults.append(f"{child.job.part}: {child.last_words()}")
            child.close()
            self.children.remove(child)

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_UP
        while not condition() and not self.stop.signum:
            self._listen()
            self._look_after_children()
            if self.faults:
                raise DemoError("; ".join(self.faults))
            if time.monotonic() > deadline:
                raise DemoError(f"the processes took more than {START_UP:.0f} s to {what}")

    def _caption(self) -> str:
        height, width, _ = self.shape
        return (
            f"{self.elapsed:.1f} of {self.seconds:g} s · {self.source.title}, {width}x{height} · "
            f"ring of {self.ring} · {self.name}/frames"
        )


def run(source: Source, *, seconds: float, readers: int) -> int:
    """Run the demo and print what came of it. Returns the exit status; raises DemoError."""
    with Stop() as stop:
        demo = Demo(source, seconds, stop)
        try:
            demo.prepare(readers)
            if not stop.signum:
                with open_view() as view:
                    demo.flow(view)
                demo.drain()
        except BrokenPipeError:  # as in `shmflow demo | head`: nobody reads on
            raise
        except (shmflow.Error, OSError) as error:
            raise DemoError(str(error)) from error
        finally:
            left = demo.clear_up()
    outcome = Outcome(
        parts=list(demo.parts.values()),
        faults=demo.faults,
        left=left,
        shape=demo.shape,
        elapsed=demo.elapsed,
        fps=demo.word.fps if demo.word else None,
        interrupted=stop.signum,
    )
    print(*summary(outcome), sep="\n")
    if failures(outcome):
        return 1
    return 128 + stop.signum if stop.signum else 0
