"""Where there is no room, or no permission: an error at creation that says what to do.

A small tmpfs, a memory cgroup and a second user are needed; without them: a skip with a reason,
or, under SHMFLOW_CI=1, a failure.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# ---- room ----


def test_full_shared_memory_is_an_error_at_creation(
    small_tmpfs: Path, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        """
        import errno, os, shmflow
        for i, make in enumerate((
            lambda: shmflow.Topic("a", capacity="64 MiB"),
            lambda: shmflow.Topic("b", "w").write(bytes(5 << 20)),
            lambda: shmflow.Topic("c", "w").loan(5 << 20),
        )):
            try:
                make()
            except shmflow.NoSpace as error:
                assert error.errno == errno.ENOSPC and error.filename.endswith("abc"[i])
                print(error)
        assert os.listdir(os.environ["SHMFLOW_DIR"]) == []
        free = os.statvfs(os.environ["SHMFLOW_DIR"])
        assert free.f_bfree == free.f_blocks, "memory is still reserved"
        with shmflow.Topic("small") as topic:      # sized to what there is
            topic.write(bytes(200_000))
            assert topic.capacity <= 2 << 20
            topic.unlink()
        """,
        env={"SHMFLOW_DIR": str(small_tmpfs)},
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert re.search(
        r"asked for 9\d\.\d MiB for 'a', .*/shm has 4\.0 MiB free of 4\.0 MiB", lines[0]
    )
    assert all("in Docker start with --shm-size" in line for line in lines)


def memory_cgroup(limit: int) -> tuple[Path, Path] | str:
    """A new memory cgroup with that limit, and its file that processes join by; or why not."""
    root = Path("/sys/fs/cgroup")
    for parent, limits in (
        (root / "memory", "memory.limit_in_bytes"),
        (root, "memory.max"),
    ):
        path = parent / f"shmflow-test-{os.getpid()}"
        if not (parent / "cgroup.procs").exists():
            continue
        try:
            path.mkdir()
        except OSError as error:
            return f"cannot make a cgroup in {parent}: {error}"
        try:
            (path / limits).write_text(str(limit))
            return path, path / "cgroup.procs"
        except OSError as error:
            path.rmdir()
            if parent != root:
                continue
            return f"cannot limit a cgroup in {parent}: {error}"
    return "no memory cgroup is mounted"


def test_cgroup_limit_below_the_capacity_is_an_error_at_creation(
    topic_name: str, run_python: Callable[..., Any], missing: Callable[[str], Any]
) -> None:
    group = memory_cgroup(256 << 20)
    if isinstance(group, str):
        missing(group)
    path, processes = group
    try:
        done = run_python(
            """
            import errno, os, sys, shmflow
            open(sys.argv[2], "w", encoding="ascii").write(str(os.getpid()))
            try:
                shmflow.Topic(sys.argv[1], capacity="300 MiB")
            except shmflow.NoSpace as error:
                assert error.errno == errno.ENOMEM
                print(error)
            with shmflow.Topic(sys.argv[1]) as topic:     # sized to what there is
                topic.write(bytes(20 << 20))
                assert topic.capacity <= 128 << 20
                topic.unlink()
            """,
            topic_name,
            processes,
        )
    finally:
        deadline = time.monotonic() + 10
        while path.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                path.rmdir()
            time.sleep(0.02)
    assert re.search(r"asked for 3\d\d\.\d MiB .* the memory cgroup admits 2[0-5]\d\.", done.stdout)


# ---- permission ----

AS_NOBODY = """
    import os, sys, numpy as np, shmflow
    name, unlink = sys.argv[1], shmflow.unlink  # imported before the folder is out of reach
    os.chmod(os.environ["SHMFLOW_DIR"], 0o1777)
    for permissions in (0o600, 0o644, 0o666):
        with shmflow.Topic(name, "w", capacity="1 MiB", permissions=permissions) as topic:
            topic.write(np.arange(5000))
            child = os.fork()
            if child == 0:
                os.setuid(65534)
                for mode in ("r", "w", "monitor"):
                    try:
                        with shmflow.Topic(name, mode, create=False) as mine:
                            if mode == "w":
                                mine.write(b"x")
                            else:
                                assert (mine.read(timeout=0) == np.arange(5000)).all()
                            print(oct(permissions), mode, "works", flush=True)
                    except shmflow.NotAllowed as error:
                        assert error.errno and error.filename
                        print(oct(permissions), mode, error, flush=True)
                try:
                    unlink(name)
                    print("unlinked")
                except shmflow.NotAllowed as error:
                    print(oct(permissions), "unlink", error, flush=True)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert topic.write(b"goes on") and not topic.ended
            topic.unlink()
"""


def test_another_user_gets_what_the_permissions_admit(
    topic_name: str, tmp_path: Path, run_python: Callable[..., Any], missing: Callable[[str], Any]
) -> None:
    if os.geteuid() != 0:
        missing("only root can become another user")
    folder = Path(tmp_path_for_everybody(topic_name))
    try:
        done = run_python(AS_NOBODY, topic_name, env={"SHMFLOW_DIR": str(folder)})
        assert list(folder.iterdir()) == []
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    said = {}
    for line in done.stdout.splitlines():
        permissions, call, text = line.split(" ", 2)
        said[permissions, call] = text
    who = r"owner uid 0, mode {}; you are 65534"
    for call in ("r", "w", "monitor", "unlink"):
        assert re.search(who.format("0o600"), said["0o600", call]), said
    assert said["0o644", "monitor"] == "works"
    for call in ("r", "w", "unlink"):
        assert re.search(who.format("0o644"), said["0o644", call]), said
    assert "monitor" in said["0o600", "r"]  # tells what permissions would admit it
    assert said["0o666", "monitor"] == said["0o666", "r"] == "works"


def tmp_path_for_everybody(topic_name: str) -> str:
    """A folder in /dev/shm that another user may reach: pytest's own are private."""
    path = f"/dev/shm/shmflow-permissions-{topic_name}"
    os.mkdir(path)
    return path
