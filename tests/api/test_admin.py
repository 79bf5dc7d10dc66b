"""What concerns topics as such: topics(), unlink(), clean(), get_include()."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmflow

LARGE = 5000


def info_of(name: str) -> shmflow.TopicInfo:
    (info,) = [info for info in shmflow.topics() if info.name == name]
    return info


def test_topics_tells_what_there_is(topic_name: str, shm_dir: Path) -> None:
    assert shmflow.topics() == []
    with shmflow.Topic(topic_name, "w", capacity="1 MiB", depth=5) as writer:
        for i in range(7):
            writer.write(i)
        with shmflow.Topic(topic_name, "r") as reader:
            reader.read(timeout=0)
            info = info_of(topic_name)
            assert (info.capacity, info.depth, info.head, info.retained) == (1 << 20, 5, 7, 5)
            assert (info.writers, info.readers, info.participants) == (1, 1, 2)
            assert (info.temporary, info.ended, info.error) == (False, False, "")
            assert info.size == (shm_dir / f"shmflow.{topic_name}").stat().st_size > 1 << 20
        writer.shutdown()
        assert info_of(topic_name).ended
    assert info_of(topic_name).participants == 0
    shmflow.unlink(topic_name)


def test_topics_are_sorted_and_frozen(topic_name: str) -> None:
    names = sorted(topic_name + end for end in (".b", ".a", "/c", ".a.a"))
    topics = [shmflow.Topic(name, capacity="64 KiB") for name in reversed(names)]
    assert [info.name for info in shmflow.topics()] == names
    with pytest.raises(dataclasses.FrozenInstanceError):
        shmflow.topics()[0].name = "x"  # type: ignore[misc]
    for topic in topics:
        topic.unlink()
        topic.close()
    assert shmflow.topics() == []


def test_topics_consumes_nothing_and_takes_no_slot(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        topic.write(b"x")
        before = topic.participants()
        for _ in range(50):
            shmflow.topics()
        assert topic.participants() == before
        assert bytes(topic.read(timeout=0)) == b"x"
        topic.unlink()


def test_unlink_removes_used_and_idle(topic_name: str) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        topic.write(np.arange(LARGE))
        held = topic.read(timeout=0)
        shmflow.unlink(topic_name)
        assert shmflow.topics() == []
        np.testing.assert_array_equal(held, np.arange(LARGE))
        topic.write(b"next")
        del held
    shmflow.unlink(topic_name)
    with pytest.raises(shmflow.TopicNotFound):
        shmflow.unlink(topic_name)


def test_unlink_twice_through_topics_is_no_error(topic_name: str) -> None:
    first, second = (shmflow.Topic(topic_name, capacity="1 MiB") for _ in range(2))
    first.unlink()
    second.unlink()
    first.unlink()
    first.close()
    second.close()


def test_unlink_does_not_hit_the_next_generation(topic_name: str) -> None:
    with shmflow.Topic(topic_name, "r") as reader:
        with shmflow.Topic(topic_name, "w", capacity="1 MiB") as first:
            first.write(b"1")
            reader.read(timeout=0)
            with shmflow.Topic(topic_name, "w", capacity="1 MiB", replace=True) as second:
                second.write(b"2")
                reader.unlink()  # what it belongs to is gone already
                assert info_of(topic_name).head == 1
                second.unlink()


HOLDER = """
    import os, sys, numpy as np, shmflow
    topic = shmflow.Topic(sys.argv[1], **eval(sys.argv[2]))
    for i in range(3):
        topic.write(np.full(5000, i))
    held = [topic.read(timeout=0) for _ in range(3)]
    loan = topic.loan(20000)
    print("holding", flush=True)
    sys.stdin.readline()
"""


def test_clean_takes_back_what_a_killed_process_held(
    topic_name: str, spawn: Callable[..., Any]
) -> None:
    with shmflow.Topic(topic_name, "monitor") as monitor:
        child = spawn(HOLDER, topic_name, {"capacity": "1 MiB"})
        child.expect("holding")
        (one,) = monitor.participants()
        assert (one.pid, one.alive, one.held_blocks) == (child.pid, True, 4)
        assert shmflow.clean() == 0  # the living are never touched
        child.kill()
        (one,) = monitor.participants()
        assert (one.alive, monitor.writers, monitor.readers) == (False, 0, 0)
        assert shmflow.clean() == 1
        assert monitor.participants() == []
        assert shmflow.clean() == 0
        # It was not temporary: the last messages are still there.
        assert [int(monitor.read(timeout=0)[0]) for _ in range(3)] == [0, 1, 2]
    shmflow.unlink(topic_name)


def test_whoever_attaches_cleans_too(topic_name: str, spawn: Callable[..., Any]) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        child = spawn(HOLDER, topic_name, {"capacity": "1 MiB"})
        child.expect("holding")
        child.kill()
        assert [p.alive for p in topic.participants()] == [True, False]
        shmflow.Topic(topic_name, "r").close()
        assert [p.alive for p in topic.participants()] == [True]
        for i in range(200):
            assert topic.write(np.full(LARGE, i), timeout=0) == 4 + i
        topic.unlink()


def test_clean_removes_the_temporary_topic_of_a_killed_process(
    topic_name: str, spawn: Callable[..., Any]
) -> None:
    child = spawn(HOLDER, topic_name, {"temporary": True})
    child.expect("holding")
    assert shmflow.clean() == 0
    assert info_of(topic_name).temporary
    child.kill()
    assert shmflow.clean() >= 1
    assert shmflow.topics() == []


def test_clean_leaves_idle_foreign_and_fresh_files(topic_name: str, shm_dir: Path) -> None:
    shmflow.Topic(topic_name, capacity="64 KiB").close()
    foreign = shm_dir / f"shmflow.{topic_name}.foreign"
    foreign.write_bytes(bytes(10000))
    fresh, stale = shm_dir / ".shmflow-fresh", shm_dir / ".shmflow-stale"
    for path in (fresh, stale):
        path.write_bytes(b"unfinished")
    os.utime(stale, (time.time() - 7200,) * 2)
    try:
        assert shmflow.clean() == 1
        assert fresh.exists() and not stale.exists() and foreign.exists()
        assert info_of(topic_name).error == ""
    finally:
        fresh.unlink()
        stale.unlink(missing_ok=True)
        shmflow.unlink(topic_name)
        shmflow.unlink(topic_name + ".foreign")


def test_get_include_has_a_core_that_compiles(
    tmp_path: Path, topic_name: str, missing: Callable[[str], Any]
) -> None:
    include = Path(shmflow.get_include())
    headers = sorted(path.name for path in (include / "core").glob("*.h"))
    assert "shmflow.h" in headers
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        missing("no C compiler")
    program = tmp_path / "app.c"
    program.write_text('#include "core/shmflow.h"\nint main(void) { return 0; }\n')
    sources = [*(include / "core").glob("*.c"), *(include / "os").glob("*.c")]
    command = [compiler, "-std=c11", "-D_GNU_SOURCE", f"-I{include}", str(program)]
    command += [*map(str, sources), "-pthread", "-o", str(tmp_path / "app")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([tmp_path / "app"], timeout=20).returncode == 0
