"""What runs out for real: memory, inodes, file descriptors, address space, a file's length.

Owns: small file systems, limits and cgroups of its own, each around one child process.
Does not own: faults that are injected (tests/core/test_faults_*), signals and files that change
under one's feet (test_faults.py), who may do what (tests/api/test_room_and_permission.py).

Each shortage is told by a type that names it, leaves nothing, and is over once it is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compiled import SANITIZED
from needs import missing

Run = Callable[..., Any]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """``mount("size=2m") -> Path``: an empty tmpfs with these options."""
    mounted: list[Path] = []

    def make(options: str) -> Path:
        path = tmp_path / f"shm{len(mounted)}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "shmflow-test", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except FileNotFoundError:
            missing("no mount command")
        if done.returncode != 0:
            missing(f"mounting a tmpfs is refused: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=20)


# ---- the file system ---------------------------------------------------------------------------


def test_a_topic_larger_than_the_file_system_is_refused_with_numbers(
    mount: Callable[[str], Path], run_python: Run
) -> None:
    folder = mount("size=2m")
    done = run_python(
        """
        import errno, os, shmflow
        folder = os.environ["SHMFLOW_DIR"]
        for _ in range(3):
            try:
                shmflow.Topic("large", "w", capacity="3 MiB")
            except shmflow.NoSpace as error:
                assert error.errno == errno.ENOSPC and error.filename.endswith("shmflow.large")
                print(error)
            assert os.listdir(folder) == []
            space = os.statvfs(folder)
            assert space.f_bfree == space.f_blocks and space.f_ffree == space.f_files - 1
        """,
        env={"SHMFLOW_DIR": str(folder)},
    )
    for line in done.stdout.splitlines():
        assert re.search(r"asked for [3-4]\.\d MiB for 'large', .* has 2\.0 MiB free", line)
    assert len(done.stdout.splitlines()) == 3


def test_what_just_fits_is_written_to_its_last_byte_though_others_fill_the_rest(
    mount: Callable[[str], Path], run_python: Run
) -> None:
    folder = mount("size=2m")
    run_python(
        """
        import os, shmflow
        low, high, folder = 1, 2 << 20, os.environ["SHMFLOW_DIR"]
        while high - low > 4096:                 # the largest capacity that is let in
            middle = (low + high) // 2
            try:
                shmflow.Topic("t", "w", capacity=middle, max_message=4096).unlink()
                low = middle
            except shmflow.NoSpace:
                high = middle
        topic = shmflow.Topic("t", capacity=low, max_message=4096)
        assert topic.capacity >= 1 << 20
        with open(folder + "/filler", "wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError as error:
                print(error)
        assert os.statvfs(folder).f_bfree == 0
        views = []
        late = shmflow.Topic("t", "r", start="new")   # to attach takes no memory of the file system
        for number in range(1, 2 * topic.capacity // 4096):
            assert topic.write(bytes([number % 251]) * 4096) == number
            if number % 5 == 0:
                views.append((number, topic.read(timeout=0, latest=True)))
                del views[:-20]
            if number % 50 == 0:
                assert bytes(late.read(timeout=0, latest=True)) == bytes([number % 251]) * 4096
        for number, view in views:
            assert (view == number % 251).all()
        del view, views
        topic.unlink()
        """,
        env={"SHMFLOW_DIR": str(folder)},
    )
    assert [file.name for file in folder.iterdir()] == ["filler"]


def test_no_inode_left_is_told_and_leaves_nothing(
    mount: Callable[[str], Path], run_python: Run
) -> None:
    folder = mount("size=8m,nr_inodes=4")
    done = run_python(
        """
        import errno, os, shmflow
        folder = os.environ["SHMFLOW_DIR"]
        files = []
        try:
            while True:
                files.append(f"{folder}/{len(files)}")
                os.close(os.open(files[-1], os.O_CREAT | os.O_EXCL))
        except OSError as error:
            assert error.errno == errno.ENOSPC
            files.pop()
        try:
            shmflow.Topic("t", "w", capacity="1 MiB")
        except shmflow.NoSpace as error:
            assert error.errno == errno.ENOSPC
            print(error)
        assert len(os.listdir(folder)) == len(files)
        os.unlink(files[0])
        with shmflow.Topic("t", capacity="1 MiB") as topic:
            assert topic.write(b"there is one") == 1
            topic.unlink()
        """,
        env={"SHMFLOW_DIR": str(folder)},
    )
    assert "no inode left for 't'" in done.stdout


def test_a_read_only_file_system_is_told_as_not_allowed_and_can_be_monitored(
    mount: Callable[[str], Path], run_python: Run
) -> None:
    folder = mount("size=4m")
    run_python(
        """
        import os, shmflow, subprocess
        folder = os.environ["SHMFLOW_DIR"]
        topic = shmflow.Topic("t", "w", capacity="1 MiB")
        topic.write(b"before")
        topic.close()
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        def refused(call):
            try:
                call()
            except shmflow.NotAllowed as error:
                assert error.errno and error.filename, error
            else:
                raise AssertionError("let in")
        refused(lambda: shmflow.Topic("new", "w", capacity="1 MiB"))
        refused(lambda: shmflow.Topic("t", "r", create=False))
        refused(lambda: shmflow.Topic("t", "w", create=False))
        refused(lambda: shmflow.unlink("t"))
        with shmflow.Topic("t", "monitor") as monitor:
            assert bytes(monitor.read(timeout=0)) == b"before" and not monitor.ended
        assert [info.name for info in shmflow.topics()] == ["t"]
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        with shmflow.Topic("t", "rw") as topic:
            assert bytes(topic.read(timeout=0)) == b"before" and topic.write(b"after") == 2
            topic.unlink()
        """,
        env={"SHMFLOW_DIR": str(folder)},
    )


# ---- limits of the process ---------------------------------------------------------------------

NOFILE = """
    import errno, gc, os, resource, sys, shmflow
    from shmflow import _texts, _wire, _errors      # nothing is imported while files run out
    import difflib, numpy as np
    name = sys.argv[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    writer = shmflow.Topic(name, "w", capacity="1 MiB")
    writer.write(b"0")
    reader = shmflow.Topic(name, "r")
    reader.read(timeout=0)
    closed_off = shmflow.Topic(name + ".later", "r")

    def limit(on):
        least = soft
        if on:
            least = os.dup(0)
            os.close(least)
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))

    def fds():
        return sorted(os.listdir("/proc/self/fd"))

    calls = {
        "attach": lambda: shmflow.Topic(name, "r", create=False).close(),
        "monitor": lambda: shmflow.Topic(name, "monitor", create=False).close(),
        "create": lambda: shmflow.Topic(name + ".more", "w", capacity="1 MiB").unlink(),
        "participants": lambda: len(writer.participants()) == 2 or 1 / 0,
        "readers": lambda: writer.readers == 1 or 1 / 0,
        "facts": lambda: closed_off.capacity,
        "unlink": lambda: shmflow.unlink(name + ".later"),
    }
    shmflow.Topic(name + ".later", "w", capacity="1 MiB").close()
    before = fds()
    limit(True)
    refused = []
    for call, run in calls.items():
        try:
            run()
        except OSError as error:
            assert error.errno == errno.EMFILE, (call, error)
            refused.append(call)
    # Those that are attached need no descriptor.
    for number in range(2, 2000):
        assert writer.write(np.full(5000, number)) == number
        assert (reader.read(timeout=0) == number).all()
    try:
        reader.read(timeout=0.05)
    except shmflow.Empty:
        pass
    limit(False)
    # The living are counted all the same: a thread with a table of descriptors of its own looks.
    assert refused == ["attach", "monitor", "create", "facts", "unlink"], refused
    for run in calls.values():
        run()
    closed_off.close(); writer.unlink(); writer.close(); reader.close()
    gc.collect()
    assert fds() == before, (fds(), before)
"""


def test_without_file_descriptors_calls_say_so_and_what_is_attached_goes_on(
    topic_name: str, run_python: Run
) -> None:
    run_python(NOFILE, topic_name)


@pytest.mark.skipif(SANITIZED, reason="a sanitizer's shadow takes more than any limit")
def test_without_address_space_calls_say_so_and_work_when_there_is_some(
    topic_name: str, run_python: Run
) -> None:
    run_python(
        """
        import errno, os, resource, sys, shmflow
        import numpy as np
        from shmflow import _texts
        name = sys.argv[1]
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * 4096
        writer = shmflow.Topic(name, "w", capacity="64 MiB")
        writer.write(np.arange(10))
        writer.close()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        fds = len(os.listdir("/proc/self/fd"))
        for room in range(0, 224 << 20, 16 << 20):     # each step of attach and create in turn
            resource.setrlimit(resource.RLIMIT_AS, (now + room, hard))
            outcome = []
            for call in (
                lambda: shmflow.Topic(name, "rw", create=False),
                lambda: shmflow.Topic(name, "r", create=False),
                lambda: shmflow.Topic(name, "monitor", create=False),
                lambda: shmflow.Topic(name + ".b", "w", capacity="16 MiB"),
            ):
                try:
                    topic = call()
                    outcome.append("open")
                    topic.close()
                except MemoryError:
                    outcome.append("memory")
                except OSError as error:
                    assert error.errno == errno.ENOMEM, error
                    outcome.append("errno")
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            print(room >> 20, outcome)
            assert len(os.listdir("/proc/self/fd")) == fds
            if os.path.exists(os.path.join(os.environ["SHMFLOW_DIR"], f"shmflow.{name}.b")):
                shmflow.unlink(name + ".b")
        assert outcome == ["open"] * 4
        with shmflow.Topic(name) as topic:
            assert (topic.read(timeout=0) == np.arange(10)).all() and topic.write(b"goes on") == 2
            assert [p.alive for p in topic.participants()] == [True]
            topic.unlink()
        """,
        topic_name,
    )


def test_a_limit_on_file_length_is_an_error_and_no_signal(topic_name: str, run_python: Run) -> None:
    run_python(
        """
        import errno, os, resource, signal, sys, shmflow
        name = sys.argv[1]
        assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            shmflow.Topic(name, "w", capacity="4 MiB")
        except OSError as error:
            assert error.errno == errno.EFBIG, error
        else:
            raise AssertionError("let in")
        assert not [file for file in os.listdir(os.environ["SHMFLOW_DIR"]) if name in file]
        with shmflow.Topic(name, capacity=65536, depth=10) as topic:   # below the limit
            assert topic.write(bytes(10000)) == 1
            topic.unlink()
        """,
        topic_name,
    )


# ---- the memory cgroup -------------------------------------------------------------------------


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[Path]:
    """The file by which processes join a new cgroup of either version."""
    root = Path("/sys/fs/cgroup")
    why = "no memory cgroup is mounted"
    for parent, knob in ((root / "memory", "memory.limit_in_bytes"), (root, "memory.max")):
        path = parent / f"shmflow-resources-{os.getpid()}"
        if not (parent / "cgroup.procs").exists():
            continue
        try:
            path.mkdir()
        except OSError as error:
            why = f"cannot make a cgroup in {parent}: {error}"
            continue
        try:
            try:
                (path / knob).write_text(str(limit))
            except OSError as error:
                why = f"cannot limit a cgroup in {parent}: {error}"
                continue
            yield path / "cgroup.procs"
            return
        finally:
            deadline = time.monotonic() + 10
            while path.exists() and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    path.rmdir()
                time.sleep(0.02)
    missing(why)


def test_beyond_the_cgroup_creation_fails_and_below_it_all_of_the_ring_can_be_used(
    topic_name: str, run_python: Run
) -> None:
    with memory_cgroup(192 << 20) as processes:
        done = run_python(
            """
            import errno, os, sys, shmflow
            import numpy as np
            with open(sys.argv[2], "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
            for _ in range(3):
                try:
                    shmflow.Topic(sys.argv[1], "w", capacity="200 MiB")
                except shmflow.NoSpace as error:
                    assert error.errno == errno.ENOMEM
                    print(error)
            with shmflow.Topic(sys.argv[1], capacity="48 MiB") as topic:
                frame = np.zeros(1 << 20, "u1")
                for number in range(1, 120):          # round and round: every page of it
                    frame[:] = number
                    assert topic.write(frame) == number
                    if number % 7 == 0:
                        assert (topic.read(timeout=0, latest=True) == number).all()
                topic.unlink()
            """,
            topic_name,
            processes,
        )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert re.search(r"asked for 2\d\d\.\d MiB .* the memory cgroup admits 1\d\d\.\d MiB", line)
