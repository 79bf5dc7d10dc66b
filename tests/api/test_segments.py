"""What is not a topic, although it bears the name of one: a typed error, never a crash.

Each kind is met as reader, writer, monitor and by topics(); unlink() removes what is a file.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmflow
from shmflow import _core

HEADER = 256  # bytes of constants
# max_message, as far as its lane has room; identity, boot id, creation time, what a message is
# expected to take, as far as it asks for the same tables; padding.
NEUTRAL = [24, *range(144, 256, 8)]


@pytest.fixture
def path(topic_name: str, shm_dir: Path) -> Path:
    return shm_dir / f"shmflow.{topic_name}"


@pytest.fixture
def segment(topic_name: str, path: Path) -> bytes:
    """A whole segment with one message in it; the file itself is there too."""
    with shmflow.Topic(topic_name, capacity="64 KiB") as topic:
        topic.write(b"kept")
    return path.read_bytes()


def open_in_every_way(name: str) -> dict[str, str]:
    """mode -> the class of the error, or what was read. A crash would end the test process."""
    outcome: dict[str, str] = {}
    for mode in ("r", "monitor", "w", "rw"):
        try:
            with shmflow.Topic(name, mode, create=False) as topic:
                if mode == "w":
                    outcome[mode] = f"wrote {topic.write(b'more', timeout=1)}"
                else:
                    outcome[mode] = bytes(topic.read(timeout=0)).decode("latin-1")
        except (shmflow.Error, OSError, ValueError) as error:
            outcome[mode] = type(error).__name__
            if isinstance(error, shmflow.CorruptTopic):
                assert error.errno and error.filename.endswith(name), error
    return outcome


def assert_corrupt(name: str, why: str, modes: str = "r monitor w rw") -> None:
    for mode in modes.split():
        with pytest.raises(shmflow.CorruptTopic, match=why) as caught:
            shmflow.Topic(name, mode, create=False)
        assert caught.value.errno and caught.value.filename.endswith(f"shmflow.{name}")
        with pytest.raises(shmflow.CorruptTopic, match=why):
            topic = shmflow.Topic(name, mode)
            try:
                topic.write(b"x") if "w" in mode else topic.read(timeout=0)
            finally:
                topic.close()
    (info,) = [info for info in shmflow.topics() if info.name == name]
    assert info.error and info.capacity == 0


def test_directory(topic_name: str, path: Path) -> None:
    path.mkdir()
    (path / "precious").write_text("x")
    assert_corrupt(topic_name, "not a regular file")
    with pytest.raises(shmflow.CorruptTopic, match="not a regular file"):
        shmflow.unlink(topic_name)
    assert (path / "precious").read_text() == "x"
    (path / "precious").unlink()
    path.rmdir()


def test_symlink_is_not_followed(topic_name: str, path: Path, tmp_path: Path) -> None:
    with shmflow.Topic(topic_name + ".target", capacity="64 KiB") as target:
        target.write(b"x")
        path.symlink_to(f"shmflow.{topic_name}.target")
        assert_corrupt(topic_name, "not a regular file")
        assert target.head == 1
        path.unlink()
        target.unlink()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    assert_corrupt(topic_name, "not a regular file")
    assert victim.read_bytes() == b"precious"
    path.unlink()
    path.symlink_to(tmp_path / "nothing")
    open_in_every_way(topic_name)
    assert not (tmp_path / "nothing").exists()
    path.unlink()


def test_fifo_does_not_block(topic_name: str, path: Path) -> None:
    os.mkfifo(path)
    assert_corrupt(topic_name, "not a regular file")
    with pytest.raises(shmflow.CorruptTopic):
        shmflow.unlink(topic_name)
    path.unlink()


def test_device(topic_name: str, path: Path) -> None:
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))  # as /dev/null
    except OSError:
        pytest.skip("making a device node is refused")
    outcome = open_in_every_way(topic_name)
    assert set(outcome.values()) <= {"CorruptTopic", "NotAllowed"}, outcome
    path.unlink()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "shorter than a topic's header"),
        (b"x", "shorter"),
        (bytes(4095), "shorter"),
        (bytes(4096), "some other program made it"),
        (bytes(1 << 20), "some other program made it"),
        (b"Lorem ipsum dolor sit amet. " * 1000, "some other program made it"),
        (os.urandom(300_000), "some other program made it"),
        (b"\x7fELF" + bytes(10000), "some other program made it"),
    ],
    ids=["empty", "1 byte", "4095 zeros", "page of zeros", "zeros", "text", "noise", "program"],
)
def test_foreign_file(topic_name: str, path: Path, content: bytes, why: str) -> None:
    path.write_bytes(content)
    assert_corrupt(topic_name, why)
    assert path.read_bytes() == content
    shmflow.unlink(topic_name)
    assert not path.exists()


def test_truncated_segment(topic_name: str, path: Path, segment: bytes) -> None:
    for length in (len(segment) - 1, len(segment) // 2, 8192, 4096, len(segment) + 4096):
        path.write_bytes(segment[:length] + bytes(max(0, length - len(segment))))
        assert_corrupt(topic_name, "length that its header tells")
    path.write_bytes(segment[:2000])
    assert_corrupt(topic_name, "shorter")
    shmflow.unlink(topic_name)


def test_older_format_says_what_to_do(topic_name: str, path: Path, segment: bytes) -> None:
    (word,) = struct.unpack_from("=I", segment, 8)
    for other in (word - (1 << 24), word + (1 << 24), word ^ 1, 0):
        path.write_bytes(segment[:8] + struct.pack("=I", other % 2**32) + segment[12:])
        assert_corrupt(topic_name, "another version of shmflow; restart its writers")
    shmflow.unlink(topic_name)


def test_other_byte_order(topic_name: str, path: Path, segment: bytes) -> None:
    swapped = segment[:8][::-1] + segment[8:12][::-1] + segment[12:]
    path.write_bytes(swapped)
    assert_corrupt(topic_name, "other byte order")
    shmflow.unlink(topic_name)


def assert_is_no_debug_build() -> None:
    if b"invariant broken" in Path(_core.__file__).read_bytes():
        pytest.skip("a debug build aborts at tables that contradict each other, on purpose")


UNAFFECTED = {"r": "kept", "monitor": "kept", "w": "wrote 2", "rw": "kept"}
GARBAGE = [0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 0x5555555555555555]


@pytest.mark.parametrize("offset", range(0, HEADER, 8))
def test_garbage_in_a_word_of_the_header(
    topic_name: str, path: Path, segment: bytes, offset: int
) -> None:
    (good,) = struct.unpack_from("=Q", segment, offset)
    values = {*GARBAGE, good + 1, good - 1, good ^ 64, good ^ (1 << 32), good * 2}
    # What a creator could have written too: the flag "temporary", then it goes with its first user.
    fine = {good ^ (1 << 32)} if offset == 8 else set()
    for value in {v % 2**64 for v in values} - {good} - fine:
        path.write_bytes(segment[:offset] + struct.pack("=Q", value) + segment[offset + 8 :])
        outcome = open_in_every_way(topic_name)
        if outcome != UNAFFECTED or offset not in NEUTRAL:
            assert set(outcome.values()) == {"CorruptTopic"}, (offset, hex(value), outcome)
    path.unlink(missing_ok=True)


HOT = """
    import pathlib, struct, sys, shmflow
    name, path, offset = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
    good = path.read_bytes()
    for value in (0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 0x5555555555555555, 77 << 11 | 3):
        path.write_bytes(good[:offset] + struct.pack("=Q", value) + good[offset + 8:])
        for mode in ("monitor", "r", "w", "rw"):
            try:
                with shmflow.Topic(name, mode, create=False) as topic:
                    if "w" in mode:
                        topic.write(b"more", timeout=0.01)
                        topic.write(bytes(9000), timeout=0.01)
                    if mode != "w":
                        for _ in range(4):
                            topic.read(timeout=0)
                    topic.stats(), topic.participants(), repr(topic)
            except (shmflow.Error, OSError):
                pass
    print("alive")
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(256, 768, 128))
def test_garbage_in_a_hot_word_crashes_nobody(
    topic_name: str,
    path: Path,
    segment: bytes,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
    first: int,
) -> None:
    assert_is_no_debug_build()
    for offset in range(first, first + 128, 8):
        path.write_bytes(segment)
        if any(segment[first : first + 64]) or offset % 64 < 32:
            done = run_python(HOT, topic_name, path, offset)
            assert done.stdout == "alive\n", offset
    path.unlink(missing_ok=True)


def test_unknown_flags_are_refused(topic_name: str, path: Path, segment: bytes) -> None:
    path.write_bytes(segment[:12] + struct.pack("=I", 0x80) + segment[16:])
    assert_corrupt(topic_name, "its header contradicts itself")
    shmflow.unlink(topic_name)


def test_a_damaged_message_is_passed_with_an_error(
    topic_name: str, path: Path, segment: bytes
) -> None:
    """Descriptors are input too: dims, lengths and dtypes that cannot be."""
    assert_is_no_debug_build()
    descs_off = struct.unpack_from("=Q", segment, 72 + 24)[0]
    at = next(
        at
        for at in range(descs_off, len(segment) - 128, 128)
        if struct.unpack_from("=Q", segment, at)[0] == 1
    )
    for offset in range(8, 128, 8):
        if offset in (8, 48, 56):  # owner and kind are met below, pins are nobody's
            continue
        for value in (2**64 - 1, 2**63, 2**40 + 64, 12345):
            path.write_bytes(segment)
            with open(path, "r+b") as file:
                file.seek(at + offset)
                file.write(struct.pack("=Q", value))
            outcome = open_in_every_way(topic_name)
            allowed = {"CorruptTopic", "kept", "Empty", "more", "wrote 2", "wrote 1", "Full"}
            other = {v for v in outcome.values() if v not in allowed}
            assert all(len(v) == 4 for v in other), (offset, hex(value), outcome)
    for kind in (33, 255, 0xFFFFFFFF, 1 | 40000 << 16, 1 | 5 << 8):
        path.write_bytes(segment)
        with open(path, "r+b") as file:
            file.seek(at + 12)
            file.write(struct.pack("=I", kind))
        open_in_every_way(topic_name)
    shmflow.unlink(topic_name)


def test_a_writer_with_requirements_does_not_destroy_what_is_foreign(
    topic_name: str, path: Path
) -> None:
    path.write_bytes(b"precious" * 1000)
    options: list[dict[str, Any]] = [{"capacity": "1 MiB"}, {"depth": 3}, {"capacity": 1}]
    for arguments in options:
        with pytest.raises(shmflow.CorruptTopic):
            with shmflow.Topic(topic_name, **arguments) as topic:
                topic.write(b"x")
    with pytest.raises(shmflow.TopicExists):
        shmflow.Topic(topic_name, create=True)
    assert path.read_bytes() == b"precious" * 1000
    path.unlink()


def test_an_impossible_message_is_told_with_its_number_and_its_writer(
    topic_name: str, path: Path
) -> None:
    """The topic is as good as before: nobody is advised to remove it."""
    told = rf"message 2 of .*{topic_name}.*, written by pid {os.getpid()}, .* impossible way"
    with shmflow.Topic(topic_name, "w") as writer:
        for number in range(3):
            writer.write(np.full(3, number, np.float32))
        data = path.read_bytes()
        second = data.index(b"<f4\0", data.index(b"<f4\0") + 1)
        with path.open("r+b", buffering=0) as file:
            file.seek(second)
            file.write(b"<f3\0")
        with shmflow.Topic(topic_name, "r") as reader:
            for look in (lambda: reader.peek(2), reader.snapshot):
                with pytest.raises(shmflow.CorruptTopic, match=told) as caught:
                    look()
                assert "unlink" not in str(caught.value)
            for read in (reader.read, lambda: reader.read_many(5, stack=True)):
                assert reader.seek(1) == 1
                assert reader.read(0)[0] == 0
                with pytest.raises(shmflow.CorruptTopic, match=told) as caught:
                    read()
                assert "unlink" not in str(caught.value)
                assert reader.read(0)[0] == 2
            assert reader.seek(1) == 1
            assert [int(array[0]) for array in reader.read_many(5)] == [0]
            with pytest.raises(shmflow.CorruptTopic, match=told):
                reader.read_many(5)
        writer.unlink()
