"""Lossless readers: nothing they have yet to read is evicted; writers are told for whom they wait.

Owns: the policy as one process sees it. Does not own: deaths (tests/crash), groups.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmflow


def numbers(topic: shmflow.Topic, **options: Any) -> list[int]:
    """What there is to be read, without waiting: the first element of each."""
    found = []
    while (array := topic.read(0, default=None, **options)) is not None:
        found.append(int(array[0]))
    return found


@pytest.fixture
def writer(topic_name: str):
    with shmflow.Topic(topic_name, "w", depth=4, capacity="1 MiB") as topic:
        yield topic
        topic.unlink()


def test_a_writer_waits_for_a_lossless_reader_and_says_for_whom(writer: shmflow.Topic) -> None:
    with shmflow.Topic(writer.name, "r", lossless=True) as reader:
        for number in range(4):
            writer.write(np.array([number]), timeout=0)
        with pytest.raises(shmflow.Full, match=r"pid \d+ \(.*\): 4 messages behind") as error:
            writer.write(np.array([4]), timeout=0.01)
        assert "depth" in str(error.value)
        assert writer.head == 4
        assert int(reader.read(0)[0]) == 0
        assert writer.write(np.array([4]), timeout=0) == 5
        assert numbers(reader) == [1, 2, 3, 4]
        assert reader.lost == 0


def test_the_wait_ends_as_soon_as_it_reads(writer: shmflow.Topic, background: Callable) -> None:
    with shmflow.Topic(writer.name, "r", lossless=True) as reader:
        writer.write_many(range(4))
        waiting = background(writer.write, np.array([4]))
        first = reader.read()
        assert waiting.outcome() == 5
        assert first == 0


def test_other_readers_stay_lossy_and_stop_nobody(writer: shmflow.Topic) -> None:
    with (
        shmflow.Topic(writer.name, "r", lossless=True) as recorder,
        shmflow.Topic(writer.name, "r") as wall,
    ):
        for number in range(20):
            writer.write(np.array([number]), timeout=0)
            assert int(recorder.read(0)[0]) == number
        assert numbers(wall) == [16, 17, 18, 19]
        assert (wall.lost, recorder.lost) == (16, 0)


def test_it_ends_with_the_reader(writer: shmflow.Topic) -> None:
    reader = shmflow.Topic(writer.name, "r", lossless=True)
    writer.write_many(range(4))
    frame = reader.read(0)
    with pytest.raises(shmflow.Full):
        writer.write_many([5, 6], timeout=0)
    reader.close()
    assert frame == 0  # still held, and in nobody's way
    writer.write_many(range(10), timeout=0)


def test_several_the_slowest_is_waited_for(writer: shmflow.Topic) -> None:
    readers = [shmflow.Topic(writer.name, "r", lossless=True) for _ in range(3)]
    writer.write_many(range(4))
    for count, reader in enumerate(readers, 1):
        reader.read_many(count)
    writer.write(4, timeout=0)
    with pytest.raises(shmflow.Full, match="4 messages behind"):
        writer.write(5, timeout=0)
    readers[0].close()
    writer.write(5, timeout=0)
    assert [len(r.read_many(9, 0)) for r in readers[1:]] == [4, 3]
    for reader in readers:
        reader.close()


def test_depth_of_one_is_a_handshake(topic_name: str, background: Callable) -> None:
    with (
        shmflow.Topic(topic_name, "w", depth=1, capacity="64 KiB") as writer,
        shmflow.Topic(topic_name, "r", lossless=True) as reader,
    ):
        pumped = background(lambda: [writer.write(np.array([n])) for n in range(300)])
        assert [int(reader.read(20)[0]) for _ in range(300)] == list(range(300))
        assert pumped.outcome() == list(range(1, 301))
        writer.unlink()


@pytest.mark.parametrize("size", [700, 40_000], ids=["small", "large"])
def test_room_is_waited_for_as_well(topic_name: str, size: int, background: Callable) -> None:
    # No depth: what runs out is the memory.
    with (
        shmflow.Topic(topic_name, "w", capacity="256 KiB") as writer,
        shmflow.Topic(topic_name, "r", lossless=True) as reader,
    ):

        def pump() -> int:
            for n in range(1500 if size < 4096 else 200):
                writer.write(np.full(size, n % 251, "u1"))
            writer.shutdown()
            return writer.head or 0

        pumped = background(pump)
        got = 0
        for frame in reader:
            assert frame.size == size and (frame == got % 251).all()
            got += 1
        assert pumped.outcome() == got
        assert reader.lost == 0
        del frame
        gc.collect()
        writer.unlink()


def test_frames_that_it_holds_do_not_stop_writers(writer: shmflow.Topic) -> None:
    with shmflow.Topic(writer.name, "r", lossless=True, max_held="1 MiB") as reader:
        held = []
        for number in range(12):
            writer.write(np.full(20_000, number, "u1"), timeout=0)
            held.append(reader.read(0))
        assert [int(frame[7]) for frame in held] == list(range(12))
        del held


def test_mixed_sizes_while_it_lags_lose_nothing(topic_name: str, background: Callable) -> None:
    rng = np.random.default_rng(5)
    sizes = [int(s) for s in rng.choice([10, 900, 5000, 30_000, 64_000], 400)]
    with (
        shmflow.Topic(topic_name, "w", capacity="256 KiB") as writer,
        shmflow.Topic(topic_name, "r", lossless=True, group="pair") as one,
        shmflow.Topic(topic_name, "r", lossless=True, max_held="192 KiB") as two,
    ):

        def pump() -> None:
            for number, size in enumerate(sizes):
                writer.write(np.full(size, number % 251, "u1"))

        pumped = background(pump)
        kept = []
        for number, size in enumerate(sizes):
            for reader in (one, two):
                frame = reader.read(20)
                assert frame.size == size and (frame == number % 251).all()
            kept = [*kept[-1:], frame]
        pumped.outcome()
        assert one.lost == two.lost == 0
        del kept, frame
        gc.collect()
        writer.unlink()


def test_a_topic_that_is_its_own_reader_is_told_at_once(topic_name: str) -> None:
    with shmflow.Topic(topic_name, depth=2, lossless=True) as both:
        both.write(b"a")
        assert bytes(both.read(0)) == b"a"
        both.write_many([b"b", b"c"])
        with pytest.raises(shmflow.Full, match="this Topic itself"):
            both.write(b"d")  # no timeout: it would wait for ever
        assert bytes(both.read(0)) == b"b"
        both.write(b"d")
        both.unlink()


def test_with_another_lossless_reader_behind_it_waits_for_that_one(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, depth=2, capacity="64 KiB", lossless=True) as both,
        shmflow.Topic(topic_name, "r", lossless=True) as other,
    ):
        both.write(b"a")
        both.read(0)
        both.write(b"b")
        with pytest.raises(shmflow.Full, match="messages behind"):
            both.write(b"c", timeout=0)
        other.read_many(9)
        both.write(b"c", timeout=0)
        both.unlink()


def test_the_creator_may_refuse(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w", capacity="64 KiB", allow_lossless=False) as writer:
        with pytest.raises(shmflow.NotAllowed, match="allow_lossless=False"):
            shmflow.Topic(topic_name, "r", lossless=True)
        with pytest.raises(shmflow.NotAllowed, match="writers wait for nobody"):
            shmflow.Topic(topic_name, "r", lossless=True, group="g")
        writer.unlink()
    early = shmflow.Topic(topic_name, "r", lossless=True)  # there is no topic yet
    with shmflow.Topic(topic_name, "w", capacity="64 KiB", allow_lossless=False) as writer:
        with pytest.raises(shmflow.NotAllowed):
            early.read(0)
        writer.unlink()
    early.close()


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "monitor", "lossless": True},
        {"mode": "monitor", "group": "g"},
        {"mode": "w", "group": "g"},
        {"mode": "w", "lossless": True},
        {"mode": "rw", "lossless": True, "allow_lossless": False},
    ],
)
def test_what_contradicts_is_a_typed_error(topic_name: str, options: dict[str, Any]) -> None:
    with pytest.raises(shmflow.WrongMode) as error:
        shmflow.Topic(topic_name, **options)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("policy", [{"lossless": True}, {"group": "g"}], ids=["lossless", "group"])
def test_latest_contradicts_them(writer: shmflow.Topic, policy: dict[str, Any]) -> None:
    writer.write_many(range(3))
    with shmflow.Topic(writer.name, "r", **policy) as reader:
        for call in (
            lambda: reader.read(0, latest=True),
            lambda: reader.read_message(0, latest=True),
            lambda: reader.messages(latest=True),
        ):
            with pytest.raises(shmflow.WrongMode, match="seek"):
                call()
        assert reader.seek("latest") == 3
        assert reader.read(0) == 2


def test_one_that_came_before_the_topic_is_told_what_it_missed(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "r", lossless=True) as early:
        with shmflow.Topic(topic_name, "w", depth=4) as writer:
            writer.write_many(range(10))
            message = early.read_message(5)
            assert (message.seq, message.lost, early.lost) == (7, 6, 6)
            writer.write(10)
            with pytest.raises(shmflow.Full):
                writer.write(11, timeout=0)
            writer.unlink()


def test_it_follows_the_next_generation_as_lossless(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, "w", depth=2, capacity="64 KiB") as writer,
        shmflow.Topic(topic_name, "r", lossless=True) as reader,
    ):
        writer.write(1)
        writer.unlink()
        writer.write(2)
        assert [int(reader.read(5)) for _ in range(2)] == [1, 2]
        writer.write_many([3, 4])
        with pytest.raises(shmflow.Full):
            writer.write(5, timeout=0)
        writer.unlink()


def test_a_frozen_writer_in_its_critical_section_delays_joining_not_opening(
    writer: shmflow.Topic, hold_lock: Callable
) -> None:
    writer.write(1)
    hold_lock(writer.name, 0)
    with shmflow.Topic(writer.name, "r", lossless=True) as reader:
        with pytest.raises(shmflow.Empty):
            reader.read(0.2)
        hold_lock(writer.name, None)
        assert reader.read(20) == 1
        writer.write_many(range(4))
        with pytest.raises(shmflow.Full):
            writer.write(5, timeout=0)


@pytest.mark.parametrize("policy", [{"lossless": True}, {"group": "g"}])
def test_one_that_could_not_join_before_the_topic_went_follows_the_name(
    writer: shmflow.Topic, hold_lock: Callable, policy: dict[str, Any]
) -> None:
    writer.write(1)
    hold_lock(writer.name, 0)
    with shmflow.Topic(writer.name, "r", **policy) as reader:
        shmflow.unlink(writer.name)
        with pytest.raises(shmflow.Empty):
            reader.read(0.2)
        with shmflow.Topic(writer.name, capacity="1 MiB") as again:
            again.write(2)
            assert reader.read(20) == 2
            again.unlink()


def test_participants_tell_who_is_lossless(writer: shmflow.Topic) -> None:
    with shmflow.Topic(writer.name, "r", lossless=True), shmflow.Topic(writer.name, "r"):
        flags = [(p.mode, p.lossless, p.group) for p in writer.participants() if p.mode == "r"]
        assert sorted(flags) == [("r", False, ""), ("r", True, "")]


def test_shutdown_wakes_a_writer_that_waits_and_the_reader_drains(
    writer: shmflow.Topic, background: Callable
) -> None:
    with shmflow.Topic(writer.name, "r", lossless=True) as reader:
        writer.write_many(range(4))
        waiting = background(writer.write, 4)
        while not any(p.writer_waits for p in writer.participants()):
            pass
        with shmflow.Topic(writer.name, "w") as other:
            other.shutdown()
        with pytest.raises(shmflow.Closed):
            waiting.outcome()
        assert [int(a) for a in reader] == [0, 1, 2, 3]


@pytest.mark.parametrize("create", [{}, {"capacity": "64 KiB"}], ids=["later", "now"])
@pytest.mark.parametrize("policy", [{"lossless": True}, {"group": "g", "lossless": True}])
def test_one_that_writes_too_keeps_what_comes_from_its_opening_on(
    topic_name: str, policy: dict[str, Any], create: dict[str, Any]
) -> None:
    with shmflow.Topic(topic_name, depth=2, **create, **policy) as topic:
        with shmflow.Topic(topic_name, "w", depth=2, **create) as writer:
            if not create:
                topic.write(0)  # made here
                assert topic.read(0) == 0
            for i in range(2):
                writer.write(i, timeout=0)
            with pytest.raises(shmflow.Full):
                writer.write(2, timeout=0)
            with pytest.raises(shmflow.Full, match="only this Topic itself"):
                topic.write(2, timeout=0)
        assert [int(topic.read(0)) for _ in range(2)] == [0, 1]
        assert topic.lost == 0
        topic.unlink()


@pytest.mark.parametrize("policy", [{"lossless": True}, {"group": "g", "lossless": True}])
def test_one_that_writes_too_joins_a_topic_that_is_there(
    writer: shmflow.Topic, policy: dict[str, Any]
) -> None:
    with shmflow.Topic(writer.name, **policy) as topic:
        (me,) = [p for p in topic.participants() if p.lossless]
        assert me.pid == os.getpid()
        for i in range(writer.depth or 0):
            writer.write(i, timeout=0)
        with pytest.raises(shmflow.Full):
            writer.write(-1, timeout=0)
        assert [int(topic.read(0)) for _ in range(writer.depth or 0)] == list(
            range(writer.depth or 0)
        )
        assert topic.lost == 0


@pytest.mark.parametrize("lossless", [False, True])
def test_who_reads_as_fast_as_it_is_written_to_copies_nothing(
    topic_name: str, lossless: bool
) -> None:
    frame = np.zeros((272, 640, 3), np.uint8)
    with (
        shmflow.Topic(topic_name, "w") as writer,
        shmflow.Topic(topic_name, "r", lossless=lossless) as reader,
    ):
        for _ in range(100):
            writer.write(frame)
            reader.read(0)
        assert (reader.stats().pinned, reader.stats().copied) == (100, 0)
