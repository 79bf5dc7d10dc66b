"""Topics against a model in plain Python: what is retained, in what order, and how many are lost.

hypothesis makes up programs of writes, reads, batches, seeks, loans, unlinks, shutdowns, deaths of
other processes …, with lossy and lossless readers and groups of both; the model below is what the
documentation says of them. The ring is large enough for the depth, so retention is exactly the
newest DEPTH messages. SHMFLOW_LONG=1 runs ten times as many programs, other ones each time.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import shmflow

DEPTH = 8
CAPACITY = 4 << 20
THRESHOLD = 4096  # from here on views are held, below copied
SIZES = [0, 1, 63, 64, 700, 4000, 4095, 4096, 5000, 40_000, 65_536]
LONG = os.environ.get("SHMFLOW_LONG") == "1"

sizes = st.sampled_from(SIZES)
few = st.lists(sizes, min_size=1, max_size=4)
any_index = st.integers(0, 1000)
seldom = st.sampled_from([False, False, False, True])  # what ends a program's interesting part
# How a reader reads: the name of its group, and whether it is lossless (a group as a whole).
policies = st.sampled_from([(None, False)] * 5 + [(None, True), ("shared", False), ("kept", True)])


# ---- the model ---------------------------------------------------------------------------------


@dataclass
class Generation:
    """One life of the name."""

    messages: list[bytes] = field(default_factory=list)  # all that were ever published
    groups: dict[str, int] = field(default_factory=dict)  # where each group stands
    unlinked: bool = False
    shut_down: bool = False

    @property
    def head(self) -> int:
        return len(self.messages)

    @property
    def tail(self) -> int:
        return max(1, self.head - DEPTH + 1)


@dataclass(eq=False)
class Writer:
    topic: shmflow.Topic
    at: Generation | None
    waits: int = 0


@dataclass(eq=False)
class Reader:
    topic: shmflow.Topic
    group: str | None = None
    lossless: bool = False
    at: Generation | None = None
    own_cursor: int = 0
    read: int = 0
    lost: int = 0
    skipped: int = 0

    def join(self, there: Generation, cursor: int) -> None:
        self.at, self.own_cursor = there, cursor
        if self.group is not None:
            there.groups.setdefault(self.group, cursor)

    @property
    def cursor(self) -> int:
        assert self.at is not None
        return self.own_cursor if self.group is None else self.at.groups[self.group]

    @cursor.setter
    def cursor(self, value: int) -> None:
        assert self.at is not None
        if self.group is None:
            self.own_cursor = value
        else:
            self.at.groups[self.group] = value


@dataclass(eq=False)
class Loan:
    loan: shmflow.Loan
    writer: Writer
    at: Generation | None
    content: bytes


class Ended(Exception):
    """The model says: Closed."""


class Nothing(Exception):
    """The model says: Empty."""


def next_message(reader: Reader, current: Generation | None, latest: bool) -> tuple[int, int, int]:
    """What a read gives: (seq, lost, skipped); moves the reader."""
    while True:
        if reader.at is None:
            if current is None:
                raise Nothing
            reader.join(current, 1)  # all of it came after the reader; what is gone it has lost
        there = reader.at
        if reader.cursor <= there.head:
            oldest = max(reader.cursor, there.tail)
            seq = max(oldest, there.head) if latest else oldest
            lost, skipped = oldest - reader.cursor, seq - oldest
            reader.cursor = seq + 1
            reader.read += 1
            reader.lost += lost
            reader.skipped += skipped
            return seq, lost, skipped
        if there.shut_down and (there is current or current is None):
            raise Ended
        if not (there.unlinked or there.shut_down):
            raise Nothing
        reader.at = None


# ---- the machine -------------------------------------------------------------------------------


class TopicMachine(RuleBasedStateMachine):
    """One name; whatever opens it, writes, reads, holds and dies."""

    name = "set by the test"
    seen: Counter[str]  # of all programs together

    def __init__(self) -> None:
        super().__init__()
        self.current: Generation | None = None
        self.lives: list[Generation] = []
        self.writers: list[Writer] = []
        self.readers: list[Reader] = []
        self.loans: list[Loan] = []
        self.held: list[tuple[np.ndarray, bytes]] = []
        self.tags = 0

    def content(self, size: int) -> bytes:
        self.tags += 1
        return (self.tags.to_bytes(4, "little") * (size // 4 + 1))[:size]

    # -- opening and closing

    def place_writer(self, writer: Writer) -> Generation:
        """Where its next message goes; makes a generation if there is none that goes on."""
        there = writer.at
        if there is not None and there.shut_down:
            raise Ended
        if there is None or there.unlinked:
            if self.current is not None and self.current.shut_down:
                self.current.unlinked = True
                self.current = None
            if self.current is None:
                self.current = Generation()
                self.lives.append(self.current)
            writer.at = self.current
        assert writer.at is not None
        return writer.at

    @initialize(size=sizes, policy=policies)
    def begin(self, size: int, policy: tuple[str | None, bool]) -> None:
        self.open_writer()
        self.open_reader("oldest", policy)
        self.borrow(0, size)

    @precondition(lambda self: len(self.writers) < 3)
    @rule()
    def open_writer(self) -> None:
        topic = shmflow.Topic(self.name, "w", capacity=CAPACITY, depth=DEPTH)
        writer = Writer(topic, None)
        self.place_writer(writer)
        self.writers.append(writer)

    @precondition(lambda self: len(self.readers) < 4)
    @rule(start=st.sampled_from(["oldest", "latest", "new"]), policy=policies)
    def open_reader(self, start: str, policy: tuple[str | None, bool]) -> None:
        group, lossless = policy
        topic = shmflow.Topic(
            self.name, "r", start=start, max_held=CAPACITY, group=group, lossless=lossless
        )
        reader = Reader(topic, group, lossless)
        if self.current is not None:
            head = self.current.head
            first = {"oldest": self.current.tail, "latest": head, "new": head + 1}[start]
            reader.join(self.current, max(1, first))
        self.readers.append(reader)

    def is_blocked(self, there: Generation) -> bool:
        """Has a lossless reader yet to read what the next message would push out?"""
        cursors = [r.cursor for r in self.readers if r.lossless and r.at is there]
        return bool(cursors) and there.head + 1 - DEPTH >= min(cursors)

    @precondition(lambda self: self.writers)
    @rule(which=any_index)
    def close_writer(self, which: int) -> None:
        self.close_this(self.writers[which % len(self.writers)])

    def close_this(self, writer: Writer) -> None:
        self.writers.remove(writer)
        writer.topic.close()
        with pytest.raises(shmflow.Closed):
            writer.topic.write(b"")
        # Its loans can be published no more; they end when they are dropped.
        self.loans = [loan for loan in self.loans if loan.writer is not writer]

    @precondition(lambda self: self.readers)
    @rule(which=any_index)
    def close_reader(self, which: int) -> None:
        reader = self.readers.pop(which % len(self.readers))
        reader.topic.close()
        reader.topic.close()
        with pytest.raises(shmflow.Closed):
            reader.topic.read(0)

    # -- writing

    @precondition(lambda self: self.writers)
    @rule(which=any_index, some=few, times=st.integers(1, DEPTH))
    def write(self, which: int, some: list[int], times: int) -> None:
        writer = self.writers[which % len(self.writers)]
        for size in some * times:
            content = self.content(size)
            self.publish(writer, content, lambda c=content: writer.topic.write(c, timeout=0))
        if writer.at is not None and writer.at.shut_down:  # as a program would
            self.close_this(writer)
            self.open_writer()

    def publish(self, writer: Writer, content: bytes, act: Callable[[], int]) -> None:
        try:
            there = self.place_writer(writer)
        except Ended:
            with pytest.raises(shmflow.Closed):
                act()
            self.seen["write after the end"] += 1
        else:
            if self.is_blocked(there):
                with pytest.raises(shmflow.Full, match="behind"):
                    act()
                writer.waits += 1
                self.seen["full"] += 1
                return
            there.messages.append(content)
            assert act() == there.head
            self.seen["written"] += 1

    @precondition(lambda self: self.writers)
    @rule(which=any_index, some=st.lists(sizes, min_size=1, max_size=40))
    def write_many(self, which: int, some: list[int]) -> None:
        writer = self.writers[which % len(self.writers)]
        items = [self.content(size) for size in some]
        try:
            there = self.place_writer(writer)
        except Ended:
            with pytest.raises(shmflow.Closed):
                writer.topic.write_many(items)
            return
        written = 0
        while written < len(items) and not self.is_blocked(there):
            there.messages.append(items[written])
            written += 1
        if written == len(items):
            assert writer.topic.write_many(items, timeout=0) == there.head
        else:
            with pytest.raises(shmflow.Full) as error:
                writer.topic.write_many(items, timeout=0)
            assert error.value.written == written
            writer.waits += 1
            self.seen["full"] += 1

    @precondition(lambda self: self.writers and len(self.loans) < 6)
    @rule(which=any_index, size=sizes)
    def borrow(self, which: int, size: int) -> None:
        writer = self.writers[which % len(self.writers)]
        try:
            there = self.place_writer(writer)
        except Ended:
            with pytest.raises(shmflow.Closed):
                writer.topic.loan(size)
            return
        loan = writer.topic.loan(size, timeout=0)
        assert loan.in_ring == (size >= THRESHOLD)
        content = self.content(size)
        loan.array[:] = np.frombuffer(content, np.uint8)
        self.loans.append(Loan(loan, writer, there if loan.in_ring else None, content))

    @precondition(lambda self: self.loans)
    @rule(which=any_index, keep=st.booleans())
    def publish_loan(self, which: int, keep: bool) -> None:
        borrowed = self.loans.pop(which % len(self.loans))
        array = borrowed.loan.array
        there = borrowed.at
        if there is not None and there.shut_down:
            with pytest.raises(shmflow.Closed):
                borrowed.loan.publish()
            return
        if there is not None and not there.unlinked:
            if self.is_blocked(there):
                with pytest.raises(shmflow.Full):
                    borrowed.loan.publish()
                borrowed.writer.waits += 1
                self.loans.append(borrowed)  # it is still open
                return
            there.messages.append(borrowed.content)
            assert borrowed.loan.publish() == there.head
        else:
            self.publish(borrowed.writer, borrowed.content, borrowed.loan.publish)
            if borrowed.loan.seq is None:
                return
        self.seen["loan published"] += 1
        assert not array.flags.writeable
        if keep:
            self.held.append((array, borrowed.content))

    @precondition(lambda self: self.loans)
    @rule(which=any_index)
    def discard_loan(self, which: int) -> None:
        borrowed = self.loans.pop(which % len(self.loans))
        borrowed.loan.discard()
        with pytest.raises(ValueError, match="ended"):
            borrowed.loan.publish()

    # -- reading

    @precondition(lambda self: self.readers)
    @rule(which=any_index, latest=seldom, copy=seldom, times=st.integers(1, DEPTH), keep=any_index)
    def read(self, which: int, latest: bool, copy: bool, times: int, keep: int) -> None:
        reader = self.readers[which % len(self.readers)]
        for number in range(times):
            self.read_one(reader, latest, copy, keep=keep >> number & 1 == 1)

    def read_one(self, reader: Reader, latest: bool, copy: bool, keep: bool) -> None:
        if latest and (reader.lossless or reader.group is not None):
            with pytest.raises(shmflow.WrongMode):
                reader.topic.read(0, latest=True)
            latest = False
        try:
            seq, lost, skipped = next_message(reader, self.current, latest)
        except (Nothing, Ended) as why:
            with pytest.raises(shmflow.Empty if isinstance(why, Nothing) else shmflow.Closed):
                reader.topic.read(0)
            return
        assert reader.at is not None
        content = reader.at.messages[seq - 1]
        message = reader.topic.read_message(0, latest=latest, copy=copy)
        assert (message.seq, message.lost, message.skipped) == (seq, lost, skipped)
        assert message.array.tobytes() == content
        assert message.array.flags.writeable == copy
        self.seen["read"] += 1
        self.seen["lost many"] += lost > DEPTH
        self.seen["skipped"] += skipped > 0
        self.seen["read in a later life"] += reader.at is not self.lives[0]
        if keep and len(self.held) < 16:
            self.held.append((message.array, content))

    @precondition(lambda self: self.writers and self.readers)
    @rule(which=any_index, size=sizes, latest=st.booleans())
    def lap_a_reader(self, which: int, size: int, latest: bool) -> None:
        """What single steps seldom come to: a read that has lost more than the depth."""
        self.write_many(which, [64] * (2 * DEPTH) + [size])
        if self.loans:
            self.publish_loan(which, keep=False)
        self.read_one(self.readers[which % len(self.readers)], latest, copy=False, keep=False)

    @precondition(lambda self: self.readers)
    @rule(which=any_index, limit=st.integers(1, 12), stack=st.booleans())
    def read_many(self, which: int, limit: int, stack: bool) -> None:
        reader = self.readers[which % len(self.readers)]
        try:
            seq, _, _ = next_message(reader, self.current, False)
        except Nothing:
            assert reader.topic.read_many(limit, 0, stack=stack) == []
            return
        except Ended:
            with pytest.raises(shmflow.Closed):
                reader.topic.read_many(limit, 0, stack=stack)
            return
        there = reader.at
        assert there is not None
        expected = [there.messages[seq - 1]]
        while len(expected) < limit and reader.cursor <= there.head:
            content = there.messages[reader.cursor - 1]
            if stack and len(content) != len(expected[0]):
                break  # for the next call
            expected.append(content)
            reader.cursor += 1
            reader.read += 1
        got = reader.topic.read_many(limit, 0, stack=stack)
        assert [array.tobytes() for array in got] == expected
        self.seen["read many"] += len(expected)

    @precondition(lambda self: any(r.at is not None for r in self.readers))
    @rule(which=any_index, place=st.sampled_from(["oldest", "latest", "new"]) | st.integers(-2, 9))
    def seek(self, which: int, place: str | int) -> None:
        joined = [r for r in self.readers if r.at is not None]
        reader = joined[which % len(joined)]
        there = reader.at
        assert there is not None
        places = {"oldest": there.tail, "latest": max(1, there.head), "new": there.head + 1}
        seq = places[place] if isinstance(place, str) else there.tail + place
        if there.tail <= seq <= there.head + 1:
            assert reader.topic.seek(place if isinstance(place, str) else seq) == seq
            reader.cursor = seq
            self.seen["sought"] += 1
        else:
            with pytest.raises(shmflow.NotRetained):
                reader.topic.seek(seq)

    @precondition(lambda self: any(r.at is not None for r in self.readers))
    @rule(which=any_index)
    def look_back(self, which: int) -> None:
        joined = [r for r in self.readers if r.at is not None]
        reader = joined[which % len(joined)]
        there = reader.at
        assert there is not None
        found = reader.topic.snapshot()
        assert [m.seq for m in found] == list(range(there.tail, there.head + 1))
        assert [m.array.tobytes() for m in found] == there.messages[there.tail - 1 :]

    @precondition(lambda self: self.held)
    @rule(which=any_index)
    def drop(self, which: int) -> None:
        array, content = self.held.pop(which % len(self.held))
        assert array.tobytes() == content

    # -- ends

    @precondition(lambda self: self.current is not None)
    @rule(by=st.sampled_from(["name", "writer"]), which=any_index, really=seldom)
    def unlink(self, by: str, which: int, really: bool) -> None:
        if not really:
            return
        if by == "name" or not self.writers:
            shmflow.unlink(self.name)
        else:
            writer = self.writers[which % len(self.writers)]
            writer.topic.unlink()
            if writer.at is not None and writer.at is not self.current:
                return  # it meant its own generation, which is gone already
        assert self.current is not None
        self.current.unlinked = True
        self.current = None

    @precondition(lambda self: any(w.at is self.current for w in self.writers))
    @rule(really=seldom)
    def shutdown(self, really: bool) -> None:
        writer = next(w for w in self.writers if w.at is self.current)
        if really and writer.at is not None:
            writer.topic.shutdown()
            writer.at.shut_down = True

    # -- other processes

    @precondition(lambda self: self.current is not None and not self.current.shut_down)
    @rule(size=sizes, does=st.sampled_from(["holds", "lends", "writes", "keeps"]), really=seldom)
    def another_process_is_killed(self, size: int, does: str, really: bool) -> None:
        assert self.current is not None
        if not really or (does == "writes" and self.is_blocked(self.current)):
            return
        content = self.content(size)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            self.be_killed(does, content, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read(1)
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        time.sleep(0.01)  # the last references to files go a little after the parent was told
        assert said == b".", "the child could not do it"
        self.seen["killed"] += 1
        if does == "writes":
            self.current.messages.append(content)
        shmflow.clean()  # at once, and not when a writer is short of room

    def be_killed(self, does: str, content: bytes, writing: int) -> None:
        try:
            signal.alarm(30)
            data = np.frombuffer(content, np.uint8)
            topic = shmflow.Topic(self.name, "rw", max_held=CAPACITY, lossless=does == "keeps")
            if does == "keeps":
                topic.read(0, default=None)
            elif does == "holds":
                held = [topic.read(0) for _ in range(self.current.head - self.current.tail + 1)]
                assert [a.tobytes() for a in held] == self.current.messages[-len(held) :]
            elif does == "lends":
                topic.loan(len(data)).array[:] = data
                loan = topic.loan(len(data))
                assert loan.array.size == data.size
            else:
                assert topic.write(data, timeout=5) == self.current.head + 1
            self.what_is_held_does_not_change()
            os.write(writing, b".")
            signal.pause()
        finally:
            os._exit(1)

    @rule(really=seldom)
    def clean(self, really: bool) -> None:
        if really:
            shmflow.clean()
            assert shmflow.clean() == 0

    # -- what is always so

    @invariant()
    def a_step_is_counted(self) -> None:
        self.seen["steps"] += 1

    @invariant()
    def the_ring_is_what_the_model_says(self) -> None:
        with shmflow.Topic(self.name, "monitor") as monitor:
            if self.current is None:
                assert shmflow.topics() == []
                return
            assert (monitor.head, monitor.tail) == (self.current.head, self.current.tail)
            assert monitor.ended == self.current.shut_down
            last = monitor.read_message(0, latest=True, default=None) if monitor.head else None
            assert last is None or last.array.tobytes() == self.current.messages[-1]

    @invariant()
    def readers_count_what_they_lost(self) -> None:
        for reader in self.readers:
            stats = reader.topic.stats()
            expected = (reader.read, reader.lost, reader.skipped)
            assert (stats.read, stats.lost, stats.skipped) == expected

    @invariant()
    def what_is_held_does_not_change(self) -> None:
        for array, content in self.held:
            assert array.tobytes() == content

    @invariant()
    def writers_wait_only_for_lossless_readers(self) -> None:
        assert all(w.topic.stats().writer_waits == w.waits for w in self.writers)

    def teardown(self) -> None:
        self.loans.clear()
        for peer in (*self.writers, *self.readers):
            peer.topic.close()
        self.what_is_held_does_not_change()
        self.held.clear()
        if self.current is not None:
            shmflow.clean()
            with shmflow.Topic(self.name, "monitor") as monitor:
                assert monitor.participants() == []
            shmflow.unlink(self.name)


@pytest.mark.slow
@pytest.mark.timeout(1200 if LONG else 120)
def test_topics_do_what_a_model_in_plain_python_says(topic_name: str) -> None:
    counts: Counter[str] = Counter()

    class Machine(TopicMachine):
        name = topic_name
        seen = counts

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=2000 if LONG else 140,
            stateful_step_count=60,
            deadline=None,
            database=None,
            derandomize=not LONG,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(dict(counts))
    assert counts["steps"] >= 3000
    rare = ("lost many", "skipped", "read in a later life", "killed", "loan published", "full")
    for what in (*rare, "read many", "sought"):
        assert counts[what] >= 10, f"the programs hardly tried it: {what}"
