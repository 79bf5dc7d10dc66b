"""One attack: a topic with a peer, one call with an evil argument, and what came of it.

Owns: what an attack is made of, by its number; the object that a call is made on, the call, and
what is done with its result.
Does not own: the crash and the hang, which only another process can see (fuzz_evil.py), what the
topic's other participants see (evil_peer.py), or which exceptions are right (evil_judge.py).

An attack is its number and the seed, nothing else: the same two give the same attack.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import os
import pickle
import random
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from evil_acts import ACTS
from evil_calls import Call
from evil_judge import is_evil, judge
from evil_moments import in_small_thread, raise_patience, surroundings
from evil_objects import (
    Again,
    Fuse,
    evil_inside,
    make_deep,
    make_deep_generator,
    make_evil,
    make_generator,
)
from evil_values import good_value

import shmflow
from shmflow import _core

SIZES = (16, 300, 5000, 70_000)
# At which the act is done: inside a special method; before the call, to what it works on; in a
# collection; where a warning is shown; in a signal handler while the call waits; and between two
# lines of the package's own Python, where a signal handler may run as well.
MOMENTS = ("hook",) * 14 + ("before", "collection", "warning", "signal", "line", "line")
MEMORY = ("resize", "set_state", "grow_by_state", "retype", "reshape", "freeze")
# How to make one of a class that is not shmflow's: evil_planted.py.
SUBJECTS: dict[str, Callable[[], Any]] = {}


class Scene:
    """What acts get their hands on."""

    FILL = 0x5A  # every byte that is written here

    def __init__(self, number: int, seed: int, calls: list[Call], act: str = "") -> None:
        self.rng = rng = random.Random(f"{seed}/{number}")
        targets = [(c, p) for c in calls for p in (c.params or (None,)) if c.kind != "property"]
        properties = [(c, None) for c in calls if c.kind == "property"]
        # Each call in its turn with each act in its turn, so that a short run sees much of both;
        # properties share one turn.
        round_, turn = divmod(number, len(targets) + bool(properties))
        is_listed = turn < len(targets)
        self.target, self.param = targets[turn] if is_listed else rng.choice(properties)
        order = random.Random(f"{seed}/{turn}")
        acts = [act for act in order.sample(list(ACTS), len(ACTS)) if self.matters(act)]
        acts.sort(key=lambda act: not self.is_urgent(act))
        self.act = act or acts[round_ % len(acts)]
        self.name = f"evil{number}"
        self.size = rng.choice(SIZES)
        self.moment = rng.choice(MOMENTS)
        if self.moment == "hook" and self.param is None:
            self.moment = rng.choice(MOMENTS[-6:])
        if self.target.owner == "Loan" and self.act in MEMORY and rng.random() < 0.5:
            self.moment = "before"
        far = self.moment == "line"
        self.at = rng.choice([1, 2, 4, 7, 12, 20] if far else [1, 1, 1, 1, 2, 3])
        self.again = rng.random() < 0.2 and self.moment in ("hook", "before")
        self.form = rng.choice(["whole", "whole", "inside", "generator"])
        self.unborn = rng.random() < 0.2 and self.moment != "warning"
        self.mode = rng.choice(["rw"] * 10 + ["r", "w", "monitor"])
        # A thread's stack may be small; a recursion without an end breaks any program there.
        self.in_thread = rng.random() < 0.06 and not self.act.startswith(("recurse", "fork"))
        self.evil_seed = rng.random()
        self.threshold = gc.get_threshold()
        self.pid = os.getpid()
        self.say = -1  # in a forked child: where its trouble is told
        self.depth = self.done = 0
        self.over = self.thrown = False
        self.later: list[Callable[[], None]] = []  # for finish
        self.troubles: list[str] = []
        self.asked: set[str] = set()  # the special methods of the evil object
        self.held: list[Any] = []
        self.arrays: list[Any] = []
        self.containers: list[Any] = []
        self.loan: Any = None
        self.topic: Any = None
        self.other: Any = None
        self.again_now = Again()

    def matters(self, act: str) -> bool:
        """Whether there is anything for this act to do in this call."""
        if act in ("end_loan", "discard_loan"):
            return self.target.owner == "Loan" or self.target.name == "loan"
        if act in MEMORY:
            given = {"data", "items", "out"} & {param.name for param in self.target.params}
            return self.target.owner == "Loan" or bool(given)
        if act == "shrink":
            return self.param is not None
        return True

    def is_urgent(self, act: str) -> bool:
        """What goes first: where it has found something before, in this and other libraries."""
        if act in MEMORY:
            return self.target.owner == "Loan" or self.target.name in ("write", "write_many")
        return act in ("close", "recurse", "fork_on", "fork_later")

    def __str__(self) -> str:
        param = f"({self.param.name})" if self.param else "()"
        unborn = ", unborn" if self.unborn else ""
        return (
            f"{self.target}{param}: {self.act} at {self.moment} {self.at}{' again' * self.again}, "
            f"{self.form}, {self.size} bytes, mode {self.mode}{unborn}{', thread' * self.in_thread}"
        )

    # ---- what acts use ----

    def trouble(self, text: str) -> None:
        self.troubles.append(text)

    def throw(self, error: BaseException) -> None:
        error.evil = True  # type: ignore[attr-defined]
        self.thrown = True
        raise error

    def fill(self, size: int) -> Any:
        return np.full(size, self.FILL, np.uint8)

    def become_child(self, say: int) -> None:
        self.say = say

    def call_again(self) -> object:
        self.depth += 1
        try:
            return self.call()
        finally:
            self.depth -= 1

    def do(self) -> None:
        if self.over:
            return  # what the attack left is collected during a later one
        self.done += 1
        if self.moment == "collection":
            gc.set_threshold(*self.threshold)
        ACTS[self.act](self)

    # ---- the arguments ----

    def passed(self) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call, one of them evil if that is the moment."""
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        for param in self.target.params:
            is_target = param is self.param and self.moment == "hook"
            # What waits gets a time, and so does what the attack goes past.
            wanted = param.required or is_target or param.name == "timeout" or param is self.param
            if not wanted and self.rng.random() < 0.7:
                continue
            value = good_value(self, param)
            self.note(value)
            if is_target:
                value = self.make_evil(value)
            if param.how == "keyword" and not param.required:
                keywords[param.name] = value
            else:
                positional.append(value)
        return positional, keywords

    def note(self, value: Any) -> None:
        items = value if isinstance(value, list) else [value]
        self.arrays += [item for item in items if type(item) is np.ndarray and item.base is None]
        if isinstance(value, (list, dict)):
            self.containers.append(value)

    def make_evil(self, value: Any) -> Any:
        rng = random.Random(self.evil_seed)
        if self.act == "recurse":
            owner = self.topic if self.target.owner == "Topic" else self.module()
            if isinstance(value, (list, tuple)) and hasattr(owner, self.target.name):
                return make_deep_generator(owner, self.target.name)
            return make_deep(value, self.again_now, rng)
        fuse = Fuse(self.do, self.at, self.again)
        if self.form == "generator" and isinstance(value, (list, tuple)):
            evil = make_generator(value, fuse)
        elif self.form == "inside":
            evil = evil_inside(value, fuse, rng)
            self.note(evil)
        else:
            evil = make_evil(value, fuse, rng)
        self.asked |= fuse.hooks
        fuse.armed = True
        return evil

    # ---- the call ----

    def open(self) -> None:
        settings: dict[str, Any] = {"max_held": 1} if self.moment == "warning" else {}
        if self.unborn and self.mode in ("r", "monitor"):
            self.mode = "rw"
        self.topic = shmflow.Topic(self.name, self.mode, **settings)
        self.other = shmflow.Topic(self.name + ".other", "rw", capacity="256 KiB")
        self.other.write(self.fill(100))
        if self.mode in ("rw", "w") and self.rng.random() < 0.5:
            self.topic.write(self.fill(self.size), timeout=0)
        if self.mode != "w" and not self.unborn:
            for _ in range(1 if self.moment == "warning" else self.rng.choice([0, 1, 3])):
                self.held.append(self.topic.read(0, default=None))

    def subject(self) -> Any:
        """The object that the call is a method of."""
        match self.target.owner:
            case "Topic":
                return self.topic
            case "Loan":
                if self.loan is None or self.depth == 0:
                    private = {"max_held": 1} if self.rng.random() < 0.5 else {}
                    writer = shmflow.Topic(self.name, "rw", **private)
                    self.held.append(writer)
                    self.loan = writer.loan(self.size, timeout=0)
                    self.loan.array[...] = self.FILL
                return self.loan
            case "Message":
                return self.other.read_message(0, default=None) or self.other.snapshot()[0]
            case "Messages":
                return self.topic.messages(timeout=0)
            case "Stats":
                return self.topic.stats()
            case "Participant":
                return self.other.participants()[0]
            case "Sync":
                return shmflow.sync([self.topic, self.other], 10.0, timeout=0)
        if self.target.owner in SUBJECTS:
            return SUBJECTS[self.target.owner]()
        raise NotImplementedError(f"how is a {self.target.owner} made? subject() has to know")

    def module(self) -> Any:
        return sys.modules[f"shmflow.{self.target.module}"]

    def bound(self) -> Callable[..., Any]:
        name, owner = self.target.name, self.target.owner
        if not owner:
            return getattr(self.module(), name)  # type: ignore[no-any-return]
        subject = self.subject()
        special: dict[str, Callable[..., Any]] = {
            "__buffer__": lambda *args: memoryview(subject),
            "__copy__": lambda: copy.copy(subject),
            "__pickle__": lambda: pickle.loads(pickle.dumps(subject)),
            "__del__": lambda: None,
        }
        if self.target.kind == "property":
            return lambda: getattr(subject, name)
        if name == "__init__" and owner == "Topic":
            if self.rng.random() < 0.2:  # once more, of one that lives
                return subject.__init__  # type: ignore[no-any-return]
            return shmflow.Topic
        if name == "__init__":
            return type(subject)
        if name in special and not (name == "__buffer__" and hasattr(subject, name)):
            return special[name]
        return getattr(subject, name)  # type: ignore[no-any-return]

    def call(self) -> object:
        function = self.bound()
        positional, keywords = self.passed()
        if self.moment == "before" and self.depth == 0:
            self.do()
        again = functools.partial(function, *positional, **keywords)
        if self.again_now.function is None:
            now = self.again_now
            now.function, now.args, now.keywords = function, positional, keywords
        result = in_small_thread(again) if self.in_thread else again()
        if self.target.returns.startswith("Coroutine"):
            result = asyncio.run(in_time(result))
        return result

    def use(self, thing: Any, deep: int = 0) -> None:
        """What a program does with a result: looks at each byte, goes on with an iterator."""
        if isinstance(thing, np.ndarray):
            thing.tobytes()
            self.held.append(thing)
        elif isinstance(thing, memoryview):
            thing.tobytes()
        elif isinstance(thing, _core.Message):
            repr(thing)
            repr(thing.meta)
            thing.array.tobytes()
            self.held.append(thing)
        elif isinstance(thing, _core.Loan):
            thing.array[...] = np.frombuffer(b"Z", np.uint8)[0] if thing.array.dtype == "u1" else 90
            thing.publish() if self.rng.random() < 0.8 else thing.discard()
        elif isinstance(thing, _core.Topic) and thing is not self.topic:
            repr(thing)
            with thing:
                if thing.mode in ("rw", "w"):
                    thing.write(self.fill(50), timeout=0)
        elif isinstance(thing, (list, tuple)) and deep < 3:
            for one in thing:
                self.use(one, deep + 1)
        elif isinstance(thing, (_core.Messages, shmflow.Sync)):
            for _ in range(3):
                self.use(next(thing, None), deep + 1)

    def go_on(self) -> None:
        """What the attack left is still used."""
        if self.loan is not None:
            with contextlib.suppress(ValueError):  # it has ended
                self.loan.publish()
        if self.mode in ("rw", "w"):
            self.topic.write(self.fill(self.size), timeout=0)
        if self.mode != "w":
            self.use(self.topic.read_message(0, default=None))

    def must_come_out(self) -> bool:
        """Ctrl-C and the like end the call, wherever a special method raises them: but not where
        Python itself keeps them from the caller."""
        plain = self.moment == "hook" and "__del__" not in self.asked
        return plain and self.act in ("raise_interrupt", "raise_exit")

    def run(self) -> None:
        """The attack, to its end. In a forked child it does not return."""
        # A timer raises where a call waits without an end; the process that is watched does not
        # hang by that, but by what is deaf to it.
        signal.signal(signal.SIGALRM, raise_patience)
        sys.unraisablehook = lambda args: args.exc_value and judge(self, args.exc_value)
        threading.excepthook = lambda args: args.exc_value and judge(self, args.exc_value)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
            self.open()
            with surroundings(self):
                result = self.call()
            if self.thrown and self.must_come_out():
                self.trouble(f"{self.act} came to nothing: the call returned {result!r:.50}")
            self.use(result)
        except BaseException as error:
            if self.thrown and self.must_come_out() and not is_evil(error):
                self.trouble(f"{self.act} became {type(error).__name__}: {error!s:.100}")
            judge(self, error)
        try:
            self.go_on()
        except BaseException as error:
            judge(self, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.finish()

    def finish(self) -> None:
        self.over = True
        if os.getpid() != self.pid:
            with contextlib.suppress(Exception):
                self.topic.write(self.fill(20), timeout=0)
            told = "\n".join(self.troubles).encode()[:3000]
            if told and self.say >= 0:
                os.write(self.say, told)
            os._exit(7 if told else 0)
        for then in self.later:
            then()
        self.held.clear()
        self.arrays.clear()
        self.containers.clear()
        self.loan = None
        for topic in (self.topic, self.other):
            if topic is not None:
                topic.close()
        with contextlib.suppress(shmflow.Error):
            shmflow.unlink(self.name + ".other")


async def in_time(coroutine: Any) -> Any:
    return await asyncio.wait_for(coroutine, 0.5)
