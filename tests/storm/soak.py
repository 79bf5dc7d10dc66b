"""Many millions of small messages, frames that are held, and processes that come, go and die.

    python tests/storm/soak.py --minutes 5 [--messages 100000000] [--seed S]

Owns: its processes, its private directory of segments, and the judgement: every message is whole
and in order, read + lost + skipped is what was written for each reader that lived through, and
nothing grows: memory, descriptors, mappings, shared memory.
Does not own: deaths at chosen moments (the C program beside it); figures of speed (benchmarks/).

Ends after so many minutes, or so many messages of the main writer. Exit status 1 on a violation.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from soak_people import (
    FRAME_LEN,
    GO,
    HELD_FRAMES,
    MOST_WRITERS,
    READERS_STOP,
    WRITERS_STOP,
    Violation,
    board,
    demand,
    hold_frames,
    make_topics,
    read_messages,
    read_small,
    tell_what_is_left,
    visit_frames,
    visit_small,
    write_frames,
    write_small,
)

# Windows' lowest values are compared, so what comes and goes does not count: only what stays. One
# pymalloc arena (1 MiB), partly used at one end and not at the other, and what malloc keeps on
# top before it trims, are no leak; 1 byte for each of 100 million messages would be 100 MB.
SLACK = 2 << 20
LEAST_SAMPLES = 30
# A frame out of the lane is a private copy, a loan that finds no room is private memory: as many as
# are held may be such. A leak of frames would be 80 MB each second.
PRIVATE_FRAMES = {"holds frames": HELD_FRAMES + 1, "writes frames": 2}


@dataclasses.dataclass
class Sample:
    """What a process holds at a moment."""

    rss: int
    anon: int
    pss: int
    fds: int
    maps: int


def kibibytes(path: Path) -> dict[str, int]:
    """The lines `Name: 12 kB` of a file of /proc, in bytes."""
    words = (line.split() for line in path.read_text().splitlines())
    return {w[0].rstrip(":"): int(w[1]) * 1024 for w in words if w[-1] == "kB"}


def sample(pid: int) -> Sample:
    room = Path(f"/proc/{pid}")
    status, rollup = kibibytes(room / "status"), kibibytes(room / "smaps_rollup")
    return Sample(
        rss=status["VmRSS"],
        anon=status["RssAnon"],
        pss=rollup["Pss_Anon"],  # a share in libraries changes with whoever else uses them
        fds=len(os.listdir(room / "fd")),
        maps=(room / "maps").read_bytes().count(b"\n"),
    )


class Soak:
    """Starts, disturbs, samples, ends and judges."""

    def __init__(self, minutes: float, messages: int, seed: int) -> None:
        self.seconds, self.messages, self.chance = minutes * 60, messages, random.Random(seed)
        base = os.environ.get("SHMFLOW_DIR", "/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="soak-", dir=base))
        os.environ["SHMFLOW_DIR"] = str(self.folder)
        self.long: dict[int, tuple[str, np.ndarray]] = {}
        self.visitors: dict[int, tuple[float, bool]] = {}
        self.samples: dict[int, list[tuple[float, Sample]]] = {}
        self.shared: list[tuple[float, int]] = []
        self.visits = self.kills = 0
        self.began = self.told = time.monotonic()

    def fork(self, act: Callable[..., None], *arguments: object) -> int:
        """Before any use of shmflow in this process: children inherit nothing of it."""
        sys.stdout.flush()
        parent, pid = os.getpid(), os.fork()
        if pid != 0:
            return pid
        status = 1
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: none outlives it
            if os.getppid() == parent:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                warnings.simplefilter("ignore", RuntimeWarning)  # "read() copies now": it is meant
                if act is not write_small:
                    os.nice(5)  # the many messages are the point; who cannot follow is lapped
                act(*arguments)
                status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def start(self, name: str, act: Callable[..., None], *arguments: object) -> int:
        row = board.rows[1 + len(self.long)]
        pid = self.fork(act, arguments[0], row, *arguments[1:])
        self.long[pid] = (name, row)
        self.samples[pid] = []
        return pid

    def row(self, name: str) -> np.ndarray:
        return next(row for n, row in self.long.values() if n == name)

    def start_all(self) -> None:
        make = self.fork(make_topics)
        demand(os.waitstatus_to_exitcode(os.waitpid(make, 0)[1]) == 0, "the topics are not there")
        self.start("reads small", read_small, "small")
        self.start("monitors small", read_messages, "small", "monitor", False)
        self.start("tells seq", read_messages, "small", "r", False)
        self.start("reads latest", read_messages, "small", "r", True)
        self.start("holds frames", hold_frames, "frames")
        while not all(row[0] for _, row in self.long.values()):
            self.look_for_ends()
            time.sleep(0.01)
        board.phase = GO
        self.start("writes frames", write_frames, "frames")
        self.start("writes small", write_small, "small")

    def look_for_ends(self, ending: bool = False) -> None:
        """Whoever ended by itself, and was not to; at the end all are to, with status 0."""
        for pid in [*self.long, *self.visitors]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended == 0:
                continue
            name, may_leave = "a visitor", ending
            if pid in self.long:
                name = self.long.pop(pid)[0]
            else:
                may_leave = not self.visitors.pop(pid)[1]
            code = os.waitstatus_to_exitcode(status)
            demand(code == 0 and may_leave, f"{name} ended by itself, with {code}")

    def disturb(self, now: float) -> None:
        """Every now and then somebody joins; two of three are killed, the others leave."""
        for pid, (until, to_be_killed) in list(self.visitors.items()):
            if to_be_killed and now > until:
                del self.visitors[pid]
                os.kill(pid, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                demand(code == -signal.SIGKILL, f"a visitor ended by itself, with {code}")
                self.kills += 1
        if len(self.visitors) < 4 and self.chance.random() < 0.15:
            self.visits += 1
            kind = self.chance.choice([("small", visit_small), ("frames", visit_frames)])
            stay, to_be_killed = self.chance.uniform(0.1, 2.0), self.chance.random() < 0.67
            leave = now + (1e6 if to_be_killed else stay)
            pid = self.fork(kind[1], kind[0], self.visits % (MOST_WRITERS - 1) + 1, leave)
            self.visitors[pid] = (now + stay, to_be_killed)

    def take_samples(self, now: float) -> None:
        for pid in self.long:
            try:
                self.samples[pid].append((now, sample(pid)))
            except OSError:  # it has just ended: look_for_ends tells
                return
        used = sum(entry.stat().st_blocks * 512 for entry in os.scandir(self.folder))
        self.shared.append((now, used))

    def tell(self, now: float, at_end: bool = False) -> None:
        is_tty = sys.stdout.isatty()
        if at_end or now - self.told > (0.5 if is_tty else 5):
            self.told = now
            written, took = int(self.row("writes small")[1]), now - self.began
            read, frames = (int(self.row(name)[1]) for name in ("reads small", "holds frames"))
            line = (
                f"{took:.0f} s, {written / 1e6:.1f} million written ({written / took / 1e6:.2f} "
                f"per µs), {read / 1e6:.1f} read, {frames} frames, {self.kills} killed"
            )
            start, end = ("\r", "" if not at_end else "\n") if is_tty else ("", "\n")
            print(start + line, end=end, flush=True)

    def run(self) -> None:
        self.start_all()
        self.began = now = time.monotonic()
        last_sample = 0.0
        samples = 0
        # On a busy machine a short soak becomes a longer one: until there is enough to compare.
        while now - self.began < self.seconds or samples < LEAST_SAMPLES:
            if self.messages and self.row("writes small")[1] >= self.messages:
                break
            time.sleep(0.05)
            now = time.monotonic()
            self.look_for_ends()
            self.disturb(now)
            if now - last_sample > min(1.0, self.seconds / 60):
                last_sample = now
                samples += 1
                self.take_samples(now)
            self.tell(now)
        self.tell(now, at_end=True)
        rows = dict(self.long.values())
        for name in ("writes small", "reads small"):
            row = self.row(name)
            print(f"{name}: {int(row[5]) / max(1, int(row[1])):.0f} ns of CPU for each message")
        self.judge_growth(now)
        self.end()
        self.judge_counts(rows)

    def end(self) -> None:
        """Visitors die, writers leave, readers drain, then leave."""
        for pid in list(self.visitors):
            del self.visitors[pid]
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for phase, prefix in ((WRITERS_STOP, "writes"), (READERS_STOP, "")):
            board.phase = phase
            until = time.monotonic() + 60
            while any(name.startswith(prefix) for name, _ in self.long.values()):
                self.look_for_ends(ending=True)
                demand(time.monotonic() < until, f"{[n for n, _ in self.long.values()]}: no end")
                time.sleep(0.01)

    # ---- the judgement

    def judge_growth(self, end: float) -> None:
        """The lowest of an early window and of the last one: what is held without need stays."""
        took = end - self.began
        early = (self.began + 0.3 * took, self.began + 0.55 * took)
        late = (self.began + 0.75 * took, end + 1)
        # Pages of segments and libraries are touched for the first time when somebody gets so far.
        # There are only so many; on a busy machine that takes a while.
        # So are the C library's heaps and pymalloc's arenas mapped.
        touched, mapped = (SLACK, 0) if took >= 60 else (1 << 40, 4)
        fields = {"rss": touched, "anon": SLACK, "pss": SLACK, "fds": 0, "maps": mapped}
        print(f"{'flat?':14}" + "".join(f"{field:>17}" for field in fields) + "   (early, late)")
        for pid, (name, _) in self.long.items():
            first = [s for at, s in self.samples[pid] if early[0] <= at <= early[1]]
            last = [s for at, s in self.samples[pid] if late[0] <= at <= late[1]]
            demand(len(first) > 2 and len(last) > 2, "too short to compare: give it more time")
            text = f"{name:14}"
            for field, slack in fields.items():
                # A forked child halves the parent's share in its pages for as long as it lives.
                a = (max if field == "pss" else min)(getattr(s, field) for s in first)
                b = min(getattr(s, field) for s in last)
                in_bytes = field not in ("fds", "maps")
                slack += PRIVATE_FRAMES.get(name, 0) * FRAME_LEN if in_bytes else 0
                text += f"{a / 1e6:8.2f}{b / 1e6:6.2f} MB" if in_bytes else f"{a:13}{b:4}"
                demand(b <= a + slack, f"{name}: {field} grew from {a} to {b}")
            print(text)
        used = {used for at, used in self.shared if at >= early[0]}
        demand(len(used) == 1, f"shared memory in use changed: {sorted(used)}")
        print(f"{'shared memory':16}{used.pop() / 1e6:9.2f} MB at any time")

    def judge_counts(self, rows: dict[str, np.ndarray]) -> None:
        heads: dict[str, int] = {}
        for name in ("small", "frames"):
            read, write = os.pipe()
            pid = self.fork(tell_what_is_left, name, write)
            os.close(write)
            with os.fdopen(read) as pipe:
                said = pipe.read()
            demand(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, f"{name}: {said}")
            heads[name] = int(said)
        print(f"{'exact?':16}{'read':>12}{'lost':>12}{'skipped':>12}{'of':>12}")
        for name, row in rows.items():
            if name.startswith("writes"):
                continue
            total = heads["frames" if "frames" in name else "small"]
            read, lost, skipped = (int(row[i]) for i in (1, 2, 3))
            print(f"{name:16}{read:12}{lost:12}{skipped:12}{total:12}")
            demand(read + lost + skipped == total, f"{name}: {read + lost + skipped} of {total}")
            if "small" in name or "seq" in name:
                last = int(rows["writes small"][1])
                demand(int(row[4]) == last, f"{name} ended with {int(row[4])}, not {last}")
        left = sorted(entry.name for entry in os.scandir(self.folder))
        demand(left == ["shmflow.frames", "shmflow.small"], f"in the folder: {left}")

    def clean_up(self) -> None:
        for pid in [*self.long, *self.visitors]:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue
        shutil.rmtree(self.folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=None, help="1, or as --messages takes")
    parser.add_argument("--messages", type=int, default=0, help="end after so many, if earlier")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    print(f"seed {seed}")
    minutes = options.minutes or (24 * 60 if options.messages else 1)
    soak = Soak(minutes, options.messages, seed)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        soak.run()
    except Violation as violation:
        print(f"VIOLATION: {violation}", flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        soak.clean_up()
    return 0


if __name__ == "__main__":
    sys.exit(main())
