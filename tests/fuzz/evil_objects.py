"""Objects whose special methods do harm while a call looks at them.

Owns: the special methods that may be asked of an argument, what an honest object answers, the
moment at which one of them acts, and the dishonest answers.
Does not own: what the act is (evil_acts.py), or which argument is replaced (evil_scene.py).

An evil object stands for a good value and answers as that value would, until its fuse is burnt
down; then the act is done in the middle of somebody else's call. A dishonest answer never is a
pointer or a capsule: a wild pointer breaks any program, and shows nothing.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

# Special methods by what they make of the good value. Those that must not get a dishonest answer
# are in FAITHFUL; those that are looked up as attributes, not called, in PROPERTIES.
HOOKS: dict[str, Callable[..., Any]] = {
    "__index__": lambda v: operator.index(v),
    "__int__": lambda v: int(v),
    "__float__": lambda v: float(v),
    "__trunc__": lambda v: int(v),
    "__bool__": lambda v: bool(v),
    "__len__": lambda v: len(v),
    "__length_hint__": lambda v: len(v),
    "__iter__": lambda v: iter(v),
    "__next__": lambda v: next(iter(v)),
    "__getitem__": lambda v, key: v[key],
    "__contains__": lambda v, key: key in v,
    "keys": lambda v: v.keys(),
    "items": lambda v: v.items(),
    "values": lambda v: v.values(),
    "get": lambda v, key, *default: v.get(key, *default),
    "__buffer__": lambda v, flags: memoryview(v),
    "__array__": lambda v, *args, **kwargs: np.array(v),
    "__array_interface__": lambda v: np.asarray(v).__array_interface__,
    "__array_struct__": lambda v: np.asarray(v).__array_struct__,
    "__array_finalize__": lambda v, base: None,
    "__dlpack__": lambda v, **kwargs: np.asarray(v).__dlpack__(),
    "__dlpack_device__": lambda v: (1, 0),
    "__hash__": lambda v: hash(v) if type(v).__hash__ else 1,
    "__eq__": lambda v, other: v is other or (type(v) is type(other) and bool(np.all(v == other))),
    "__lt__": lambda v, other: v < other,
    "__le__": lambda v, other: v <= other,
    "__gt__": lambda v, other: v > other,
    "__mul__": lambda v, other: v * other,
    "__rmul__": lambda v, other: other * v,
    "__add__": lambda v, other: v + other,
    "__str__": lambda v: str(v),
    "__repr__": lambda v: f"<evil {type(v).__name__}>",
    "__format__": lambda v, spec: format(v, spec),
    "__fspath__": lambda v: str(v),
    "__getattr__": lambda v, name: getattr(v, name),
    "__reduce_ex__": lambda v, protocol: v.__reduce_ex__(protocol),
    "__del__": lambda v: None,
    "__class__": lambda v: type(v),
    "dtype": lambda v: np.dtype("u1"),
    "shape": lambda v: np.shape(v),
}
PROPERTIES = {"__array_interface__", "__array_struct__", "__class__", "dtype", "shape"}
FAITHFUL = {"__array_struct__", "__dlpack__", "__buffer__", "__class__", "__del__"}
FAITHFUL |= {"__array_interface__", "__array_finalize__"}

# What each kind of value is asked for first; the rest comes in at random.
LIKELY: dict[type, tuple[str, ...]] = {
    int: ("__index__", "__int__", "__float__", "__repr__", "__lt__"),
    float: ("__float__", "__index__", "__lt__", "__repr__", "__mul__"),
    bool: ("__bool__", "__index__", "__len__"),
    str: ("__str__", "__fspath__", "__repr__", "__hash__", "__eq__", "__index__"),
    bytes: ("__buffer__", "__len__", "__iter__", "__array__", "__array_interface__"),
    dict: ("keys", "__getitem__", "items", "__iter__", "__len__", "__class__"),
    list: ("__iter__", "__len__", "__getitem__", "__length_hint__", "__next__", "__index__"),
    tuple: ("__iter__", "__len__", "__getitem__", "__index__"),
    np.ndarray: (
        "__array__",
        "__array_interface__",
        "__array_struct__",
        "__dlpack__",
        "__dlpack_device__",
        "__buffer__",
        "__getattr__",
        "__array_finalize__",
        "__len__",
    ),
}
# Subclasses of the real thing, whose own bytes are looked at without asking.
BASES = (int, float, str, bytes, bytearray, list, tuple, dict, np.ndarray)
TWISTS = ("honest",) * 8 + ("wrong", "none", "huge", "negative", "nan", "empty", "self", "long")
kept: list[Any] = []  # what honest answers point into


class Fuse:
    """Burns down by one with each special method that is called; then, and if `again` at each
    later one as well, the act is done."""

    def __init__(self, act: Callable[[], object], at: int, again: bool) -> None:
        self.act = act
        self.left = at
        self.again = again
        self.armed = False
        self.hooks: set[str] = set()  # all special methods of those that burn it

    def touch(self) -> None:
        if not self.armed:
            return
        self.left -= 1
        if self.left == 0 or (self.again and self.left < 0):
            self.act()


def twisted(twist: str, honest: Callable[[], Any], itself: object) -> Any:
    match twist:
        case "wrong":
            return object()
        case "none":
            return None
        case "huge":
            return 1 << 70
        case "negative":
            return -1
        case "nan":
            return float("nan")
        case "empty":
            return ""
        case "self":
            return itself
        case "long":
            return 1 << 55
    return honest()


def make_method(hook: str, value: Any, base: type, fuse: Fuse, twist: str) -> Any:
    answer = HOOKS[hook]

    def honest(self: Any, args: Any, kwargs: Any) -> Any:
        if hook == "__getattr__" and args[0].startswith("__array"):
            raise AttributeError(args[0])
        if hook in ("__reduce_ex__",):
            return base.__reduce_ex__(self, *args)
        given = answer(value, *args, **kwargs)
        if hook in ("__iter__", "items", "keys", "values"):
            return watched(given, fuse)
        if hook.startswith(("__array", "__dlpack", "__buffer")):
            kept.append(given)
        return given

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        fuse.touch()
        return twisted(twist, lambda: honest(self, args, kwargs), self)

    return property(run) if hook in PROPERTIES else run


def watched(items: Any, fuse: Fuse) -> Iterator[Any]:
    for item in items:
        fuse.touch()
        yield item
    fuse.touch()


def stand_in(value: Any) -> Any:
    """A copy that acts on the arrays of the scene do not reach."""
    copy = np.array(value) if isinstance(value, np.ndarray) else value
    kept.append(copy)
    return copy


def make_evil(value: Any, fuse: Fuse, rng: random.Random) -> Any:
    """An object that stands for `value`. Its fuse is not armed yet."""
    likely = next((LIKELY[kind] for kind in type(value).__mro__ if kind in LIKELY), tuple(HOOKS))
    hooks = set(rng.sample(likely, min(len(likely), rng.choice([1, 2, 3, 4]))))
    if rng.random() < 0.4:
        hooks |= set(rng.sample(list(HOOKS), 4))
    if rng.random() < 0.06:
        hooks = set(HOOKS) - {"__class__", "__getattr__"}
    base: type = object
    if rng.random() < 0.3:
        base = next((kind for kind in BASES if isinstance(value, kind)), object)
        base = int if base is bool else base
    fuse.hooks |= hooks
    value = stand_in(value)
    faithful = rng.random() < 0.7
    methods: dict[str, Any] = {}
    for hook in sorted(hooks):
        twist = "honest" if faithful or hook in FAITHFUL else rng.choice(TWISTS)
        methods[hook] = make_method(hook, value, base, fuse, twist)
    if "__eq__" in methods and "__hash__" not in methods:
        methods["__hash__"] = lambda self: 1
    if isinstance(value, dict) and base is object:
        for hook in ("keys", "__getitem__", "__iter__", "__len__"):
            methods.setdefault(hook, make_method(hook, value, base, fuse, "honest"))
    evil = type("Evil", (base,), methods)
    if isinstance(value, dict):
        Mapping.register(evil)
    if base is np.ndarray:
        return np.array(value).view(evil)
    return evil() if base is object else evil(value)


def make_generator(value: Any, fuse: Fuse) -> Any:
    """What is iterated over, as a generator: its frame is the user's code."""
    return watched(list(value), fuse)


def evil_inside(value: Any, fuse: Fuse, rng: random.Random) -> Any:
    """A plain container with an evil item, key or value; the value itself where it has none."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        if rng.random() < 0.4:
            return {make_evil(key, fuse, rng) if one == key else one: value[one] for one in value}
        return value | {key: make_evil(value[key], fuse, rng)}
    if isinstance(value, (list, tuple)) and value:
        at = rng.randrange(len(value))
        items = [make_evil(v, fuse, rng) if i == at else v for i, v in enumerate(value)]
        return type(value)(items)
    return make_evil(value, fuse, rng)


class Again:
    """A call that can be made again. No partial: that would be a level of its own."""

    def __init__(self) -> None:
        self.function: Callable[..., Any] | None = None
        self.args: list[Any] = []
        self.keywords: dict[str, Any] = {}


def make_deep(value: Any, again: Again, rng: random.Random) -> Any:
    """One with a special method that makes the same call again, with a single frame of Python for
    each turn: what a call takes of the C stack then counts a thousand times. One alone: two make
    twice as many calls with each turn, wherever the second is asked because the first one failed.
    """
    likely = next((LIKELY[kind] for kind in type(value).__mro__ if kind in LIKELY), tuple(HOOKS))
    deep = rng.choice([hook for hook in likely if hook not in PROPERTIES])
    if isinstance(value, (list, tuple)) and rng.random() < 0.6:
        deep = rng.choice(["__iter__", "__next__"])
    methods: dict[str, Any] = {
        deep: lambda self, *args, **kwargs: again.function(*again.args, **again.keywords)  # type: ignore[misc]
    }
    if deep == "__next__":
        methods["__iter__"] = lambda self: self
    if isinstance(value, dict):
        methods.setdefault("keys", lambda self: list(value))
        methods.setdefault("__getitem__", lambda self, key: value[key])
        methods.setdefault("__class__", property(lambda self: dict))
    elif isinstance(value, (list, tuple)) and deep in ("__getitem__", "__length_hint__"):
        methods.setdefault("__len__", lambda self: len(value))
        methods.setdefault("__getitem__", lambda self, at: value[at])
    return type("Deep", (), methods)()


def make_deep_generator(owner: object, name: str) -> Any:
    """The same by a generator. The call is written out, as users write it: so the interpreter
    spends the least on it that it can."""
    names: dict[str, Any] = {"owner": owner}
    exec(f"def turn():\n    owner.{name}(turn())\n    yield 1\n", names)
    return names["turn"]()
