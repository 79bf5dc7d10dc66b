"""A topic's life: who makes it, when, what replaces it, who follows, how it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shmflow

LARGE = 5000


def exists(name: str) -> bool:
    return name in [info.name for info in shmflow.topics()]


# ---- creation ----


def test_constructor_without_requirements_makes_nothing(topic_name: str) -> None:
    for mode in ("rw", "r", "w", "monitor"):
        with shmflow.Topic(topic_name, mode) as topic:
            assert not exists(topic_name)
            assert (topic.generation, topic.capacity, topic.participants()) == (0, None, [])
            assert (topic.readers, topic.writers, topic.ended) == (0, 0, False)
    assert not exists(topic_name)


@pytest.mark.parametrize("argument", [{"capacity": 5000}, {"create": True}])
def test_a_requirement_makes_it_at_once(topic_name: str, argument: dict[str, Any]) -> None:
    with shmflow.Topic(topic_name, "w", **argument) as topic:
        assert exists(topic_name)
        assert topic.generation == 1 and topic.head == 0 and topic.tail == 1
        assert topic.capacity >= argument.get("capacity", 1)
        topic.unlink()


def test_depth_alone_waits_for_the_first_write(topic_name: str) -> None:
    # Only then the size of a message is known; see "differs from the page" in docs/design.md.
    with shmflow.Topic(topic_name, "w", depth=5) as topic:
        assert not exists(topic_name)
        topic.write(b"x")
        assert topic.depth == 5
        topic.unlink()


@pytest.mark.parametrize(
    ("text", "size"),
    [("64 KiB", 65536), ("1M", 1 << 20), ("1 MiB", 1 << 20), ("2MB", 2_000_000), (70000, 70000)],
)
def test_capacity_is_at_least_what_was_asked(topic_name: str, text: Any, size: int) -> None:
    with shmflow.Topic(topic_name, capacity=text) as topic:
        assert size <= topic.capacity < size + 4096
        topic.unlink()


def test_create_true_refuses_what_exists(topic_name: str) -> None:
    with shmflow.Topic(topic_name, create=True) as topic:
        topic.write(b"kept")
        with pytest.raises(shmflow.TopicExists, match=rf"exists already.*pid {os.getpid()}"):
            shmflow.Topic(topic_name, create=True)
    with pytest.raises(shmflow.TopicExists, match="nobody is attached"):
        shmflow.Topic(topic_name, create=True, capacity="1 MiB")
    with shmflow.Topic(topic_name) as topic:
        assert bytes(topic.read(timeout=0)) == b"kept"
        topic.unlink()


@pytest.mark.parametrize("mode", ["rw", "r", "w", "monitor"])
def test_create_false_refuses_what_is_not_there(topic_name: str, mode: str) -> None:
    with pytest.raises(shmflow.TopicNotFound, match="there is no topic"):
        shmflow.Topic(topic_name, mode, create=False)
    assert not exists(topic_name)
    with shmflow.Topic(topic_name, "w", capacity=5000) as writer:
        writer.write(b"x")
        with shmflow.Topic(topic_name, mode, create=False) as topic:
            assert topic.head == 1
        writer.unlink()


def test_no_name_makes_a_unique_temporary_topic() -> None:
    first, second = shmflow.Topic(), shmflow.Topic()
    assert first.name != second.name
    first.write(np.arange(LARGE))
    second.write(b"x")
    names = [first.name, second.name]
    assert all(map(exists, names))
    assert all(info.temporary for info in shmflow.topics())
    with shmflow.Topic(first.name, "r") as reader:
        first.close()
        held = reader.read(timeout=0)
    second.close()
    assert not exists(names[1])
    np.testing.assert_array_equal(held, np.arange(LARGE))
    del held
    assert not any(map(exists, names))


def test_topic_outlives_its_processes(topic_name: str, run_python: Callable[..., Any]) -> None:
    run_python(
        """
        import sys, shmflow
        shmflow.Topic(sys.argv[1]).write(b"last words")
        """,
        topic_name,
    )
    with shmflow.Topic(topic_name, "r") as reader:
        assert bytes(reader.read(timeout=0)) == b"last words"
        assert (reader.writers, reader.readers) == (0, 1)
        reader.unlink()


AT_EXIT = """
    import threading, numpy as np, shmflow
    topic = shmflow.Topic("goes", temporary=True)
    topic.write(np.arange(5000))
    held = topic.read(timeout=0)
    loan = topic.loan(9000)
    iterator = topic.messages()
    if {daemon}:
        threading.Thread(target=topic.read, daemon=True).start()
    print([info.name for info in shmflow.topics()])
"""


def test_temporary_topic_goes_at_interpreter_exit(run_python: Callable[..., Any]) -> None:
    assert run_python(AT_EXIT.format(daemon=False)).stdout == "['goes']\n"
    assert shmflow.topics() == []


def test_exit_with_views_and_a_blocked_daemon_thread_is_safe(
    run_python: Callable[..., Any],
) -> None:
    assert run_python(AT_EXIT.format(daemon=True)).stdout == "['goes']\n"
    assert shmflow.topics() == []


def test_readers_may_come_first(topic_name: str, background: Any) -> None:
    readers = [shmflow.Topic(topic_name, "r", start=s) for s in ("oldest", "latest", "new")]
    reading = [background(reader.read, 30) for reader in readers]
    time.sleep(0.1)
    with shmflow.Topic(topic_name, "w") as writer:
        for i in range(5):
            writer.write(i)
        # All of it came after they did: nothing is passed over.
        assert [int(thread.outcome()) for thread in reading] == [0, 0, 0]
        for reader in readers:
            assert [int(reader.read(timeout=0)) for _ in range(4)] == [1, 2, 3, 4]
            reader.close()
        writer.unlink()


# ---- generations ----


def test_unlink_while_others_read_and_write(topic_name: str) -> None:
    writer, other = (shmflow.Topic(topic_name, capacity="1 MiB") for _ in range(2))
    reader, slow = (shmflow.Topic(topic_name, "r") for _ in range(2))
    for i in range(3):
        writer.write(np.full(LARGE, i))
    held = reader.read(timeout=0)
    shmflow.unlink(topic_name)
    assert not exists(topic_name)
    assert int(reader.read(timeout=0)[0]) == 1  # it drains what was there
    assert writer.write(np.full(LARGE, 10)) == 1
    assert other.write(np.full(LARGE, 11)) == 2
    assert (held == 0).all()
    got = [reader.read_message(timeout=5, copy=True) for _ in range(3)]
    assert [(m.seq, int(m.array[0]), m.lost) for m in got] == [(3, 2, 0), (1, 10, 0), (2, 11, 0)]
    assert [int(slow.read(timeout=5, copy=True)[0]) for _ in range(5)] == [0, 1, 2, 10, 11]
    assert [t.generation for t in (writer, other, reader, slow)] == [2, 2, 2, 2]
    assert (held == 0).all()
    assert reader.stats().read == 5
    writer.unlink()
    for topic in (writer, other, reader, slow):
        topic.close()
    assert (held == 0).all()


def test_blocked_reader_follows_to_the_next_generation(topic_name: str, background: Any) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as writer:
        reader = shmflow.Topic(topic_name, "r", start="new")
        monitor = shmflow.Topic(topic_name, "monitor", start="new")
        for round in range(1, 4):
            reading = [background(t.read_message, 30) for t in (reader, monitor)]
            time.sleep(0.05)
            writer.unlink()
            writer.write(round)
            for thread in reading:
                message = thread.outcome()
                assert (message.seq, int(message.array)) == (1, round)
        assert reader.generation == monitor.generation == 4
        writer.unlink()
        reader.close()
        monitor.close()


def test_after_shutdown_the_next_writer_starts_a_new_generation(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as first:
        reader = shmflow.Topic(topic_name, "r")
        first.write(b"old")
        first.shutdown()
        assert first.ended and reader.ended
        with shmflow.Topic(topic_name, "w") as second:
            assert second.write(b"new") == 1
            assert not second.ended
            got = [bytes(reader.read(timeout=5)) for _ in range(2)]
            assert got == [b"old", b"new"]
            second.unlink()
        reader.close()


def test_replace_ends_what_is_there(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as first:
        reader = shmflow.Topic(topic_name, "r")
        first.write(np.full(LARGE, 1))
        held = reader.read(timeout=0)
        with shmflow.Topic(topic_name, "w", capacity="2 MiB", replace=True) as second:
            assert second.capacity == 2 << 20
            second.write(b"new")
            assert bytes(reader.read(timeout=5)) == b"new"
            assert (held == 1).all()
            second.unlink()
        reader.close()
    with shmflow.Topic(topic_name, replace=True) as topic:
        topic.write(1)  # nothing to replace is no error
        topic.unlink()


def test_idle_topic_that_does_not_fit_is_replaced(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        topic.write(b"x")
        waiting = shmflow.Topic(topic_name, "r")
        waiting.close()
    with shmflow.Topic(topic_name, capacity="2 MiB") as topic:
        assert topic.capacity == 2 << 20 and topic.head == 0
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:  # at least: fits
        assert topic.capacity == 2 << 20
    with shmflow.Topic(topic_name, depth=3) as topic:
        topic.write(b"x")
        assert topic.depth == 3
    with shmflow.Topic(topic_name, max_message=777, capacity=5000) as topic:
        assert topic.max_message == 777
        topic.unlink()


MISMATCHES = [
    ({"capacity": "2 MiB"}, "capacity 1.0 MiB", "capacity 2.0 MiB"),
    ({"depth": 9, "capacity": 1}, "depth 5", "depth 9"),
    ({"max_message": 500, "capacity": 1000}, "max_message 256.0 KiB", "max_message 500 B"),
]


@pytest.mark.parametrize(("asked", "there", "wanted"), MISMATCHES)
def test_mismatch_shows_both_values_and_who_is_attached(
    topic_name: str, asked: dict[str, Any], there: str, wanted: str
) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB", depth=5) as topic:
        topic.write(b"kept")
        for mode in ("rw", "w"):
            with pytest.raises(shmflow.TopicMismatch) as caught:
                shmflow.Topic(topic_name, mode, **asked)
            text = str(caught.value)
            assert f"in use with {there}" in text and f"{wanted} was asked for" in text
            assert f"attached: pid {os.getpid()} (" in text and "replace=True" in text
        with pytest.raises(shmflow.TopicMismatch):
            shmflow.Topic(topic_name, "r", **asked)
        assert bytes(topic.read(timeout=0)) == b"kept"
        topic.unlink()


# ---- slots ----


def test_no_slot_lists_who_is_attached(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB", max_participants=3) as topic:
        topic.write(b"x")
        others = [shmflow.Topic(topic_name, "r") for _ in range(63)]  # a multiple of 64
        assert len(topic.participants()) == 64
        for mode in ("r", "w"):
            with pytest.raises(shmflow.NoSlot) as caught:
                shmflow.Topic(topic_name, mode, create=False)
            text = str(caught.value)
            assert "64 participant slots" in text, text
            assert f"attached: pid {os.getpid()} (" in text and "and 60 more" in text
        with shmflow.Topic(topic_name, "monitor") as monitor:  # takes none
            assert bytes(monitor.read(timeout=0)) == b"x"
        others.pop().close()
        with shmflow.Topic(topic_name, "r") as late:
            assert bytes(late.read(timeout=0)) == b"x"
        for other in others:
            other.close()
        assert bytes(topic.read(timeout=0)) == b"x"
        topic.unlink()


def test_slots_are_given_back_a_thousand_times(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="64 KiB", max_participants=64) as topic:
        for _ in range(500):
            shmflow.Topic(topic_name, "r").close()
        assert len(topic.participants()) == 1
        topic.unlink()


def test_view_keeps_the_slot_until_it_is_dropped(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        topic.write(np.arange(LARGE))
        with shmflow.Topic(topic_name, "r") as reader:
            held = reader.read(timeout=0)
        assert [p.mode for p in topic.participants()] == ["w", ""]
        del held
        assert [p.mode for p in topic.participants()] == ["w"]
        topic.unlink()


@pytest.mark.parametrize(
    ("length", "options", "fits"),
    [
        (64, {}, (1 << 20) // 64),
        (300, {}, (1 << 20) // 320),
        (1 << 20, {}, 16),
        (64, {"capacity": "1 MiB"}, (1 << 20) // 1216),
        (1280, {"capacity": "1 MiB"}, (1 << 20) // 1280),
        (64, {"capacity": "64 KiB"}, 255),
        (64, {"capacity": "64 KiB", "depth": 1024}, 1024),
        (64, {"capacity": "8 KiB"}, 128),
    ],
)
def test_as_many_are_retained_as_the_guide_says(
    topic_name: str, length: int, options: dict[str, Any], fits: int
) -> None:
    with shmflow.Topic(topic_name, "w", **options) as topic:
        message = np.zeros(length, "u1")
        topic.write(message)
        topic.write_many([message] * (2 * fits))
        assert topic.head - topic.tail + 1 == fits
        assert topic.depth >= fits
