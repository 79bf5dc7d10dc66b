"""Groups: each message goes to one living member, and a group outlives its members.

Owns: groups as one process sees them. Does not own: pools of processes (tests/process).
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

import shmflow


@pytest.fixture
def writer(topic_name: str):
    with shmflow.Topic(topic_name, "w", depth=64, capacity="1 MiB") as topic:
        yield topic
        topic.unlink()


def member(writer: shmflow.Topic, group: str = "workers", **options) -> shmflow.Topic:
    return shmflow.Topic(writer.name, "r", group=group, **options)


def test_each_message_goes_to_one_member_in_order_of_taking(writer: shmflow.Topic) -> None:
    with member(writer) as one, member(writer) as two:
        writer.write_many(range(6))
        assert [int(t.read(0)) for t in (one, two, two, one, two, one)] == list(range(6))
        for reader in (one, two):
            with pytest.raises(shmflow.Empty):
                reader.read(0)
            assert reader.stats().read == 3
            assert (reader.lost, reader.skipped, reader.stats().lag) == (0, 0, 0)


def test_groups_and_readers_without_one_live_side_by_side(writer: shmflow.Topic) -> None:
    with (
        member(writer, "a") as a1,
        member(writer, "a") as a2,
        member(writer, "b") as b,
        shmflow.Topic(writer.name, "r") as alone,
    ):
        writer.write_many(range(8))
        assert len(a1.read_many(3)) == 3
        assert [int(x) for x in a2.read_many(99)] == [3, 4, 5, 6, 7]
        assert [int(x) for x in b.read_many(99)] == list(range(8))
        assert [int(x) for x in alone.read_many(99)] == list(range(8))


@pytest.mark.parametrize("size", [64, 20_000])
@pytest.mark.parametrize("copy", [False, True], ids=["view", "copy"])
def test_under_load_each_message_is_taken_once(
    writer: shmflow.Topic, size: int, copy: bool, background: Callable
) -> None:
    total = 400

    def work(reader: shmflow.Topic) -> list[int]:
        taken = []
        for message in reader.messages(copy=copy):
            assert message.array.size == size and (message.array == message.seq % 251).all()
            taken.append(message.seq)
        return taken

    readers = [member(writer, lossless=True) for _ in range(4)]
    workers = [background(work, reader) for reader in readers]
    for seq in range(1, total + 1):
        writer.write(np.full(size, seq % 251, "u1"))
    writer.shutdown()
    taken = [worker.outcome() for worker in workers]
    assert all(seqs == sorted(seqs) for seqs in taken)
    assert Counter(seq for seqs in taken for seq in seqs) == Counter(range(1, total + 1))
    assert sum(reader.stats().read for reader in readers) == total
    for reader in readers:
        reader.close()


def test_members_join_and_leave_while_it_flows(writer: shmflow.Topic) -> None:
    taken: list[int] = []
    with member(writer) as first:
        for round_ in range(20):
            writer.write_many([round_ * 2, round_ * 2 + 1])
            with member(writer) as visitor:
                taken.append(int(visitor.read(0)))
            taken.append(int(first.read(0)))
    assert taken == list(range(40))


def test_it_goes_on_where_it_stood(writer: shmflow.Topic) -> None:
    writer.write_many(range(3))
    with member(writer) as one:
        assert one.read(0) == 0
    # Nobody is left; start counts for the first member only.
    with member(writer, start="new") as two:
        assert two.read(0) == 1
    with member(writer, "others", start="new") as three:
        assert three.read(0, default=None) is None


def test_a_lapped_group_is_told_once_what_it_lost(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w", depth=4) as writer:
        with member(writer) as one, member(writer) as two:
            writer.write_many(range(10))
            message = one.read_message(0)
            assert (message.seq, message.lost) == (7, 6)
            assert two.read_message(0).lost == 0
            assert (one.lost, two.lost) == (6, 0)
        writer.unlink()


def test_lossless_holds_for_the_group_as_a_whole(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w", depth=4) as writer:
        writer.write(0)
        with member(writer, lossless=True) as one, member(writer, lossless=True) as two:
            writer.write_many(range(1, 4))
            with pytest.raises(shmflow.Full, match="of group 'workers'"):
                writer.write(4, timeout=0)
            assert two.read(0) == 0  # either of them
            writer.write(4, timeout=0)
            with pytest.raises(shmflow.TopicMismatch, match="lossless=False was asked for"):
                member(writer)
            one.close()
            with pytest.raises(shmflow.Full):
                writer.write(5, timeout=0)
        # A group without a member protects nothing.
        writer.write_many(range(5, 15), timeout=0)
        with member(writer) as lossy:
            assert lossy.read_message(0).lost == 10
        writer.unlink()


def test_sixteen_groups_and_the_place_of_one_without_members(writer: shmflow.Topic) -> None:
    members = [member(writer, f"g{number}") for number in range(16)]
    with pytest.raises(shmflow.NoSlot, match="'g0', 'g1'"):
        member(writer, "one-too-many")
    members.pop(3).close()
    members.append(member(writer, "fits-now"))
    writer.write(1)
    assert [int(m.read(0)) for m in members] == [1] * 16
    for one in members:
        one.close()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 60, "ü", "a\0b"])
def test_names_of_groups_are_plain(topic_name: str, name: str) -> None:
    with pytest.raises(ValueError, match="name of a group"):
        shmflow.Topic(topic_name, "r", group=name)


def test_the_longest_name_and_what_looks_alike_are_told_apart(writer: shmflow.Topic) -> None:
    writer.write(7)
    for name in ("x" * 59, "x" * 58, "X" * 59):
        with member(writer, name) as one:
            assert one.read(0) == 7
            (me,) = [p for p in writer.participants() if p.group]
            assert me.group == name


def test_a_group_must_be_a_text(topic_name: str) -> None:
    with pytest.raises(TypeError, match="group must be a name"):
        shmflow.Topic(topic_name, "r", group=5)  # type: ignore[arg-type]


def test_policies_travel_with_a_pickled_topic(writer: shmflow.Topic) -> None:
    with member(writer, lossless=True) as one:
        with pickle.loads(pickle.dumps(one)) as two:
            writer.write_many(range(2))
            assert [int(one.read(0)), int(two.read(0))] == [0, 1]
            mine = [(p.group, p.lossless) for p in writer.participants() if p.mode == "r"]
            assert mine == [("workers", True)] * 2


def test_a_seek_moves_all_members(writer: shmflow.Topic) -> None:
    with member(writer) as one, member(writer) as two:
        writer.write_many(range(5))
        one.read_many(4)
        assert two.seek(2) == 2
        assert [int(one.read(0)), int(two.read(0))] == [1, 2]


def test_a_waiting_member_is_woken_for_every_message(
    writer: shmflow.Topic, background: Callable
) -> None:
    with member(writer) as one, member(writer) as two:
        waiting = [background(t.read, 20) for t in (one, two)]
        writer.write(1)
        writer.write(2)
        assert sorted(int(w.outcome()) for w in waiting) == [1, 2]
