"""The moments at which user code runs though no argument of the call is evil.

Owns: collections, warnings, signal handlers and lines of the package's own Python as such moments;
a thread with a small stack; the timer that ends calls that wait.
Does not own: what is done then (evil_acts.py).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evil_objects import Fuse

import shmflow

if TYPE_CHECKING:
    from evil_scene import Scene

PACKAGE = str(Path(shmflow.__file__).parent)


class Patience(BaseException):
    """Raised by a timer into a call that waits: it had no timeout, or an evil one."""


def raise_patience(number: int, frame: object) -> None:
    raise Patience


@contextlib.contextmanager
def surroundings(scene: Scene) -> Any:
    """In which the act is done though no argument is evil."""
    fuse = Fuse(scene.do, scene.at, scene.again)
    show, handler = warnings.showwarning, None
    collecting = {"collection": lambda phase, info: fuse.touch()}.get(scene.moment)
    try:
        fuse.armed = True
        if collecting is not None:
            gc.callbacks.append(collecting)
            gc.set_threshold(1)
        elif scene.moment == "warning":
            warnings.showwarning = lambda *args, **kwargs: fuse.touch()
        elif scene.moment == "signal":
            handler = signal.signal(signal.SIGVTALRM, lambda *args: fuse.touch())
            signal.signal(signal.SIGUSR1, lambda *args: fuse.touch())
            threading.Timer(0.004, os.kill, (scene.pid, signal.SIGUSR1)).start()
        elif scene.moment == "line":
            sys.settrace(lambda frame, event, arg: trace(fuse, frame))
        yield
    finally:
        fuse.armed = False
        sys.settrace(None)
        warnings.showwarning = show
        gc.set_threshold(*scene.threshold)
        if collecting is not None:
            gc.callbacks.remove(collecting)
        if handler is not None:
            signal.signal(signal.SIGVTALRM, handler)


def trace(fuse: Fuse, frame: Any) -> Any:
    if not frame.f_code.co_filename.startswith(PACKAGE):
        return None

    def line(frame: Any, event: str, arg: Any) -> Any:
        if event == "line":
            fuse.touch()
        return line

    return line


def in_small_thread(call: Callable[[], object]) -> object:
    """In a thread with 256 KiB of stack, as embedded Pythons and other libraries make them."""
    answers: list[object] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            errors.append(error)

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]
