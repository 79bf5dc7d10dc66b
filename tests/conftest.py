"""What every test stands on.

Owns: the run's own directory of segments, the check that a test leaves nothing behind, the fixtures
that name topics and start child processes.
Does not own: anything that knows shmflow's behaviour; shmflow is imported here only after
SHMFLOW_DIR is set, and only by those who ask for it.

1. Runs do not meet: each has a directory of its own in /dev/shm, locked as long as it lives; what a
   killed run left behind is removed by the next one.
2. The installed package is tested, not the checkout.
3. A test that leaves a segment, an fd or a mapping behind fails (``may_leak`` opts out, and says
   why).
4. A child process never outlives its test.
"""

from __future__ import annotations

import fcntl
import gc
import importlib.util
import itertools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# A runner that was started in the background ignores SIGINT, one that was started by nohup SIGHUP,
# and so would all its children: but Ctrl-C and a hang-up are among the things that are tested.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent
SHM = Path("/dev/shm")
PREFIX = "shmflow-tests-"


# ---- the run's own directory -------------------------------------------------------------------


def lock(directory: Path) -> int | None:
    """An fd that holds the directory's lock, or None when another run has it, or it is gone."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink and os.path.samestat(os.fstat(fd), os.stat(directory)):
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def make_run_directory() -> tuple[Path, int]:
    base = SHM if os.access(SHM, os.W_OK) else Path(tempfile.gettempdir())
    for stale in base.glob(PREFIX + "*"):
        if (fd := lock(stale)) is not None:
            shutil.rmtree(stale, ignore_errors=True)
            os.close(fd)
    while True:  # a second turn only if another run took the new directory for a stale one
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        if (fd := lock(directory)) is not None:
            return directory, fd


RUN_DIRECTORY, RUN_LOCK = make_run_directory()
os.environ["SHMFLOW_DIR"] = str(RUN_DIRECTORY)


def pytest_configure(config: pytest.Config) -> None:
    spec = importlib.util.find_spec("shmflow")
    if spec is not None and spec.origin and Path(spec.origin).is_relative_to(ROOT / "shmflow"):
        pytest.exit(
            "these tests are for the installed shmflow, and the checkout's is in its way: "
            "run `make test`, or the `pytest` command (not `python -m pytest`)",
            returncode=4,
        )


def _on_collection(phase: str, info: dict[str, int]) -> None:
    """Code of Python's in every collection, which threads may switch in."""
    _collected.append([phase, info])
    del _collected[100:]


_collected: list[object] = []


@pytest.fixture(autouse=True)
def hostile_collector() -> Iterator[None]:
    """With HOSTILE=1 (make test-hostile): a collection at nearly every allocation, Python code in
    each, and threads that take turns at nearly every bytecode."""
    if os.environ.get("HOSTILE") != "1":
        yield
        return
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.callbacks.append(_on_collection)
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)
    gc.callbacks.remove(_on_collection)


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("no_sanitizer")
    if marker is not None and "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip(f"under a sanitizer: {marker.args[0]}")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(RUN_DIRECTORY, ignore_errors=True)
    os.close(RUN_LOCK)


# ---- a test leaves nothing behind --------------------------------------------------------------

OUTCOME = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.when == "call":
        item.stash[OUTCOME] = report.passed
    return report


def segments() -> set[str]:
    return {f"segment {entry.name}" for entry in os.scandir(RUN_DIRECTORY)}


def descriptors() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the listing's own
            continue
        found.add(f"fd {number} -> {target}")
    # The standard library keeps these for the life of the process.
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    server = sys.modules.get("multiprocessing.forkserver")
    kept = set()
    if tracker is not None:
        kept.add(tracker._resource_tracker._fd)
    if server is not None:
        kept.add(server._forkserver._forkserver_alive_fd)
    return {line for line in found if int(line.split()[1]) not in kept}


def mappings() -> list[str]:
    with open("/proc/self/maps") as file:
        lines = [line.split(maxsplit=5) for line in file]
    # A segment that was built without a name shows as #inode, for ever: hence the directory.
    return sorted(
        f"mapping {fields[0]} {fields[1]} {fields[5].strip()}"
        for fields in lines
        if len(fields) > 5 and ("/shmflow." in fields[5] or str(RUN_DIRECTORY) in fields[5])
    )


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that passed, but left a segment, an fd or a mapping behind."""
    marker = request.node.get_closest_marker("may_leak")
    if marker is not None and not (marker.args and isinstance(marker.args[0], str)):
        pytest.fail("may_leak needs a reason: @pytest.mark.may_leak('why')", pytrace=False)
    gc.collect()
    gc.freeze()  # the collections of a test look at what is new, not at all that the run has
    before = segments(), descriptors(), len(mappings())
    yield
    # The traceback of a failed test keeps its variables alive: that is no leak of the test.
    if marker is not None or not request.node.stash.get(OUTCOME, False):
        return
    gc.collect()
    left = sorted(segments() - before[0]) + sorted(descriptors() - before[1])
    if len(mappings()) > before[2]:
        left += mappings()
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


_topic_numbers = itertools.count(1)


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name no other test uses; its segments (also those of ``name/part``) are removed after."""
    readable = re.sub(r"[^A-Za-z0-9]+", "_", request.node.name).strip("_")[:60]
    name = f"{readable}.{os.getpid()}.{next(_topic_numbers)}"
    yield name
    for path in RUN_DIRECTORY.iterdir():
        file = path.name.removeprefix("shmflow.")
        if file == name or file.startswith((name + "+", name + ".")):
            path.unlink(missing_ok=True)


@pytest.fixture
def shm_dir() -> Path:
    """The directory this run's segments are in."""
    return RUN_DIRECTORY


# ---- child processes ---------------------------------------------------------------------------

PYTHON = [
    sys.executable,
    *("-X", "faulthandler"),
    *("-W", "error", "-W", "ignore:This process:DeprecationWarning"),
    # On a machine under load the other end comes later than a second.
    *("-W", "ignore:waiting for topic:RuntimeWarning"),
    *("-W", "ignore:timestamp_ns=:RuntimeWarning"),  # tests count in stamps
]


def child_environment(extra: dict[str, str] | None) -> dict[str, str]:
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    base = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return os.environ | base | (extra or {})


class Child:
    """A Python process that a test talks to line by line. Every wait has a limit, in seconds."""

    def __init__(self, command: list[str], environment: dict[str, str], room: Path, name: str):
        self.stderr_path = room / f"{name}.stderr"
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                cwd=room,
                bufsize=0,
            )
        self._pending = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return self.stderr_path.read_text(errors="replace")

    def fail(self, what: str) -> None:
        state = self.process.poll()
        state = "running" if state is None else f"exited with {state}"
        pytest.fail(f"child {self.pid} ({state}): {what}\n--- its stderr:\n{self.stderr}")

    def readline(self, timeout: float = 20) -> str:
        """Its next line, without the newline; fails at the limit and at the end of its output."""
        deadline = time.monotonic() + timeout
        stdout = self.process.stdout
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stdout], [], [], left)[0]:
                self.fail(f"no line in {timeout} s; it began {self._pending!r}")
            chunk = os.read(stdout.fileno(), 65536)
            if not chunk:
                self.fail(f"ended, a line was expected; it began {self._pending!r}")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def expect(self, line: str, timeout: float = 20) -> None:
        """Its next line is this one."""
        if (got := self.readline(timeout)) != line:
            self.fail(f"said {got!r}, expected {line!r}")

    def send(self, line: str = "") -> None:
        """A line to its stdin."""
        self.process.stdin.write(line.encode() + b"\n")

    def stop(self) -> None:
        """SIGSTOP, and back when it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def cont(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and back when the process is gone (the kernel has released what it held)."""
        self.process.kill()
        self.process.wait(30)
        time.sleep(0.05)  # the last references to files go a little after the parent was told

    def wait(self, timeout: float = 20) -> int:
        """Its exit status, negative for a signal."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.fail(f"still running after {timeout} s")
            raise

    def finish(self, timeout: float = 20) -> None:
        """It ends by itself, with status 0."""
        if (status := self.wait(timeout)) != 0:
            self.fail(f"exit status {status}")

    def discard(self) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except BrokenPipeError:
                pass


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """``spawn(script, *args, env=None) -> Child``: runs Python source text (dedented, in a file of
    its own) or, given a Path, that file. Killed at the end of the test if it still runs."""
    children: list[Child] = []

    def start(script: str | Path, *args: object, env: dict[str, str] | None = None) -> Child:
        name = f"child{len(children)}"
        if isinstance(script, str):
            path = tmp_path / f"{name}.py"
            path.write_text(textwrap.dedent(script))
        else:
            path = script
        command = [*PYTHON, str(path), *map(str, args)]
        children.append(Child(command, child_environment(env), tmp_path, name))
        return children[-1]

    yield start
    for child in children:
        child.discard()


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_python(script, *args, timeout=60, check=True, env=None)``: runs Python source text to
    its end; the result has returncode, stdout and stderr. ``check``: it must end with status 0."""

    def run(
        script: str,
        *args: object,
        timeout: float = 60,
        check: bool = True,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(script))
        done = subprocess.run(
            [*PYTHON, str(path), *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=child_environment(env),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            pytest.fail(
                f"exit status {done.returncode}\n--- stdout:\n{done.stdout}"
                f"--- stderr:\n{done.stderr}"
            )
        return done

    return run
