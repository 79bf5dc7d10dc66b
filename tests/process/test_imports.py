"""Importing shmflow is cheap; the first use of a name imports all, and no call anything more.

Owns: what is imported when; a fork and a signal handler at the moment of a first call; frozen
programs.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needs import missing

EVERY_CALL = """
import sys
assert not {name for name in ("numpy", "shmflow") if name in sys.modules}
import shmflow
assert not {name for name in sys.modules if name in ("numpy", "json") or "shmflow." in name}
import array, asyncio, copy, gc, os, pickle, warnings
import numpy as np
warnings.simplefilter("ignore")
name = sys.argv[1]
if "masked" in sys.argv:
    import numpy.ma
shmflow.Topic
assert ("numpy.ma" in sys.modules) == ("masked" in sys.argv) or np.__version__ < "2"

late = []
def note(event, arguments):
    if event == "import" and not late[0:9]:
        late.append(arguments[0])

sys.addaudithook(note)

def raises(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return str(error), repr(error)

class Producer:
    def __init__(self, of):
        self.of = of
    def __dlpack__(self, **options):
        return self.of.__dlpack__(**options)
    def __dlpack_device__(self):
        return self.of.__dlpack_device__()

topic = shmflow.Topic(name, capacity="1 MiB", max_message=100_000)
for data in (b"bytes", bytearray(3), 1, 1.5, True, 1j, np.float32(2), memoryview(b"1234")[::2],
             array.array("d", [1.0]), np.zeros((9, 9))[::2, ::3], np.zeros((9, 9), order="F"),
             np.zeros(3, "M8[25us]"), Producer(np.zeros(3)), np.zeros(3, [("a", [("b", "U3")])]),
             np.zeros(40_000, "u1"), np.zeros(3, ">f8")):
    topic.write(data, meta={"a": [1, None]}, timestamp_ns=5)
    message = topic.read_message(0)
    assert message.meta and repr(message) and repr(topic)
for data in ("text", None, {}, [], set(), object(), 2**70, np.zeros(3, "O"), float, topic,
             np.zeros(3, "u1,f4")[["f1", "f0"]], bytes(200_000), np.zeros((1,) * 33)):
    raises(topic.write, data)
raises(topic.write, b"x", meta={"a": object()})
raises(topic.write, b"x", timestamp_ns="now")
if "masked" in sys.argv:
    raises(topic.write, np.ma.masked_array([1], [True]))
with topic.loan((3, 4), "f4") as loan:
    loan[:] = 1
topic.loan(50).publish(20)
raises(topic.loan, 3, "O")
raises(topic.loan(3).publish, (9, 9))
topic.write_many([b"a", b"b", b"c"])
list(topic.snapshot()), topic.peek(topic.head), raises(topic.peek, 10**6)
topic.read_many(2), topic.read_messages(2), topic.seek("oldest"), topic.read_many(99)
raises(topic.read, 0), raises(topic.seek, "nowhere"), topic.read(0, default=None)
topic.stats(), topic.participants(), topic.fileno(), topic.lost, topic.ended, topic.generation
shmflow.wait([topic], timeout=0), shmflow.topics(), shmflow.get_include(), shmflow.clean()
for options in ({"mode": "x"}, {"capacity": "much"}, {"capacity": 1}, {"name": "a b/"},
                {"depth": 0}, {"create": True}, {"start": 5}, {"group": ""}):
    raises(shmflow.Topic, **({"name": name} | options))
raises(shmflow.Topic, name + "x", "w", create=False), raises(shmflow.unlink, name + "x")
raises(shmflow.Topic(name, "r").write, b"x")
lossless = shmflow.Topic(name, "r", lossless=True, start="oldest")
lossless.read(0, default=None)
raises(topic.write_many, [bytes(90_000)] * 30, timeout=0)
lossless.close()
raises(lossless.read)
with shmflow.Topic(name + "2", capacity="1 MiB") as other:
    other.write(b"x")
    raises(next, iter(shmflow.sync([other, topic], tolerance=0.001, timeout=0)))
    again = pickle.loads(pickle.dumps(shmflow.Topic(name + "2", "r")))
    again.close()

    async def read():
        other.write(b"y")
        await other.read_async(1)
        message = other.read_message_async(timeout=1)
        asyncio.get_running_loop().call_later(0.01, other.write, b"z")
        await message
        try:
            await other.read_async(0.01)
        except shmflow.Empty:
            pass
        other.shutdown()
        async for _ in other:
            pass

    late.extend([None] * 9)  # asyncio imports as it likes, to run
    runner = asyncio.Runner()
    loop = runner.get_loop()
    loop.run_until_complete(asyncio.sleep(0))
    del late[-9:]
    loop.run_until_complete(read())
    late.extend([None] * 9)
    runner.close()
    del late[-9:]
    other.unlink()
topic.shutdown()
raises(topic.write, b"x")
topic.unlink()
topic.close()
print(late)
"""


@pytest.mark.parametrize("masked", ["", "masked"])
def test_no_call_imports_anything_once_topic_was_touched(
    topic_name: str, run_python: Callable[..., Any], masked: str
) -> None:
    assert run_python(EVERY_CALL, topic_name, masked).stdout == "[]\n"


def test_a_coroutine_without_a_loop_says_so(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    script = """
        import sys, shmflow
        with shmflow.Topic(sys.argv[1], capacity="1 MiB", temporary=True) as topic:
            assert "asyncio" not in sys.modules
            try:
                topic.read_async(0).send(None)
            except RuntimeError as error:
                print(error)
        """
    assert run_python(script, topic_name).stdout == "no running event loop\n"


def test_a_fork_during_a_first_call_leaves_a_child_that_writes(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    """Whatever another thread was importing then, the child would wait for it for ever."""
    script = """
        import os, signal, sys, threading, time, shmflow
        topic = shmflow.Topic(sys.argv[1], capacity="1 MiB")
        begun, done = threading.Event(), threading.Event()

        def beat():
            begun.set()
            while not done.is_set():
                topic.write(1.5)

        thread = threading.Thread(target=beat)
        thread.start()
        begun.wait()
        children = []
        for number in range(4):
            pid = os.fork()
            if pid == 0:
                signal.alarm(20)  # else it would hang
                topic.write(2 + number)
                topic.write(b"bytes")
                os._exit(0)
            children.append(pid)
        print([os.waitpid(pid, 0)[1] for pid in children])
        done.set()
        thread.join()
        topic.unlink()
        """
    for _ in range(3):
        assert run_python(script, topic_name).stdout == "[0, 0, 0, 0]\n"


def test_a_signal_handler_writes_during_the_first_write(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    script = """
        import signal, sys, time, shmflow
        topic = shmflow.Topic(sys.argv[1], capacity="1 MiB")
        written = []
        signal.signal(signal.SIGALRM, lambda *_: written.append(topic.write(1.5)))
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        deadline = time.monotonic() + 20
        while len(written) < 5 and time.monotonic() < deadline:
            topic.write(b"bytes")
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert len(written) >= 5
        topic.unlink()
        """
    run_python(script, topic_name)


FROZEN = """
import shmflow

def main():
    with shmflow.Topic("frozen", capacity="1 MiB", temporary=True) as topic:
        topic.write(b"bytes", meta={"a": 1})
        print(bytes(topic.read_message(0).array))
        try:
            topic.write("text")
        except TypeError as error:
            print(error)
        try:
            topic.read_async(0).send(None)
        except RuntimeError as error:
            print(error)
        print(shmflow.topics()[0].name, shmflow.sync.__name__)

main()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pyinstaller_freezes_a_program_without_a_flag(tmp_path: Path) -> None:
    try:
        import PyInstaller  # noqa: F401
    except ImportError:
        missing("PyInstaller")
    (tmp_path / "program.py").write_text(FROZEN)
    build = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", "program.py"]
    # 20 s of a processor, but minutes of a loaded machine; the run's second net is shorter.
    faulthandler.cancel_dump_traceback_later()
    subprocess.run(build, cwd=tmp_path, check=True, timeout=500, stdin=subprocess.DEVNULL)
    # Elsewhere than Python and its packages are.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    program = tmp_path / "dist" / "program" / "program"
    done = subprocess.run(
        [program], cwd="/", env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "b'bytes'",
        "a str has no fixed bytes; write text.encode()",
        "no running event loop",
        "frozen sync",
    ]
