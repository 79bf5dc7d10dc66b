"""What a thread of fuzz_api.py does beside writing and reading: looks, holds, opens anew, forks.

Owns: the world of a round as threads see it; the exception of the signal handler; views that are
held, and looked at again later, before they are dropped, and in forked children.
Does not own: the calls that write and read (api_actor.py, whose Actor inherits these).
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import pickle
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api_model import ONE, Port, Wrong, array_of, check_array, meta_of

import shmflow

START_NS = 1_000_000  # before the round: what stamps given by hand begin with


class Interrupted(Exception):
    """Raised by a signal handler, within a call."""


@dataclass
class World:
    name: str
    other: str  # a topic for wait(), written by all
    options: dict[str, Any]
    stamp: int
    unlinks: bool
    forks: bool
    open_topic: Callable[..., Any]


class Bell:
    """Lets the signal handler of this process raise, once, while a call runs."""

    armed = False
    owner: int | None = None  # the thread that handlers run in

    def __call__(self, *_: object) -> None:
        if Bell.armed:
            Bell.armed = False
            raise Interrupted


class Aside:
    """The half of an Actor that is not asked for messages."""

    def look(self) -> None:
        topic, port = self.rng.choice(self.readers)
        copies = self.rng.random() < 0.3
        if self.rng.random() < 0.5:
            found = self.call(lambda: topic.snapshot(copy=copies))
        else:
            seq = max(1, (topic.head or 1) - self.rng.randint(0, 9))
            found = self.call(
                lambda: topic.peek(seq, copy=copies), shmflow.NotRetained, shmflow.TopicNotFound
            )
            found = [found] if isinstance(found, shmflow.Message) else []
        if isinstance(found, Exception):
            return
        seqs = [message.seq for message in found]
        if seqs != sorted(set(seqs)):
            raise Wrong(f"a snapshot of {seqs}")
        tags = [self.check_message(message) for message in found]
        if not self.world.unlinks:  # else the generation may be another one by now
            port.sights += ((max(1, topic.generation), *it) for it in zip(seqs, tags, strict=True))

    def look_at_held(self) -> None:
        for array, tag in self.held:
            if check_array(array) != tag:
                raise Wrong(f"a held view of {tag:#x} has changed to {check_array(array):#x}")

    def hold(self) -> None:
        self.look_at_held()
        del self.held[: self.rng.randint(0, len(self.held))]

    def other(self) -> None:
        topic = self.rng.choice(self.readers)[0]
        facts = [topic.stats, topic.participants, shmflow.topics, lambda: repr(topic)]
        facts += [lambda: (topic.head, topic.tail, topic.lost, topic.writers, topic.readers)]
        facts += [
            lambda: shmflow.wait([getattr(t, "topic", t) for t, _ in self.readers], 0.001),
            self.use_fileno,
        ]
        facts += [shmflow.clean, self.write_other, self.use_sync, self.use_copies, self.be_alone]
        self.call(self.rng.choice(facts))
        if topic.stats().lag < 0 or topic.stats().held_bytes < 0:
            raise Wrong(str(topic.stats()))

    def use_fileno(self) -> None:
        topic = self.rng.choice(self.readers)[0]
        select.select([topic], [], [], 0.001)

    def use_copies(self) -> None:
        for made in (copy.copy, pickle.dumps):
            with contextlib.suppress(*self.gone):
                made(self.rng.choice(self.readers)[0])

    def be_alone(self) -> None:
        """A topic of its own: unnamed, or one that replaces what is there."""
        name = self.rng.choice([None, f"{self.world.name}/{self.number}"])
        options = {"capacity": "1 MiB", "temporary": True, "replace": name is not None}
        with shmflow.Topic(name, "rw", **options) as topic:
            for number in range(1, 4):
                tag = self.tag(ONE)
                if (topic.write(array_of(tag)), check_array(topic.read(0))) != (number, tag):
                    raise Wrong(f"alone with a topic, and message {number} is another")
            topic.shutdown()
            if list(topic):
                raise Wrong("alone with a topic, and there is more")

    def write_other(self) -> None:
        tag = self.tag(ONE)
        with shmflow.Topic(self.world.other, "w", capacity="1 MiB") as topic:
            topic.write(array_of(tag), meta=meta_of(tag), timestamp_ns=self.stamp(tag))

    def use_sync(self) -> None:
        names = self.world.name, self.world.other
        with contextlib.ExitStack() as stack:
            topics = [stack.enter_context(shmflow.Topic(name, "r")) for name in names]
            with contextlib.suppress(shmflow.Empty):
                for pair in itertools.islice(shmflow.sync(topics, tolerance=0.1, timeout=0), 3):
                    for message in pair:
                        self.check_message(message)

    def rare(self) -> None:
        chosen = self.rng.random()
        if chosen < 0.3:
            self.reopen(self.rng.randrange(len(self.readers)))
        elif chosen < 0.5:
            self.unpickle()
        elif chosen < 0.7 and self.world.forks:
            self.fork()
        elif chosen < 0.8 and self.world.unlinks:
            self.call(self.writer[0].unlink)
        elif chosen < 0.9:
            topic = self.writer[0]
            topic.close()
            self.writer = self.open("w", {})

    def reopen(self, which: int) -> None:
        topic, port = self.readers[which]
        if port.group is not None:
            return  # the judge wants to know the end of each member
        topic.close()
        self.readers[which] = self.open_reader()

    def unpickle(self) -> None:
        which = self.rng.randrange(len(self.readers))
        topic, port = self.readers[which]
        if port.group is not None:
            return
        data = pickle.dumps(topic)
        try:
            clone = pickle.loads(data)
        except self.gone:
            return
        topic.close()
        self.ports.append(Port(f"{self.number}.{len(self.ports)}", None, port.lossless))
        self.readers[which] = (clone, self.ports[-1])

    def fork(self) -> None:
        self.look_at_held()
        armed, Bell.armed = Bell.armed, False
        pid = os.fork()
        if pid == 0:
            self.be_forked()
        Bell.armed = armed
        while True:
            with contextlib.suppress(Interrupted):
                _, status = os.waitpid(pid, 0)
                break
        if status:
            raise Wrong(f"a forked child ended with {status} (14 is a hang)")

    def be_forked(self) -> None:
        status = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            self.look_at_held()
            for topic, port in self.readers:
                topic.stats()
                if port.group is None:
                    while (m := topic.read_message(0, default=None)) is not None:
                        self.check_message(m)
                        if self.rng.random() < 0.3:
                            break
            self.look_at_held()
            status = 0
        except shmflow.Closed:
            status = 0  # ended by the driver meanwhile
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
