"""A pool of processes shares the load of a real clip: every frame is encoded exactly once.

Owns: groups across processes: a pool of four, members that come and go under load, that are
killed, stopped, forked. Does not own: groups in one process (tests/api/test_groups.py).
"""

from __future__ import annotations

import os
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from family import until
from needs import film

import shmflow

WORKER = """
    import sys, zlib
    import cv2
    import shmflow

    name = sys.argv[1]
    cv2.setNumThreads(1)
    with shmflow.Topic(name, "r", group="encoders", lossless=True) as topic:
        print("ready")
        for message in topic.messages(timeout=60):
            ok, jpeg = cv2.imencode(".jpg", message.array)
            assert ok and message.lost == 0
            print(message.seq, zlib.crc32(message.array), len(jpeg))
        print("end", topic.stats().read)
"""

# Takes what comes and says so; told "hold", it keeps the next message and waits.
MEMBER = """
    import sys
    import shmflow

    name, lossless = sys.argv[1], sys.argv[2] == "lossless"
    topic = shmflow.Topic(name, "r", group="workers", lossless=lossless)
    print("ready")
    for message in topic.messages():
        assert (message.array == message.seq % 251).all()
        print(message.seq)
    print("end")
"""


@pytest.mark.slow
def test_four_processes_encode_every_frame_of_a_clip_once(topic_name: str, spawn: Callable) -> None:
    import cv2

    clip = cv2.VideoCapture(str(film()))
    frames, checksums = 0, {}
    with shmflow.Topic(topic_name, "w", capacity="48 MiB", depth=8) as writer:
        workers = [spawn(WORKER, topic_name) for _ in range(4)]
        for worker in workers:
            worker.expect("ready")
        while True:
            ok, frame = clip.read()
            if not ok:
                break
            checksums[writer.write(frame, timeout=60)] = zlib.crc32(frame)
            frames += 1
        writer.shutdown()
        assert frames == 132
        taken: Counter[int] = Counter()
        shares = []
        for worker in workers:
            mine = []
            while not (line := worker.readline(60)).startswith("end"):
                seq, crc, size = map(int, line.split())
                assert checksums[seq] == crc and size > 1000
                mine.append(seq)
            assert mine == sorted(mine) and line == f"end {len(mine)}"
            taken.update(mine)
            shares.append(len(mine))
            worker.finish()
        assert taken == Counter(range(1, frames + 1))
        assert sum(share > 0 for share in shares) >= 2, shares
        writer.unlink()


def collect(child, into: list[int]) -> None:
    while (line := child.readline()) != "end":
        into.append(int(line))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["lossy", "lossless"])
def test_members_come_go_and_are_killed_under_load(
    topic_name: str, spawn: Callable, policy: str
) -> None:
    total = 3000
    with shmflow.Topic(topic_name, "w", capacity="8 MiB", depth=total) as writer:
        members = [spawn(MEMBER, topic_name, policy) for _ in range(3)]
        for member in members:
            member.expect("ready")
        killed: list[list[int]] = []
        for seq in range(1, total + 1):
            writer.write(np.full(5 if seq % 3 else 5000, seq % 251, "u1"), timeout=20)
            if seq % 1000 == 500:
                victim = members.pop(0)
                victim.kill()
                rest = victim.process.stdout.read()
                lines = (victim._pending + rest).decode().splitlines(keepends=True)
                killed.append([int(line) for line in lines if line.endswith("\n")])
                members.append(spawn(MEMBER, topic_name, policy))
        writer.shutdown()
        everything: list[int] = []
        for member in members:
            if (line := member.readline()) != "ready":
                everything.append(int(line))
            collect(member, everything)
            member.finish()
        counts = Counter(everything + [seq for one in killed for seq in one])
        assert max(counts.values()) == 1, "a message was taken twice"
        # At most the message in hand when it was killed, and the lines still in its pipe's buffer.
        missing = set(range(1, total + 1)) - set(counts)
        assert len(missing) <= len(killed), missing
        writer.unlink()


def test_a_stopped_member_delays_nobody_and_loses_nothing(topic_name: str, spawn: Callable) -> None:
    with shmflow.Topic(topic_name, "w", capacity="4 MiB", depth=16) as writer:
        first, second = spawn(MEMBER, topic_name, "lossless"), spawn(MEMBER, topic_name, "lossless")
        first.expect("ready")
        second.expect("ready")
        first.stop()
        for seq in range(1, 201):
            writer.write(np.full(6000, seq % 251, "u1"), timeout=20)
        first.cont()
        writer.shutdown()
        taken: list[int] = []
        collect(first, taken)
        collect(second, taken)
        assert sorted(taken) == list(range(1, 201))
        writer.unlink()


def test_forked_children_become_members_of_their_own(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as writer:
        pool = shmflow.Topic(topic_name, "r", group="workers", lossless=True)
        writer.write_many(range(40))
        assert pool.read(0) == 0
        pids = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    first = pool.read(20)
                    mine = [int(a) for a in pool.read_many(12, 20)]
                    me = [p for p in pool.participants() if p.pid == os.getpid()]
                    assert [(p.group, p.lossless) for p in me] == [("workers", True)]
                    # In order; what is missing in between went to the others meanwhile.
                    assert len(mine) == 12 and [first, *mine] == sorted({int(first), *mine})
                    writer.write(np.array([1000 + len(mine)]))
                    status = 0
                finally:
                    os._exit(status)
            pids.append(pid)
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0
        pool.close()
        writer.unlink()


def test_a_lossless_reader_that_is_killed_frees_the_writers(
    topic_name: str, spawn: Callable
) -> None:
    keeper = """
        import sys, shmflow
        topic = shmflow.Topic(sys.argv[1], "r", lossless=True)
        print("ready")
        sys.stdin.readline()
    """
    with shmflow.Topic(topic_name, "w", capacity="1 MiB", depth=4) as writer:
        child = spawn(keeper, topic_name)
        child.expect("ready")
        writer.write_many(range(4))
        child.stop()
        with pytest.raises(shmflow.Full, match=f"pid {child.pid} .*which is stopped") as error:
            writer.write(4, timeout=0.3)  # a stopped one is alive: it is waited for
        assert "4 messages behind" in str(error.value)
        child.kill()
        writer.write(4, timeout=20)
        writer.write_many(range(20), timeout=0)
        writer.unlink()


def test_a_forked_child_of_a_lossless_reader_is_lossless_only_once_it_reads(
    topic_name: str,
) -> None:
    with shmflow.Topic(topic_name, "w", capacity="1 MiB", depth=4) as writer:
        reader = shmflow.Topic(topic_name, "r", lossless=True)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(writing)
                os.read(reading, 1)
                assert reader.read(20) == 10 - 4
                os.read(reading, 1)
                assert [int(a) for a in reader.read_many(9, 20)] == [7, 8, 9, 0]
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(reading)
        for number in range(10):  # an idle child is in nobody's way
            writer.write(number, timeout=20)
            assert reader.read(0) == number
        os.write(writing, b".")
        until(lambda: any(p.pid == pid and p.lossless and p.read for p in writer.participants()))
        with pytest.raises(shmflow.Full, match=f"pid {pid} "):
            for number in range(9):
                writer.write(number, timeout=0)
                reader.read(0)
        os.write(writing, b".")
        assert os.waitpid(pid, 0)[1] == 0
        os.close(writing)
        reader.close()
        writer.unlink()


def test_a_frozen_claim_reserves_no_place(topic_name: str, spawn: Callable) -> None:
    lender = """
        import sys, shmflow
        topic = shmflow.Topic(sys.argv[1], "w")
        loan = topic.loan(20_000)
        print("ready")
        sys.stdin.readline()
    """
    with (
        shmflow.Topic(topic_name, "w", capacity="1 MiB", depth=1) as writer,
        shmflow.Topic(topic_name, "r", lossless=True) as reader,
    ):
        child = spawn(lender, topic_name)
        child.expect("ready")
        child.stop()
        start = time.monotonic()
        for number in range(20):
            writer.write(np.full(10_000, number, "u1"), timeout=20)
            assert reader.read(0)[0] == number
        assert time.monotonic() - start < 20
        writer.unlink()
