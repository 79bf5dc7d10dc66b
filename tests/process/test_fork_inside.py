"""Forks by code that runs inside a call of shmflow's: what shows a warning, a signal's handler, an
item that dies, a collection of garbage.

Owns: that the child of such a fork returns from its parent's call like the parent, touching nothing
of the parent's; that the parent notices nothing.
Does not own: forks beside a call, or around it (test_fork_within.py).

Between the look at a message and its copy nothing but a collection runs Python code, and that only
on CPython 3.11 (since 3.12 it waits for the next bytecode), and only where the dtype has fields: to
parse one makes objects that the collector knows. For all others there is nothing to test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from family import family

# `fork` forks once; `both(call, check)` runs the call in which it is to happen, and in which two
# processes then return: each checks its result, the child ends, the parent looks at how.
FORKING = """
    here = os.getpid()
    child = None
    let_go = None

    def fork(*args, **kwargs):
        global child
        if child is None:
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                if let_go:
                    os.close(let_go[1])

    def both(call, check):
        global child, let_go
        child = None
        let_go = os.pipe()
        status = 1
        try:
            check(call())
            status = 0
        finally:
            if os.getpid() != here:
                if status:
                    import traceback
                    traceback.print_exc()
                os._exit(status)
        assert child is not None, "nothing forked"
        os.close(let_go[1])  # the parent holds nothing any more
        ended_well(child)
        os.close(let_go[0])
"""

DTYPE = family(FORKING) + family(
    """
    kind = sys.argv[2]
    options = {"group": {"group": "g"}, "lossless": {"lossless": True}}.get(kind, {})
    calls = {
        "read": lambda: reader.read(0),
        "copy": lambda: reader.read(0, copy=True),
        "out": lambda: reader.read(0, out=out),
        "message": lambda: reader.read_message(0),
        "many": lambda: reader.read_many(3, 0),
        "messages": lambda: reader.read_messages(3, 0),
        "stack": lambda: reader.read_many(3, 0, stack=True),
        "snapshot": lambda: reader.snapshot(),
        "peek": lambda: reader.peek(2),
    }

    def collecting(call):
        # A call makes one or two objects before it looks, seven when it parses: the sixth forks.
        def act():
            gc.collect()  # also frees the objects that CPython keeps to use again
            gc.callbacks.append(fork)
            gc.set_threshold(5)
            try:
                return call()
            finally:
                gc.set_threshold(700)
                gc.callbacks.clear()
        return act

    def check(result):
        arrays = list(result) if how in ("many", "messages", "stack", "snapshot") else [result]
        arrays = [getattr(a, "array", a) for a in arrays]
        if kind == "group":
            arrays = [a for a in arrays if a.dtype == data.dtype]  # the other may have gone on
        if kind != "group":  # whose members share them
            assert len(arrays) == (3 if how in ("many", "messages", "stack", "snapshot") else 1)
        values = [int(a.view("u1")[0]) for a in arrays]
        assert all(a.dtype == data.dtype for a in arrays)
        assert [set(a.tobytes()) for a in arrays] == [{v} for v in values]
        if kind != "group" and os.getpid() == here:
            first = 2 if how == "peek" else 1
            assert values == list(range(first, first + len(arrays))), values
        done.write(len(arrays))
        assert writer.write(b"more") > 3
        if os.getpid() != here and kind in ("large", "prefix"):
            os.read(let_go[0], 1)
            for _ in range(60):  # over all that nobody holds
                writer.write(data)
            assert [set(a.tobytes()) for a in arrays] == [{v} for v in values]

    for number, (how, call) in enumerate(calls.items()):
        # Nobody has parsed it yet. Its description lies in the index, or before the payload.
        field = f"a name of more than sixteen bytes {number}" if kind == "prefix" else f"{number}"
        data = np.zeros(2 if kind == "small" else 5000, [(field, "S9")])
        frames = [np.full(data.nbytes, value, "u1").view(data.dtype) for value in (1, 2, 3)]
        out = np.empty_like(data)
        topic = shmflow.Topic(f"{name}/{how}", capacity="1 MiB", depth=50)
        done = shmflow.Topic(f"{name}/{how}/done", capacity="1 MiB")
        writer = shmflow.Topic(topic.name, "w")
        reader = shmflow.Topic(topic.name, "monitor" if kind == "monitor" else "r", **options)
        writer.write_many(frames)
        done.write(0)
        both(collecting(call), check)
        taken = sum(int(n) for n in done.read_many(10, 0))
        if kind == "group" and how not in ("snapshot", "peek"):
            left = [a for a in reader.read_many(10, 0) if a.dtype == data.dtype]
            assert taken + len(left) == 3, (taken, len(left))
            del left
        assert reader.stats().held_blocks == 0
        assert topic.head == (5 if kind not in ("large", "prefix") else 65)
        shmflow.clean()
        assert {p.pid for p in topic.participants()} == {here}
    """
)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="no Python code runs there since 3.12")
@pytest.mark.parametrize("kind", ["small", "large", "prefix", "monitor", "lossless", "group"])
def test_a_fork_while_a_dtype_is_parsed_gives_both_what_the_call_asked_for(
    topic_name: str, run_python: Callable[..., Any], kind: str
) -> None:
    done = run_python(DTYPE, topic_name, kind)
    assert done.stderr == ""


def test_a_fork_by_what_shows_a_warning_inside_a_read(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        family(FORKING)
        + family(
            """
            topic = shmflow.Topic(name, capacity="1 MiB")
            topic.write_many([frame(1), frame(2), frame(3)])
            reader = shmflow.Topic(name, "r", max_held=1)
            held = reader.read(0)
            warnings.simplefilter("always")
            warnings.showwarning = fork

            def check(array):
                assert (array == 2).all() and (held == 1).all()
                assert (reader.read(0) == 3).all()

            both(lambda: reader.read(0), check)
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


def test_a_fork_by_a_collection_inside_calls_that_tell_facts(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    # Where the interpreter collects while a record is allocated (CPython 3.11).
    done = run_python(
        family(FORKING)
        + family(
            """
            class Garbage:
                def __init__(self, act):
                    self.itself, self.act = self, act

                def __del__(self):
                    self.act()

            topic = shmflow.Topic(name, capacity="1 MiB")
            others = [shmflow.Topic(name, "r") for _ in range(5)]
            held = [other.read(0, default=None) for other in others]
            topic.write_many([frame(1), frame(2), frame(3)])
            views = [other.read(0) for other in others]
            calls = {
                "participants": topic.participants,
                "blocks": lambda: topic._blocks(100),
                "snapshot": topic.snapshot,
                "messages": lambda: topic.read_messages(5, 0),
            }
            for name, call in calls.items():
                for count in range(10):  # such a call makes up to eight objects
                    child = None
                    gc.collect()
                    gc.disable()
                    Garbage(fork)
                    gc.set_threshold(count + 1)
                    gc.enable()
                    try:
                        result = call()
                        assert result is not None
                        del result
                        gc.collect()
                    except BaseException:
                        import traceback
                        traceback.print_exc()
                        os._exit(1)
                    finally:
                        gc.set_threshold(700, 10, 10)
                        if os.getpid() != here:
                            os._exit(0)
                    ended_well(child)
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


def test_a_fork_by_an_item_that_dies_while_a_batch_is_packed(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(
        family(FORKING)
        + family(
            """
            class Memory:
                def __init__(self):
                    self.bytes = np.arange(20, dtype="u1")
                    self.__array_interface__ = self.bytes.__array_interface__

                def __del__(self):
                    fork()

            def items():
                yield np.asarray(Memory())[::2]
                yield b"last"

            topic = shmflow.Topic(name, capacity="1 MiB")
            topic.write(b"first")

            def check(number):
                assert number in (3, 5)
                assert {m.writer for m in topic.snapshot()} >= {os.getpid()}

            both(lambda: topic.write_many(items()), check)
            assert topic.head == 5
            """
        ),
        topic_name,
    )
    assert done.stderr == ""


CREATION = family(
    """
    said, hear = os.pipe(), None
    child = None
    here = os.getpid()

    def fork(*_):
        global child
        if child is not None:
            return
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os.read(said[0], 1)  # until the parent has published

    def is_being_made():
        for fd in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            if target.startswith(os.environ["SHMFLOW_DIR"]) and target.endswith("(deleted)"):
                return True
        return False

    def watch():
        while not is_being_made():
            pass
        while child is None and not done.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            time.sleep(0.001)

    done = threading.Event()
    signal.signal(signal.SIGUSR1, fork)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    topic = shmflow.Topic(name, capacity="200 MiB")
    if os.getpid() != here:
        try:
            assert topic.write(b"child") == 11
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    done.set()
    thread.join()
    assert child is not None, "no handler ran while it was made"
    for i in range(10):
        topic.write(frame(i + 1))
    os.write(said[1], b".")
    ended_well(child)
    with shmflow.Topic(name, "r") as reader:
        assert [int(a[0]) for a in reader.read_many(20, 0, copy=True)][:10] == list(range(1, 11))
    assert topic.head == 11
    topic.unlink()
    """
)


def test_a_fork_by_a_signals_handler_while_a_topic_is_made(
    topic_name: str, run_python: Callable[..., Any]
) -> None:
    done = run_python(CREATION, topic_name)
    assert done.stderr == ""
