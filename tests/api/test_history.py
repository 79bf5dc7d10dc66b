"""What is retained: snapshot, peek and seek; by number, by place, by time."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import shmflow


@pytest.fixture
def topic(topic_name: str):
    with shmflow.Topic(topic_name, depth=8, capacity="1 MiB") as topic:
        yield topic
        gc.collect()
        topic.unlink()


def fill(topic: shmflow.Topic, count: int, size: int = 4) -> None:
    for number in range(1, count + 1):
        topic.write(np.full(size, number), timestamp_ns=1000 * number, meta={"n": number})


def test_a_snapshot_is_all_that_is_retained_oldest_first(topic: shmflow.Topic) -> None:
    fill(topic, 12)
    topic.read(0)
    before = topic.stats()
    messages = topic.snapshot()
    assert [m.seq for m in messages] == list(range(5, 13))
    assert [int(m.array[0]) for m in messages] == list(range(5, 13))
    assert [m.meta["n"] for m in messages] == list(range(5, 13))
    assert all((m.lost, m.skipped) == (0, 0) for m in messages)
    assert topic.stats() == before
    assert topic.read(0)[0] == 6


def test_a_snapshot_holds_its_frames_and_copies_beyond_max_held(topic_name: str) -> None:
    with shmflow.Topic(topic_name, depth=8, capacity="1 MiB") as topic:
        fill(topic, 8, 2000)
        with shmflow.Topic(topic_name, "r", max_held=40_000) as reader:
            messages = reader.snapshot()  # and no warning: it was asked for everything
            assert 0 < reader.stats().held_blocks <= 3
            fill(topic, 8, 2000)
            assert [int(m.array[-1]) for m in messages] == list(range(1, 9))
            del messages
            gc.collect()
            assert reader.stats().held_blocks == 0
            assert all(m.array.flags.writeable for m in reader.snapshot(copy=True))
        topic.unlink()


def test_without_a_topic_there_is_nothing_to_show(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "r") as reader:
        assert reader.snapshot() == []
        with pytest.raises(shmflow.TopicNotFound):
            reader.peek(1)
        with pytest.raises(shmflow.TopicNotFound):
            reader.seek("oldest")


def test_peek_gives_one_message_and_moves_nothing(topic: shmflow.Topic) -> None:
    fill(topic, 12, 2000)
    message = topic.peek(9)
    assert (message.seq, int(message.array[0]), message.timestamp_ns) == (9, 9, 9000)
    assert not message.array.flags.writeable and topic.peek(9, copy=True).array.flags.writeable
    assert topic.read(0)[0] == 5


@pytest.mark.parametrize("seq", [4, 13, 0, -1, 1 << 70])
def test_what_is_not_retained_is_told_with_what_is(topic: shmflow.Topic, seq: int) -> None:
    fill(topic, 12)
    for call in (topic.peek, topic.seek):
        if call == topic.seek and seq == 13:
            continue  # behind the newest one may wait
        with pytest.raises(shmflow.NotRetained, match="5 to 12 are") as error:
            call(seq)
        assert isinstance(error.value, LookupError)
    assert topic.read(0)[0] == 5


@pytest.mark.parametrize(("place", "then"), [("oldest", 5), ("latest", 12), (7, 7), (12, 12)])
def test_seek_goes_where_it_is_told(topic: shmflow.Topic, place: object, then: int) -> None:
    fill(topic, 12)
    topic.read_many(5)
    assert topic.seek(place) == then  # type: ignore[arg-type]
    assert topic.read(0)[0] == then
    assert topic.lost == topic.skipped == 0 and topic.stats().read == 6


def test_new_waits_for_what_comes(topic: shmflow.Topic) -> None:
    fill(topic, 3)
    assert topic.seek("new") == topic.seek(4) == 4
    assert topic.read(0, default=None) is None
    topic.write(b"x")
    assert bytes(topic.read(0)) == b"x"


def test_an_empty_topic_can_be_sought_in(topic: shmflow.Topic) -> None:
    assert [topic.seek(place) for place in ("oldest", "latest", "new", 1)] == [1] * 4
    with pytest.raises(shmflow.NotRetained, match="none was written"):
        topic.peek(1)


@pytest.mark.parametrize(("stamp", "then"), [(1, 5), (5000, 5), (5001, 6), (12_000, 12)])
def test_seek_by_time(topic: shmflow.Topic, stamp: int, then: int) -> None:
    fill(topic, 12)
    assert topic.seek(timestamp_ns=stamp) == then
    assert topic.read(0)[0] == then


def test_a_time_after_the_newest_waits_for_the_next(topic: shmflow.Topic) -> None:
    fill(topic, 12)
    assert topic.seek(timestamp_ns=12_001) == 13


@pytest.mark.parametrize("arguments", [(), ("oldest", 1), ("x",), (1.5,), (True,), ([],)])
def test_what_seek_does_not_understand(topic: shmflow.Topic, arguments: tuple) -> None:
    fill(topic, 2)
    keywords = {"timestamp_ns": arguments[1]} if len(arguments) > 1 else {}
    with pytest.raises((TypeError, ValueError)):
        topic.seek(*arguments[:1], **keywords)
    assert topic.read(0)[0] == 1


def test_a_writer_has_no_history_to_read(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w") as writer:
        writer.write(1)
        for call in (writer.snapshot, lambda: writer.peek(1), lambda: writer.seek(1)):
            with pytest.raises(shmflow.WrongMode):
                call()
        writer.unlink()


def test_a_monitor_looks_back_too(topic: shmflow.Topic) -> None:
    fill(topic, 3)
    with shmflow.Topic(topic.name, "monitor") as monitor:
        assert [m.seq for m in monitor.snapshot()] == [1, 2, 3]
        assert monitor.peek(2).seq == 2
        assert monitor.seek("latest") == 3 and monitor.read(0)[0] == 3


def test_a_snapshot_makes_no_reader_of_a_topic_that_writes(topic: shmflow.Topic) -> None:
    fill(topic, 3)
    assert len(topic.snapshot()) == 3
    assert [p.mode for p in topic.participants()] == ["w"]


def test_a_lossless_reader_may_go_back_and_keeps_what_is_there(topic: shmflow.Topic) -> None:
    fill(topic, 8)
    with shmflow.Topic(topic.name, "r", lossless=True) as reader:
        assert len(reader.read_many(99)) == 8
        assert reader.seek(3) == 3
        topic.write_many([9, 10], timeout=0)
        with pytest.raises(shmflow.Full):
            topic.write(11, timeout=0)
        assert reader.seek("new") == 11
        topic.write(11, timeout=0)
        with pytest.raises(shmflow.NotRetained):
            reader.seek(1)
        assert reader.lost == 0


def test_a_seek_forward_lets_a_waiting_writer_go_on(topic: shmflow.Topic, background) -> None:
    with shmflow.Topic(topic.name, "r", lossless=True) as reader:
        fill(topic, 8)
        waiting = background(topic.write, 9)
        reader.seek("new")
        assert waiting.outcome() == 9


@pytest.mark.parametrize("call", ["peek", "seek"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, MemoryError, RecursionError, ZeroDivisionError]
)
def test_what_the_index_of_a_number_raises_is_told_as_it_is(
    topic: shmflow.Topic, call: str, error: type[BaseException]
) -> None:
    class Number:
        def __index__(self) -> int:
            raise error

    topic.write(b"1")
    with pytest.raises(error):
        getattr(topic, call)(Number())
    with pytest.raises(TypeError, match="number of a message"):
        getattr(topic, call)(object())
    assert topic.read(0).tobytes() == b"1"
