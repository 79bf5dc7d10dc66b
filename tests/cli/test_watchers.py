"""What every command that only looks has in common: it is quick to start, and leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.looking import digest, mappings_of
from shell import PATIENCE, Running, run, side_by_side, until

import shmflow

pytestmark = pytest.mark.usefixtures("folder")


HEAVY = ("numpy", "rich", "shmflow._core", "cv2", "starlette", "uvicorn")


def test_help_imports_nothing_heavy(run_python: Callable[..., Any]) -> None:
    done = run_python(f"""
        import sys
        from shmflow.cli import COMMANDS, main
        for arguments in ([], *([name] for name in COMMANDS)):
            main([*arguments, "--help"], standalone_mode=False)
        found = [name for name in {HEAVY!r} if name in sys.modules]
        assert not found, found
        """)
    assert done.stderr == ""
    for word in ("ls", "info", "hz", "bw", "delay", "top", "rm", "clean"):
        assert f"\n  {word} " in done.stdout


@pytest.fixture
def bash(tmp_path: Path) -> Callable[[str], list[str]]:
    """What bash itself offers after these words and a Tab."""
    program = tmp_path / "shmflow"
    program.write_text(
        f"#!{sys.executable}\nfrom shmflow.cli import main\nmain(prog_name='shmflow')\n"
    )
    program.chmod(0o755)
    script = """
        eval "$(_SHMFLOW_COMPLETE=bash_source shmflow)"
        function=$(complete -p shmflow | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 ))
        $function "$1"
        printf '%s\\n' "${COMPREPLY[@]}"
        """

    def offered(words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", script, "bash", *words.split(" ")],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return offered


def test_bash_completes_the_names_of_live_topics(bash: Callable[[str], list[str]]) -> None:
    assert bash("shmflow info ") == []
    for name in ("cam/left", "cam/right", "imu"):
        shmflow.Topic(name, "w", capacity="1 MiB").close()
    assert bash("shmflow info ca") == ["cam/left", "cam/right"]
    assert bash("shmflow hz imu ") == ["cam/left", "cam/right", "imu"]
    assert bash("shmflow rm im") == ["imu"]
    assert bash("shmflow del") == ["delay"]
    assert bash("shmflow top --sort h") == ["held"]


WATCHERS = [
    ("ls", "-v"),
    ("info", "cam"),
    ("bw", "-n", 1),
    ("delay", "-n", 1),
    ("top", "-n", 2, "--every", "0.1"),
    ("rm", "--dry-run", "cam"),
    ("clean", "--dry-run"),
]


def test_looking_leaves_no_trace(folder: Path) -> None:
    file = folder / "shmflow.cam"
    with shmflow.Topic("cam", "w", capacity="1 MiB") as writer, shmflow.Topic("cam", "r") as reader:
        for _ in range(20):
            writer.write(np.zeros(5000, "u1"))
        held = reader.read(0)
        before = digest(file), writer.participants(), reader.stats()
        side_by_side(*WATCHERS)
        assert (digest(file), writer.participants(), reader.stats()) == before
        with Running("top", "--every", "0.1") as top, Running("hz") as hz:
            for process in (top, hz):
                until(lambda p=process: mappings_of(p.pid, file), "it maps the topic")
                assert process.stdout.readline()
                assert mappings_of(process.pid, file) == {"r--s"}
            assert (digest(file), writer.participants(), reader.stats()) == before
        # This can tell: a participant that reads is seen in each of these facts.
        with shmflow.Topic("cam", "r") as other:
            other.read(0)
            assert digest(file) != before[0] and len(writer.participants()) == 3
            assert "rw-s" in mappings_of(os.getpid(), file)
        del held


STRANGE = (
    b"\x1b[31m\x1b]0;title\x07",
    b"\xff",
    b"a;b",
    b"a b",
    b"a\nb",
    "\u009b31m".encode(),
    b"+x",
)


def test_a_file_that_no_topic_is_called_is_none_and_reaches_no_terminal(folder: Path) -> None:
    """Anybody may put one into /dev/shm."""
    for name in STRANGE:
        Path(os.fsdecode(os.fsencode(folder) + b"/shmflow." + name)).write_bytes(b"x")
    old = Path(f"{folder}/.shmflow-\x1b[31m")
    old.touch()
    os.utime(old, (0, 0))
    with shmflow.Topic("cam", "w", capacity="1 MiB"):
        said = [
            run(*words.split()).stdout
            for words in (
                "ls -v",
                "ls --json",
                "hz -n 1",
                "top -n 1",
                "clean",
                "doctor",
                "rm --idle",
            )
        ]
        assert shmflow.topics()[0].name == "cam" and len(shmflow.topics()) == 1
    assert all("cam" in text for text in said[:4])
    assert "\\x1b[31m" in said[4] and "shmflow.a b of" in said[5]
    for text in said:
        assert text.isascii() or not set(text) & set("\x1b\x9b\udcff")
        assert "\x1b" not in text


def test_streams_that_are_closed_or_have_few_letters_are_no_error() -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:
        topic.write(b"x")
        program = f"{sys.executable} -P -m shmflow"
        for line in (
            f"{program} ls >&-",
            f"{program} top -n 1 <&- >&-",
            f"{program} echo cam --once >&-",
            f"{program} pub two --test-pattern --size 64x48 -n 1 2>&-",
            f"PYTHONIOENCODING=ascii {program} top -n 1 | grep -q cam",
        ):
            done = subprocess.run(
                ["bash", "-c", f"set -o pipefail; {line}"],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            assert (done.returncode, done.stderr) == (0, ""), line
    shmflow.unlink("two")


def test_ctrl_c_while_numpy_is_imported_is_a_ctrl_c(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").write_text("raise KeyboardInterrupt")
    (folder / "shmflow.cam").write_bytes(b"x")
    for words, status in ((["ls"], 130), (["info", "cam"], 130), (["hz"], 0), (["top"], 0)):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "shmflow", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
        )
        assert (done.returncode, done.stderr.strip()) == (status, ""), words


def test_a_file_that_its_owner_cuts_is_told_and_ends_nobody(
    folder: Path, run_python: Callable[..., Any]
) -> None:
    done = run_python("""
        import os, sys
        import numpy as np
        import shmflow
        from shmflow.cli.meter import Meter
        from shmflow.cli.watch import Watch

        def make(name):
            topic = shmflow.Topic(name, "w", capacity="4 MiB", depth=20_000)
            topic.write(np.ones(1000))
            return topic

        cut, kept = make("cut"), make("kept")
        path = os.environ["SHMFLOW_DIR"] + "/shmflow.cut"
        with Watch() as watch:
            meter = Meter(100)
            watch.flows()
            seen = watch.monitor("cut")
            for length in (8192, 0):  # in the tables, and altogether
                os.truncate(path, length)
                for name, inode, monitor in watch.opened():
                    meter.look(name, inode, monitor, True)
                seen.head, seen.tail, seen.participants(), seen._blocks(10), seen._last()
                try:
                    seen.read(0)
                except shmflow.Error:
                    pass
            now = {flow.now.name: flow.now for flow in watch.flows()}
            assert now["kept"].head == 1 and not now["kept"].error
            assert "shorter" in now["cut"].error, now["cut"].error
        print("told")
        sys.stdout.flush()
        os._exit(0)  # the writers' own mappings are not guarded
        """)
    assert done.stdout == "told\n"


def test_a_sigbus_of_the_programs_own_stays_what_it_was(run_python: Callable[..., Any]) -> None:
    done = run_python(
        """
        import ctypes, mmap, os, tempfile
        from shmflow import _core

        _core._guard()
        with tempfile.TemporaryFile() as file:
            file.truncate(mmap.PAGESIZE)
            mapping = mmap.mmap(file.fileno(), mmap.PAGESIZE)
            file.truncate(0)
            mapping[0]
        """,
        check=False,
    )
    assert done.returncode == -7 and "Bus error" in done.stderr  # faulthandler's, and then death
