"""A real video through the ring: every frame bit for bit, none lost, in order.

One process decodes the film and writes frame by frame; three others read: one by zero-copy views,
one by copies, one that draws on a copy of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from needs import film

import shmflow

FRAMES = 132
SHAPE = (720, 1280, 3)
FRAME_BYTES = 720 * 1280 * 3
ROLES = ("views", "copies", "draws")

WRITER = """
    import sys, zlib
    import cv2
    import shmflow

    name, clip, depth, loans = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "loans"
    cv2.setNumThreads(1)
    film = cv2.VideoCapture(clip)
    with shmflow.Topic(name, "w", capacity=(depth + 1) * 720 * 1280 * 3, depth=depth) as topic:
        sys.stdin.readline()
        while True:
            ok, frame = film.read()
            if not ok:
                break
            crc = zlib.crc32(frame)
            if loans:
                with topic.loan(frame.shape, frame.dtype) as a:
                    a[...] = frame
                topic_seq = topic.head
            else:
                topic_seq = topic.write(frame)
            print(topic_seq, crc, *frame.shape)
        topic.shutdown()
        print("end", topic.stats().writer_waits)
"""

READER = """
    import sys, zlib
    import cv2
    import numpy as np
    import shmflow

    name, role, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
    cv2.setNumThreads(1)
    with shmflow.Topic(name, "r", max_held=limit) as topic:
        print("ready")
        for message in topic.messages(copy=role == "copies", timeout=60):
            frame = message.array
            crc = zlib.crc32(frame)
            if role == "views":
                assert not frame.flags.writeable and frame.base is not None
            if role == "copies":
                assert frame.flags.writeable
            if role == "draws":
                mine = frame.copy()
                cv2.rectangle(mine, (100, 100), (500, 400), (0, 0, 255), -1)
                cv2.putText(mine, str(message.seq), (200, 300), 0, 3, (255, 255, 255))
                assert not np.array_equal(mine, frame)
                assert zlib.crc32(frame) == crc
            print(message.seq, crc, *frame.shape)
            assert message.lost == message.skipped == 0
        stats = topic.stats()
        print("end", stats.read, stats.lost, stats.pinned, stats.copied)
"""


@pytest.fixture(scope="session")
def clip() -> Path:
    return film()


@pytest.fixture(scope="session")
def decoded(clip: Path) -> list[int]:
    """The checksum of each frame, decoded here, by nobody who writes or reads a topic."""
    import zlib

    import cv2

    cv2.setNumThreads(1)
    frames = cv2.VideoCapture(str(clip))
    crcs = []
    while (pair := frames.read())[0]:
        assert pair[1].shape == SHAPE
        crcs.append(zlib.crc32(pair[1]))
    assert len(crcs) == FRAMES
    assert len(set(crcs)) > FRAMES // 2, "frames differ, so an exchanged one would be seen"
    return crcs


def lines_until_end(child, timeout: float = 90) -> tuple[list[str], list[int]]:
    """All frames a child told of, and the numbers of its last line."""
    lines = []
    while not (line := child.readline(timeout)).startswith("end"):
        lines.append(line)
    return lines, [int(word) for word in line.split()[1:]]


def check(writer, readers: dict, decoded: list[int], begun: list[str]) -> None:
    written, (waits,) = lines_until_end(writer)
    written = begun + written
    height, width, depth = SHAPE
    assert written == [
        f"{seq} {crc} {height} {width} {depth}" for seq, crc in enumerate(decoded, 1)
    ]
    assert waits == 0
    for role, reader in readers.items():
        seen, (read, lost, pinned, copied) = lines_until_end(reader)
        assert seen == written, f"the reader that {role} saw other frames than were written"
        assert (read, lost) == (FRAMES, 0)
        assert (pinned, copied) == ((0, FRAMES) if role == "copies" else (FRAMES, 0))
        reader.finish()
    writer.finish()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["write", "loans"])
@pytest.mark.parametrize("first", ["readers first", "writer first"])
def test_every_frame_of_a_video_arrives_bit_for_bit(
    topic_name: str, spawn: Callable, clip: Path, decoded: list[int], first: str, how: str
) -> None:
    def start_readers() -> dict:
        # Views may be a frame behind while the next is read: a few frames are enough.
        readers = {role: spawn(READER, topic_name, role, 8 * FRAME_BYTES) for role in ROLES}
        for reader in readers.values():
            reader.expect("ready")
        return readers

    readers = start_readers() if first == "readers first" else {}
    writer = spawn(WRITER, topic_name, clip, FRAMES, how)
    writer.send("begin")
    begun = []
    if not readers:
        begun = [writer.readline(30)]  # so that there is a topic
        readers = start_readers()
    check(writer, readers, decoded, begun)
    with shmflow.Topic(topic_name, "r") as late:
        # And a late comer, after all of them left, finds the film as it was.
        assert [message.seq for message in late.messages()] == list(range(1, FRAMES + 1))
        late.unlink()


def test_a_slow_reader_of_a_short_ring_loses_frames_but_never_tears_one(
    topic_name: str, spawn: Callable, clip: Path, decoded: list[int]
) -> None:
    reader = spawn(
        """
        import sys, time, zlib
        import shmflow

        with shmflow.Topic(sys.argv[1], "r", max_held=3 * 2764800) as topic:
            print("ready")
            last = 0
            for message in topic.messages(timeout=60):
                assert message.seq == last + 1 + message.lost
                last = message.seq
                print(message.seq, zlib.crc32(message.array))
                time.sleep(0.03)
            stats = topic.stats()
            print("end", stats.read, stats.lost)
        """,
        topic_name,
    )
    reader.expect("ready")
    writer = spawn(WRITER, topic_name, clip, 5, "write")
    writer.send("begin")
    _, (waits,) = lines_until_end(writer)
    seen, (read, lost) = lines_until_end(reader)
    assert waits == 0
    assert read + lost == FRAMES and read == len(seen)
    for line in seen:
        seq, crc = map(int, line.split())
        assert crc == decoded[seq - 1]
    reader.finish()
    writer.finish()
