"""What the tools that watch are told of a topic: its layout, its blocks."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest

import shmflow
from shmflow import _names

BIG = 100_000


def blocks_of(topic: shmflow.Topic, limit: int = 1000) -> dict[int, tuple]:
    told = topic._blocks(limit)
    assert told is not None
    return {block[2]: block for block in told[3]}


def test_each_message_is_a_block(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w", capacity="4 MiB", depth=8) as writer:
        assert writer._blocks(10)[2:] == (0, [])
        for number in range(1, 11):
            writer.write(np.zeros(BIG + number, "u1"), timestamp_ns=1000 + number)
        with shmflow.Topic(topic_name, "monitor") as monitor:
            capacity, lane, count, found = monitor._blocks(1000)
            assert (capacity, count) == (monitor.capacity, len(found)) and lane >= BIG
        blocks = blocks_of(writer)
        assert sorted(blocks) == list(range(3, 11))  # depth 8
        for seq, (offset, length, _, stamp, payload, pid, holders) in blocks.items():
            assert (stamp, payload, pid, holders) == (1000 + seq, BIG + seq, os.getpid(), [])
            assert offset % 64 == 0 and payload <= length and offset + length <= capacity
        ends = sorted((b[0], b[0] + b[1]) for b in blocks.values())
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
        writer.unlink()


def test_holders_and_claims_are_named(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, "w", capacity="4 MiB", depth=4) as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        writer.write(np.zeros(BIG, "u1"))
        view = reader.read()
        assert blocks_of(writer)[1][6] == [os.getpid()]
        writer.write_many(np.zeros((8, BIG), "u1"))
        # Gone from the ring, and still looked at: no number, but somebody who holds it.
        assert blocks_of(writer)[0][6] == [os.getpid()] and sorted(blocks_of(writer))[1:] == [
            *range(6, 10)
        ]
        del view
        loan = writer.loan((BIG,), "u1")
        assert blocks_of(writer)[0][5] == os.getpid()
        loan.discard()
        assert sorted(b for b in blocks_of(writer) if b) == [*range(6, 10)]
        writer.unlink()


def test_of_many_blocks_those_that_stand_out_are_told(topic_name: str) -> None:
    with (
        shmflow.Topic(topic_name, "w", capacity="32 MiB", depth=300) as writer,
        shmflow.Topic(topic_name, "r") as reader,
    ):
        writer.write(np.zeros(BIG // 2, "u1"))
        view = reader.read()
        writer.write_many(np.zeros((299, 1000), "u1"))
        capacity, _, count, found = writer._blocks(20)
        assert count == 300 and 15 <= len(found) <= 21
        assert [block[2] for block in found if block[6]] == [1]
        assert capacity == writer.capacity
        del view
        with pytest.raises(ValueError, match="limit"):
            writer._blocks(0)
        writer.unlink()


def test_a_layout_is_told_whether_attached_or_not(topic_name: str) -> None:
    waiting = shmflow.Topic(topic_name, "r")
    assert waiting._layout() is None and waiting._blocks(10) is None
    with shmflow.Topic(
        topic_name, "w", capacity="1 MiB", temporary=True, allow_lossless=False, max_participants=64
    ) as writer:
        layout = waiting._layout()
        assert layout == writer._layout()
        assert layout["temporary"] and not layout["allow_lossless"]
        assert layout["max_participants"] == 64 and layout["rebuilds"] >= 0
        assert layout["file_len"] == os.stat(_names.path_of(topic_name)).st_size
        waiting.close()
