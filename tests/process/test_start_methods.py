"""spawn, forkserver, exec, subprocess, pools: what goes along to a new process, and what must not.

Owns: that a started process keeps nobody alive and inherits no file and no mapping; topics as
arguments of pools; views as arguments and results.
Does not own: fork (test_fork.py, test_fork_family.py).
"""

from __future__ import annotations

import os
import signal
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from family import participant_of, until

import shmflow

SIZE = 20_000
METHODS = ["fork", "spawn", "forkserver"]
# Where every process imports everything anew.
SLOW_METHODS = ["fork", *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS[1:])]


# What a process has of the segments: open files and mappings, by what the kernel says of it.
TRACES = """
import os
def traces(directory):
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    with open("/proc/self/maps") as maps:
        found += [line.split(maxsplit=5)[-1].strip() for line in maps]
    return [one for one in found if one.startswith(directory)]
"""


# ---- a started process keeps nobody alive ------------------------------------------------------

STARTERS = (
    TRACES
    + """
import multiprocessing, subprocess, sys, time
import numpy as np
import shmflow

SLEEPER = "import os, sys; print(os.getpid(), flush=True); sys.stdin.readline()"

def sleep(pipe, directory):
    pipe.send((os.getpid(), traces(directory)))
    time.sleep(100)

if __name__ == "__main__":
    name, how = sys.argv[1], sys.argv[2]
    topic = shmflow.Topic(name, max_held="1 MiB")
    views = [topic.read(20) for _ in range(4)]
    directory = os.environ["SHMFLOW_DIR"]
    if how == "subprocess":
        code = sys.argv[3] + "\\nimport time"
        code += f"\\nprint(os.getpid(), traces({directory!r}), flush=True)"
        child = subprocess.Popen(
            [sys.executable, "-c", code + "\\ntime.sleep(100)"],
            close_fds=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        pid, found = child.stdout.readline().split(maxsplit=1)
        found = eval(found)
    else:
        context = multiprocessing.get_context(how)
        ours, theirs = context.Pipe()
        child = context.Process(target=sleep, args=(theirs, directory))
        child.start()
        pid, found = ours.recv()
    print(pid, len([f for f in found if "deleted" not in f]), flush=True)
    time.sleep(100)
"""
)


@pytest.mark.parametrize("how", [*METHODS, "subprocess"])
def test_a_started_process_does_not_keep_its_dead_parent_alive(
    topic_name: str, spawn: Callable[..., Any], how: str
) -> None:
    quarter = 256 * 1024 - 64
    with shmflow.Topic(topic_name, "w", capacity=1 << 20, max_message=quarter) as writer:
        for value in range(4):
            writer.write(np.full(quarter, value, np.uint8))
        parent = spawn(STARTERS, topic_name, how, TRACES)
        pid, found = map(int, parent.readline(40).split())
        try:
            assert found == 0, "files or mappings of the topic in the child"
            assert not writer.loan(quarter).in_ring, "main is held"
            (held,) = participant_of(writer, parent.pid)
            assert held.held_blocks == 4
            parent.kill()
            until(lambda: not any(p.alive for p in participant_of(writer, parent.pid)))
            os.kill(pid, 0)  # it lives, and yet:
            shmflow.clean()
            assert participant_of(writer, parent.pid) == []
            assert writer.loan(quarter).in_ring
        finally:
            os.kill(pid, signal.SIGKILL)
        writer.unlink()


# ---- exec --------------------------------------------------------------------------------------

BEFORE_EXEC = (
    TRACES
    + """
import os, sys, threading
import numpy as np
import shmflow

name, after, inheritable = sys.argv[1:4]
topic = shmflow.Topic(name, max_held="1 MiB")
views = [topic.read(20) for _ in range(2)]
loan = topic.loan(20_000)
other = shmflow.Topic(name, "r", start="new")
threading.Thread(target=other.read, daemon=True).start()
print("before", loan.in_ring, len(traces(os.environ["SHMFLOW_DIR"])) > 0, flush=True)
sys.stdin.readline()
if inheritable == "all files":  # as a careless program would
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            pass
os.execv(sys.executable, [sys.executable, "-c", after, name])
"""
)

AFTER_EXEC = (
    TRACES
    + """
import sys
print(traces(os.environ["SHMFLOW_DIR"]), flush=True)
sys.stdin.readline()
import shmflow
topic = shmflow.Topic(sys.argv[1], "r")
print(sorted((p.pid == os.getpid(), p.alive) for p in topic.participants()), flush=True)
sys.stdin.readline()
"""
)


@pytest.mark.parametrize("inheritable", ["close on exec", "all files"])
def test_exec_keeps_nothing_of_the_participant_that_was(
    topic_name: str, spawn: Callable[..., Any], inheritable: str
) -> None:
    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        for value in (1, 2):
            topic.write(np.full(SIZE, value, np.uint8))
        child = spawn(BEFORE_EXEC, topic_name, AFTER_EXEC, inheritable)
        child.expect("before True True")
        # A blocked reader, and one that holds two views and a loan.
        assert sorted(p.held_blocks for p in participant_of(topic, child.pid)) == [0, 3]
        child.send()
        child.expect("[]")
        # The same process, by its number; and nobody of its slots is alive.
        assert [p.alive for p in participant_of(topic, child.pid)] == [False, False]
        child.send()
        # Attaching cleaned what was there.
        child.expect("[(False, True), (True, True)]")
        assert [p.alive for p in participant_of(topic, child.pid)] == [True]
        with shmflow.Topic(topic_name, "w") as writer:
            for i in range(200):
                writer.write(np.full(SIZE, i, np.uint8))
            assert writer.loan(writer.max_message).in_ring
        child.send()
        child.finish()
        assert child.stderr == ""
        topic.unlink()


# ---- pools -------------------------------------------------------------------------------------

POOLS = """
import concurrent.futures, multiprocessing, os, sys
import numpy as np
import shmflow

READER = None

def subscribe(name):
    global READER
    READER = shmflow.Topic(name, "r")

def sum_frame(seq):
    # Every worker sees every frame; it takes what it is asked for.
    for message in READER.messages(timeout=30):
        if message.seq == seq:
            return os.getpid(), int(message.array.sum())

def use(topic, number):
    with topic:
        if topic.mode == "w":
            return topic.write(np.full(20_000, number, np.uint8))
        return [int(topic.read(30)[0]) for _ in range(2)]

def double(array):
    return array * 2

def give_a_view(name):
    with shmflow.Topic(name, "r") as reader:
        return reader.read(30)[::2]

def die_with_a_view(name):
    global held
    held = shmflow.Topic(name, "r").read(30)
    os._exit(9)

def main():
    kind, method, name = sys.argv[1:4]
    context = multiprocessing.get_context(method)
    topic = shmflow.Topic(name, capacity="1 MiB", depth=200)
    if kind == "Pool":
        pool = context.Pool(2, subscribe, (name,))
        submit = lambda f, *args: pool.apply_async(f, args)
        result = lambda future: future.get(60)
    else:
        pool = concurrent.futures.ProcessPoolExecutor(
            2, mp_context=context, initializer=subscribe, initargs=(name,)
        )
        submit = pool.submit
        result = lambda future: future.result(60)
    # Frames in order; a worker's tasks come in that order, too.
    futures = []
    for value in range(1, 17):
        seq = topic.write(np.full(20_000, value, np.uint8))
        futures.append(submit(sum_frame, seq))
    done = [result(future) for future in futures]
    assert [total for _, total in done] == [20_000 * value for value in range(1, 17)]
    view = topic.read(0)
    assert (result(submit(double, view)) == 2).all()          # a view goes as a copy
    assert (result(submit(give_a_view, name)) == np.full(10_000, 1)).all()  # and comes as one
    with shmflow.Topic(name, "r") as reader:                   # a Topic goes as itself
        assert result(submit(use, reader, 0)) == [1, 2]
    with shmflow.Topic(name, "w") as writer:
        assert result(submit(use, writer, 99)) == topic.head == 17
    assert (view == 1).all()
    workers = {pid for pid, _ in done}
    assert workers <= {p.pid for p in topic.participants() if p.alive}
    if kind == "Pool":
        pool.close()
        pool.join()
    else:
        try:
            result(pool.submit(die_with_a_view, name))
        except concurrent.futures.process.BrokenProcessPool:
            pass
        else:
            raise AssertionError("the pool did not notice")
        pool.shutdown()
    shmflow.clean()
    assert {p.pid for p in topic.participants()} == {os.getpid()}
    del view
    loan = topic.loan(topic.max_message)
    assert loan.in_ring
    print("fine")

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", SLOW_METHODS)
@pytest.mark.parametrize("kind", ["Pool", "ProcessPoolExecutor"])
def test_workers_of_a_pool_read_frames(
    topic_name: str, run_python: Callable[..., Any], kind: str, method: str
) -> None:
    done = run_python(POOLS, kind, method, topic_name)
    assert done.stdout == "fine\n" and done.stderr == ""


# ---- pickles that come too late ----------------------------------------------------------------


@pytest.mark.parametrize("method", SLOW_METHODS)
def test_an_argument_whose_topic_was_removed_is_an_error_in_the_child_only(
    topic_name: str, run_python: Callable[..., Any], method: str
) -> None:
    done = run_python(
        textwrap.dedent("""
        import multiprocessing, os, pickle, sys
        import shmflow

        def receive(pipe):
            packed = pipe.recv_bytes()
            try:
                topic = pickle.loads(packed)
            except shmflow.TopicNotFound as error:
                pipe.send(str(error))
            else:
                pipe.send(bytes(topic.read(0)))

        if __name__ == "__main__":
            name = sys.argv[1]
            context = multiprocessing.get_context(sys.argv[2])
            topic = shmflow.Topic(name, capacity="1 MiB")
            topic.write(b"first")
            packed = pickle.dumps(topic)
            for expected in (b"first", "it was removed", "another topic of that name"):
                if expected == "it was removed":
                    topic.unlink()
                if expected == "another topic of that name":
                    topic.write(b"second")
                ours, theirs = context.Pipe()
                child = context.Process(target=receive, args=(theirs,))
                child.start()
                ours.send_bytes(packed)
                assert ours.poll(30)
                got = ours.recv()
                assert expected in got, got
                child.join(30)
                assert child.exitcode == 0
        """),
        topic_name,
        method,
    )
    assert done.stderr == ""
