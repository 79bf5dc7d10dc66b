"""What evil objects do in the middle of a call.

Owns: the acts, and the forked child's way through the rest of the call.
Does not own: when they are done (evil_objects.py, evil_scene.py), or what is made of it.

Each act gets the scene: the Topic that is being called, the arrays and containers that were passed.
What a Topic answers to an act is of no interest here, as long as it is one of shmflow's own errors;
what is raised on purpose is noted, so that it is known again when it comes out of the call.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import shmflow

if TYPE_CHECKING:
    from evil_scene import Scene

ACTS: dict[str, Callable[[Scene], object]] = {}
CHILD_LIMIT = 10  # seconds that a forked child may take
# Whoever calls __init__ again, or changes an array in another thread, has no promise.
quiet = contextlib.suppress(shmflow.Error, BufferError, ValueError, TypeError)


class Oops(Exception):
    """Nobody's but the evil object's."""


def act(function: Callable[[Scene], object]) -> Callable[[Scene], object]:
    ACTS[function.__name__] = function
    return function


# ---- to the topic ------------------------------------------------------------------------------


@act
def close(scene: Scene) -> None:
    scene.topic.close()


@act
def unlink(scene: Scene) -> None:
    with quiet:
        scene.topic.unlink()


@act
def remove(scene: Scene) -> None:
    with quiet:
        shmflow.unlink(scene.name)


@act
def replace(scene: Scene) -> None:
    with quiet, shmflow.Topic(scene.name, "w", capacity="512 KiB", replace=True) as other:
        other.write(scene.fill(300), timeout=0)


@act
def shutdown(scene: Scene) -> None:
    with quiet:
        scene.topic.shutdown()


@act
def use(scene: Scene) -> None:
    """Everything at once, through the very Topic that is being called."""
    with quiet:
        scene.topic.write(scene.fill(100), timeout=0)
    with quiet:
        scene.held.append(scene.topic.read(0, default=None))
    with quiet, scene.topic.loan(scene.size, timeout=0) as array:
        array[:] = scene.FILL
    with quiet:
        scene.topic.seek("oldest")


@act
def write_much(scene: Scene) -> None:
    """More than the ring holds: what was found a moment ago is gone."""
    with quiet, shmflow.Topic(scene.name, "w", create=False) as other:
        for _ in range(20):
            other.write(scene.fill(70_000), timeout=0)


@act
def end_loan(scene: Scene) -> None:
    if scene.loan is not None:
        with quiet:
            scene.loan.publish()


@act
def discard_loan(scene: Scene) -> None:
    if scene.loan is not None:
        scene.loan.discard()


@act
def forget(scene: Scene) -> None:
    """The last references that this side has."""
    scene.held.clear()
    scene.loan = None
    gc.collect()


# ---- to memory ---------------------------------------------------------------------------------


def arrays(scene: Scene) -> list[Any]:
    """Those that a call was given, and what a loan lent. (An array that others look into, NumPy
    itself does not protect: it is not among them.)"""
    found = list(scene.arrays)
    if scene.loan is not None:
        with quiet:
            found.append(scene.loan.array)
    return found


@act
def resize(scene: Scene) -> None:
    for at in range(len(scene.arrays)):
        with quiet:
            scene.arrays[at].resize(10)  # NumPy refuses where it counts more references
    if scene.loan is not None:
        with quiet:
            scene.loan.array.resize(10)


@act
def set_state(scene: Scene) -> None:
    for array in arrays(scene):
        with quiet:
            array.__setstate__((1, (3,), np.dtype("u1"), False, b"ZZZ"))


@act
def grow_by_state(scene: Scene) -> None:
    for array in arrays(scene):
        with quiet:
            size = 4 * array.nbytes
            array.__setstate__((1, (size,), np.dtype("u1"), False, b"Z" * size))


@act
def retype(scene: Scene) -> None:
    for array in arrays(scene):
        with quiet:
            array.dtype = [("a", "<u2"), ("b", "<u2")]


@act
def reshape(scene: Scene) -> None:
    for array in arrays(scene):
        with quiet:
            array.shape = (1, 1, 1, 1, 1, array.size)


@act
def freeze(scene: Scene) -> None:
    for array in arrays(scene):
        with quiet:
            array.flags.writeable = False


@act
def shrink(scene: Scene) -> None:
    for container in scene.containers:
        container.clear()


class Garbage:
    """Found by a collection only."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.itself = self
        self.then = then

    def __del__(self) -> None:
        self.then()


@act
def collect(scene: Scene) -> None:
    Garbage(scene.topic.close)
    gc.collect()


# ---- to the process ----------------------------------------------------------------------------


@act
def recurse(scene: Scene) -> object:
    """Without an end: RecursionError is right. (As an argument: evil_objects.make_deep.)"""
    return scene.call_again()


@act
def recurse_once(scene: Scene) -> object:
    if scene.depth < 2:
        with contextlib.suppress(Exception):
            return scene.call_again()
    return None


@act
def raise_oops(scene: Scene) -> None:
    scene.throw(Oops("evil"))


@act
def raise_interrupt(scene: Scene) -> None:
    scene.throw(KeyboardInterrupt())


@act
def raise_memory(scene: Scene) -> None:
    scene.throw(MemoryError())


@act
def raise_system(scene: Scene) -> None:
    scene.throw(SystemError("evil"))


@act
def raise_stop(scene: Scene) -> None:
    scene.throw(StopIteration())


@act
def raise_exit(scene: Scene) -> None:
    scene.throw(SystemExit(5))


@act
def raise_empty(scene: Scene) -> None:
    scene.throw(shmflow.Empty("evil"))


@act
def start_thread(scene: Scene) -> None:
    thread = threading.Thread(target=use, args=(scene,), daemon=True)
    thread.start()
    thread.join(20)
    if thread.is_alive():
        scene.trouble("a thread that used the Topic meanwhile does not return")


@act
def close_in_thread(scene: Scene) -> None:
    thread = threading.Thread(target=scene.topic.close, daemon=True)
    thread.start()
    thread.join(20)
    if thread.is_alive():
        scene.trouble("a thread that closed the Topic meanwhile does not return")


def wait_for(scene: Scene, pid: int, said: int) -> None:
    """A child that ends well; what it has to say, and how it died, is trouble."""
    until = time.monotonic() + CHILD_LIMIT + 5
    status = None
    while status is None and time.monotonic() < until:
        done, how = os.waitpid(pid, os.WNOHANG)
        status = how if done else None
        time.sleep(0.001)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        scene.trouble("a forked child does not end")
    elif os.WIFSIGNALED(status):
        died = signal.Signals(os.WTERMSIG(status)).name
        scene.trouble(f"a forked child died of {died}")
    elif status:
        scene.trouble("in a forked child: " + os.read(said, 4000).decode(errors="replace"))
    os.close(said)


def forked(scene: Scene) -> tuple[int, int]:
    """As os.fork(), with the descriptor of what the child says."""
    hear, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hear)
        scene.become_child(say)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_LIMIT)
        return 0, say
    os.close(say)
    return pid, hear


@act
def fork(scene: Scene) -> None:
    """A child that uses the Topic and ends at once."""
    pid, fd = forked(scene)
    if pid == 0:
        use(scene)
        os._exit(0)
    wait_for(scene, pid, fd)


@act
def fork_on(scene: Scene) -> None:
    """A child that returns into the call, and ends behind it (Scene.finish)."""
    pid, fd = forked(scene)
    if pid:
        wait_for(scene, pid, fd)


@act
def fork_later(scene: Scene) -> None:
    """The same, but the parent goes on first, to the end of its call and some more."""
    if scene.later:
        return
    wait, go = os.pipe()
    pid, fd = forked(scene)
    if pid == 0:
        os.close(go)
        os.read(wait, 1)
        os.close(wait)
        return
    os.close(wait)

    def then() -> None:
        use(scene)
        os.close(go)
        wait_for(scene, pid, fd)

    scene.later.append(then)
