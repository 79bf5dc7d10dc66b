"""sync(): messages of several topics, put together by their time stamps."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmflow

MS = 1_000_000
Topics = list[shmflow.Topic]


@contextlib.contextmanager
def opened(name: str, count: int) -> Iterator[Topics]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                shmflow.Topic(f"{name}/{n}", capacity="256 KiB", depth=64, temporary=True)
            )
            for n in range(count)
        ]


@pytest.fixture
def two(topic_name: str) -> Iterator[Topics]:
    with opened(topic_name, 2) as topics:
        yield topics


def fill(topic: shmflow.Topic, stamps: Sequence[int], end: bool = False) -> None:
    for number, stamp in enumerate(stamps):
        topic.write(number, timestamp_ns=stamp)
    if end:
        topic.shutdown()


def stamps_of(sets: Any) -> list[tuple[int, ...]]:
    return [tuple(message.timestamp_ns for message in found) for found in sets]


# ---- the rules, stated in another way ----------------------------------------------------------


def earliest_sets(streams: Sequence[Sequence[int]], span: int) -> list[tuple[int, ...]]:
    """Of stamps that grow. Sets are tried in full: of all that lie behind the last set and within
    the span, there is one that comes first in every topic; that is the next one."""
    starts, found = [0] * len(streams), []
    while True:
        choices = [range(start, len(s)) for start, s in zip(starts, streams, strict=True)]
        fitting = [
            places
            for places in itertools.product(*choices)
            if max(found_at := [s[i] for s, i in zip(streams, places, strict=True)]) - min(found_at)
            <= span
        ]
        if not fitting:
            return found
        first = tuple(min(column) for column in zip(*fitting, strict=True))
        assert first in fitting
        found.append(tuple(s[i] for s, i in zip(streams, first, strict=True)))
        starts = [i + 1 for i in first]


STAMPS = st.lists(st.integers(1, 40), max_size=7)


@settings(max_examples=60, deadline=None)
@given(
    streams=st.lists(STAMPS.map(sorted), min_size=2, max_size=3),
    span=st.integers(0, 6),
)
def test_sets_are_those_that_the_rules_say(streams: list[list[int]], span: int) -> None:
    with opened("rules", len(streams)) as topics:
        for topic, stamps in zip(topics, streams, strict=True):
            fill(topic, stamps, end=True)
        sync = shmflow.sync(topics, span / 1e9, timeout=20)
        assert stamps_of(sync) == earliest_sets(streams, span)


@settings(max_examples=60, deadline=None)
@given(
    streams=st.lists(STAMPS, min_size=2, max_size=4),
    span=st.integers(0, 12),
    order=st.randoms(use_true_random=False),
)
def test_whatever_the_stamps_sets_are_in_order_each_once_and_within_the_tolerance(
    streams: list[list[int]], span: int, order: Any
) -> None:
    with opened("invariants", len(streams)) as topics:
        for topic, stamps in zip(topics, streams, strict=True):
            fill(topic, stamps, end=True)
        sync = shmflow.sync(topics, span / 1e9, timeout=20)
        sets = list(sync)
    with opened("invariants", len(streams)) as topics:
        # The same again, each message when chance will have it.
        turns = [n for n, stamps in enumerate(streams) for _ in stamps]
        order.shuffle(turns)
        left = [list(stamps) for stamps in streams]
        again, got = shmflow.sync(topics, span / 1e9, timeout=0), []
        for n in turns:
            fill(topics[n], [left[n].pop(0)])
            with contextlib.suppress(shmflow.Empty):
                while True:
                    got.append(next(again))
        assert stamps_of(got) == stamps_of(sets)
    assert sync.ended and sync.given == len(sets) == again.given
    for found in sets:
        stamps = stamps_of([found])[0]
        assert max(stamps) - min(stamps) <= span
    for column, stamps in zip(zip(*sets, strict=True), streams, strict=False):
        seqs = [message.seq for message in column]
        assert seqs == sorted(set(seqs))
        assert [message.timestamp_ns for message in column] == [stamps[q - 1] for q in seqs]
    for count, stamps in zip(sync.dropped, streams, strict=True):
        assert 0 <= count <= len(stamps) - len(sets)
    # One stream was read to its end: all of it was given or dropped.
    assert any(
        count == len(stamps) - len(sets)
        for count, stamps in zip(sync.dropped, streams, strict=True)
    )


# ---- what the docstring says ---------------------------------------------------------------------


def test_two_cameras_that_drop_frames_stay_in_step(two: Topics) -> None:
    left, right = two
    period, shift = 33 * MS, 2 * MS
    fill(left, [(n + 1) * period for n in range(30) if n % 5 != 2], end=True)
    fill(right, [(n + 1) * period + shift for n in range(30) if n % 7 != 3], end=True)
    sync = shmflow.sync(two, tolerance=0.005)
    stamps = stamps_of(sync)
    both = [n for n in range(30) if n % 5 != 2 and n % 7 != 3]
    assert stamps == [((n + 1) * period, (n + 1) * period + shift) for n in both]
    assert sync.dropped == (24 - len(both), 26 - len(both))


def test_messages_come_whole_in_the_order_of_the_topics(two: Topics) -> None:
    images = [np.full((40, 50, 3), n, "u1") for n in range(2)]
    for topic, image in zip(two, images, strict=True):
        topic.write(image, meta={"of": topic.name}, timestamp_ns=7)
    for order in ([0, 1], [1, 0]):
        readers = [shmflow.Topic(two[n].name, "r") for n in order]
        (found,) = itertools.islice(shmflow.sync(iter(readers), 0), 1)
        assert isinstance(found, tuple)
        for message, n in zip(found, order, strict=True):
            assert isinstance(message, shmflow.Message)
            assert message.meta == {"of": two[n].name}
            np.testing.assert_array_equal(message.array, images[n])
        del found, message
        for reader in readers:
            reader.close()


def test_the_tolerance_is_met_to_the_nanosecond(two: Topics) -> None:
    fill(two[0], [1000, 5000])
    fill(two[1], [2001, 6000])
    sync = shmflow.sync(two, 1e-6, timeout=0)
    assert stamps_of([next(sync)]) == [(5000, 6000)]
    assert sync.dropped == (1, 1)


def test_without_a_tolerance_only_equal_stamps_go_together_with_an_endless_one_all_do(
    topic_name: str,
) -> None:
    for tolerance, expected in ((0, [(3, 3)]), (math.inf, [(1, 2), (3, 3), (9, 10**15)])):
        with opened(topic_name, 2) as topics:
            fill(topics[0], [1, 3, 9], end=True)
            fill(topics[1], [2, 3, 10**15], end=True)
            assert stamps_of(shmflow.sync(topics, tolerance)) == expected


def test_a_tolerance_above_half_a_period_takes_the_first_that_fits(two: Topics) -> None:
    fill(two[0], [100, 200, 300], end=True)
    fill(two[1], [40, 140, 240, 340], end=True)
    assert stamps_of(shmflow.sync(two, 60e-9)) == [(100, 40), (200, 140), (300, 240)]


def test_of_equal_oldest_stamps_the_first_topics_is_dropped_first(topic_name: str) -> None:
    with opened(topic_name, 3) as topics:
        fill(topics[0], [1], end=True)
        fill(topics[1], [1, 1])
        fill(topics[2], [9])
        sync = shmflow.sync(topics, 0)
        assert list(sync) == []
        assert sync.dropped == (1, 1, 1), "all but the second of the second, which was not read"
        assert int(topics[1].read(0)) == 1


def test_a_message_whose_partner_was_lost_is_dropped(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name + "/a", capacity="64 KiB", depth=100, temporary=True) as whole,
        shmflow.Topic(topic_name + "/b", capacity="64 KiB", depth=4, temporary=True) as short,
    ):
        for stamp in range(1, 11):
            whole.write(stamp, timestamp_ns=stamp)
            short.write(stamp, timestamp_ns=stamp)
            if stamp == 1:
                assert int(short.read(0)) == int(whole.read(0)) == 1
        whole.shutdown()
        short.shutdown()
        sync = shmflow.sync([whole, short], 0)
        sets = list(sync)
        assert stamps_of(sets) == [(n, n) for n in (7, 8, 9, 10)]
        assert [[m.lost for m in found] for found in sets] == [[0, 5], *[[0, 0]] * 3]
        assert sync.dropped == (5, 0)
        del sets


def test_a_step_that_waits_too_long_names_what_is_missing_and_the_next_goes_on(
    two: Topics,
) -> None:
    left, right = two
    fill(left, [100])
    sync = shmflow.sync(two, 0, timeout=0.02)
    for _ in range(2):
        with pytest.raises(shmflow.Empty) as caught:
            next(sync)
        text = str(caught.value)
        assert f"no set of '{left.name}', '{right.name}' in 0.02 s" in text
        assert f"waiting for '{right.name}'; none was ever written" in text
        assert isinstance(caught.value, TimeoutError) and caught.value.errno
    assert left.read(0, default=None) is None, "it is held"
    fill(right, [90])
    with pytest.raises(shmflow.Empty, match=r"the last came .* ago"):
        next(sync)
    fill(right, [100])
    assert stamps_of([next(sync)]) == [(100, 100)]
    assert sync.dropped == (0, 1)
    with pytest.raises(shmflow.Empty, match=f"waiting for '{left.name}', '{right.name}'; of '"):
        next(sync)
    assert not sync.ended


def test_what_is_there_already_is_gone_through_without_a_timeout(two: Topics) -> None:
    fill(two[0], range(1, 50))
    fill(two[1], [49])
    sync = shmflow.sync(two, 0, timeout=0)
    assert stamps_of([next(sync)]) == [(49, 49)]
    with pytest.raises(shmflow.Empty):
        next(sync)


def test_it_ends_when_one_of_them_has_ended_and_stays_so(two: Topics, background: Any) -> None:
    sync = shmflow.sync(two, 0)
    fill(two[0], [1, 2])
    fill(two[1], [1], end=True)
    assert stamps_of([next(sync)]) == [(1, 1)]
    assert not sync.ended
    assert list(sync) == [] and list(sync) == []
    assert (sync.ended, sync.given, sync.dropped) == (True, 1, (1, 0))


def test_it_ends_when_one_ends_or_is_closed_while_it_waits(
    topic_name: str, background: Any
) -> None:
    for end in (shmflow.Topic.shutdown, shmflow.Topic.close):
        for which in range(2):
            with opened(topic_name, 2) as topics:
                fill(topics[0], [5])
                sync = shmflow.sync(topics, 0)
                waiting = background(list, sync)
                time.sleep(0.02)
                end(topics[1 if end is shmflow.Topic.close else which])
                if end is shmflow.Topic.shutdown and which == 0:
                    # Its candidate may still find a partner: it has not ended before that.
                    time.sleep(0.02)
                    assert waiting.is_alive()
                    fill(topics[1], [5])
                    assert stamps_of(waiting.outcome()) == [(5, 5)]
                else:
                    assert waiting.outcome() == []
                    assert sync.dropped == (1, 0)


def test_a_topic_that_appears_later_is_waited_for(topic_name: str, background: Any) -> None:
    readers = [shmflow.Topic(f"{topic_name}/{n}", "r") for n in range(2)]
    waiting = background(next, shmflow.sync(readers, 0.001))
    with opened(topic_name, 2) as topics:
        for topic in topics:
            fill(topic, [1000])
        assert stamps_of([waiting.outcome()]) == [(1000, 1000)]
        for reader in readers:
            reader.close()


def test_one_frame_of_each_topic_is_held_at_most(two: Topics) -> None:
    readers = [shmflow.Topic(topic.name, "r", max_held="1 MiB") for topic in two]
    for stamp in range(1, 9):
        two[0].write(np.zeros(8192, "u1"), timestamp_ns=stamp)
    two[1].write(np.zeros(8192, "u1"), timestamp_ns=7)
    sync = shmflow.sync(readers, 0, timeout=0)
    gc.disable()
    try:
        found = next(sync)
        assert stamps_of([found]) == [(7, 7)]
        assert [reader.stats().held_blocks for reader in readers] == [1, 1]
        with pytest.raises(shmflow.Empty):
            next(sync)
        assert [reader.stats().held_blocks for reader in readers] == [2, 1]
        del found
        assert [reader.stats().held_blocks for reader in readers] == [1, 0]
        two[1].shutdown()
        assert list(sync) == []
        assert [reader.stats().held_blocks for reader in readers] == [0, 0]
    finally:
        gc.enable()
    assert readers[0].stats().pinned == 8
    for reader in readers:
        reader.close()


def test_a_candidate_is_let_go_of_before_the_next_is_read(two: Topics) -> None:
    # With room for one, a second one that is held would be a copy, and a warning.
    readers = [shmflow.Topic(topic.name, "r", max_held=8192) for topic in two]
    for stamp in range(1, 9):
        two[0].write(np.zeros(8000, "u1"), timestamp_ns=stamp)
    two[1].write(np.zeros(8000, "u1"), timestamp_ns=8)
    assert stamps_of([next(shmflow.sync(readers, 0, timeout=0))]) == [(8, 8)]
    assert [reader.stats().copied for reader in readers] == [0, 0]
    for reader in readers:
        reader.close()


def test_a_live_pair_of_cameras(topic_name: str) -> None:
    """Each writes when it likes; frames with the same number have nearly the same stamp."""
    count, rng = 150, np.random.default_rng(1)
    jitter = rng.integers(0, 1000, (2, count))
    kept = rng.random((2, count)) < 0.8

    def film(which: int) -> None:
        for n in np.flatnonzero(kept[which]):
            stamp = int((n + 1) * 10_000 + jitter[which, n])
            topics[which].write(np.full(5000, n, "u1"), timestamp_ns=stamp)
            time.sleep(float(pauses[which]) * 1e-3)
        topics[which].shutdown()

    with contextlib.ExitStack() as stack:
        topics = [
            stack.enter_context(
                shmflow.Topic(f"{topic_name}/{n}", capacity="4 MiB", depth=200, temporary=True)
            )
            for n in range(2)
        ]
        readers = [stack.enter_context(shmflow.Topic(t.name, "r")) for t in topics]
        pauses = (0.4, 0.9)
        films = [threading.Thread(target=film, args=(n,), daemon=True) for n in range(2)]
        for thread in films:
            thread.start()
        got = []
        for left, right in shmflow.sync(readers, 1e-6, timeout=20):
            assert (left.array == right.array[0]).all()
            got.append(int(left.array[0]))
        assert got == list(np.flatnonzero(kept[0] & kept[1]))
        del left, right
        for thread in films:
            thread.join()


# ---- arguments and attributes ------------------------------------------------------------------


def test_attributes_tell_what_was_asked_for_and_what_came(two: Topics) -> None:
    sync = shmflow.sync(two, 0.005, timeout=2)
    assert isinstance(sync, shmflow.Sync) and iter(sync) is sync
    assert (sync.topics, sync.tolerance, sync.timeout) == (tuple(two), 0.005, 2.0)
    assert (sync.given, sync.dropped, sync.ended) == (0, (0, 0), False)
    assert shmflow.sync(two, math.inf).tolerance == math.inf
    assert shmflow.sync(two, 1).timeout is None
    fill(two[0], [1], end=True)
    fill(two[1], [1])
    assert len(list(sync)) == 1
    names = ", ".join(repr(topic.name) for topic in two)
    assert repr(sync) == f"<shmflow.Sync {names} within 0.005 s, 1 given, ended>"
    with pytest.raises(AttributeError):
        sync.tolerance = 1  # type: ignore[misc]


def test_what_cannot_be_is_refused_and_reads_nothing(two: Topics, topic_name: str) -> None:
    fill(two[0], [1])
    fill(two[1], [1])
    bad: Any
    for bad in ([], two[:1]):
        with pytest.raises(ValueError, match="takes 2 to 128 Topics, not"):
            shmflow.sync(bad, 1)
    with pytest.raises(ValueError, match=f"same Topic of '{two[0].name}' was given twice"):
        shmflow.sync([two[0], two[1], two[0]], 1)
    with pytest.raises(TypeError, match=r"several Topics, as in sync\(\[left, right\], 0\.005\)"):
        shmflow.sync(two[0], 1)  # type: ignore[arg-type]
    for bad in ("text", [two[0], "cam"], [two[0], None]):
        with pytest.raises(TypeError, match=r"takes Topics; item [01] is"):
            shmflow.sync(bad, 1)
    for bad in (-1, -1e-12, math.nan, -math.inf):
        with pytest.raises(ValueError, match="tolerance must be 0 or more seconds, not"):
            shmflow.sync(two, bad)
        with pytest.raises(ValueError, match="timeout must be 0 or more seconds, not"):
            shmflow.sync(two, 1, timeout=bad)
    for bad in ("1", None, [1]):
        with pytest.raises(TypeError, match="tolerance must be a number of seconds, not"):
            shmflow.sync(two, bad)
    with pytest.raises(TypeError, match="timeout must be a number of seconds, not str"):
        shmflow.sync(two, 1, timeout="1")  # type: ignore[arg-type]
    with (
        shmflow.Topic(f"{topic_name}/w", "w") as writer,
        pytest.raises(shmflow.WrongMode, match=r"sync\(\) needs a Topic of mode 'r'"),
    ):
        shmflow.sync([two[0], writer], 1)
    assert len(next(shmflow.sync(two, 1, timeout=0))) == 2
