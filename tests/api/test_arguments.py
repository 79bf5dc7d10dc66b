"""Bad names and bad arguments of the constructor: refused, and nothing is made or disturbed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import shmflow
from shmflow import _core

Working = Callable[..., Any]

BAD_NAMES = ["", ".", "..", "a/..", "../a", "/a", "a/", "a//b", ".hidden", "a/.b", "two words"]
BAD_NAMES += ["a\0b", "a\nb", "tab\t", "ä", "a+b", "a*", "x" * 201, "x" * 300, "a:b", "\ud800"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_name_is_a_value_error(name: str) -> None:
    for mode in ("rw", "r", "w", "monitor"):
        with pytest.raises(ValueError, match=r"topic name|surrogates"):
            shmflow.Topic(name, mode)
    with pytest.raises(ValueError, match=r"topic name|surrogates"):
        shmflow.unlink(name)


def test_name_of_another_type_is_a_type_error() -> None:
    for name in (5, ["a"], b"a", object()):
        with pytest.raises(TypeError, match=r"name of a topic is a str .*, not"):
            shmflow.Topic(name)


def test_good_names(topic_name: str) -> None:
    for end in ("", "/part", "/a/b.c_d-e", "." + "x" * (199 - len(topic_name))):
        with shmflow.Topic(topic_name + end, capacity="64 KiB") as topic:
            topic.write(b"x")
            assert topic_name + end in [info.name for info in shmflow.topics()]
            topic.unlink()


BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"capacity": 0}, ValueError),
    ({"capacity": -1}, ValueError),
    ({"capacity": 2**60}, ValueError),
    ({"capacity": 10**400}, ValueError),
    ({"capacity": "12 parsecs"}, ValueError),
    ({"capacity": ""}, ValueError),
    ({"capacity": "-5 MiB"}, ValueError),
    ({"capacity": "0"}, ValueError),
    ({"capacity": "9" * 400 + " GiB"}, ValueError),
    ({"capacity": 1.5}, TypeError),
    ({"capacity": True}, TypeError),
    ({"capacity": b"64 MiB"}, TypeError),
    ({"max_message": 0}, ValueError),
    ({"max_message": "2 MiB", "capacity": "1 MiB"}, ValueError),
    ({"max_held": -1}, ValueError),
    ({"max_held": "much"}, ValueError),
    ({"depth": 0}, ValueError),
    ({"depth": -3}, ValueError),
    ({"depth": 2**20 + 1}, ValueError),
    ({"depth": 2**70}, ValueError),
    ({"depth": 1.0}, TypeError),
    ({"depth": True}, TypeError),
    ({"depth": "5"}, TypeError),
    ({"max_participants": 0}, ValueError),
    ({"max_participants": 1025}, ValueError),
    ({"max_participants": 2.0}, TypeError),
    ({"mode": "x"}, ValueError),
    ({"mode": "wr"}, ValueError),
    ({"mode": ""}, ValueError),
    ({"mode": None}, ValueError),
    ({"mode": 5}, ValueError),
    ({"start": "middle"}, ValueError),
    ({"start": 0}, ValueError),
    ({"create": 1}, TypeError),
    ({"create": "yes"}, TypeError),
    ({"create": False, "replace": True}, ValueError),
    ({"mode": "r", "create": True}, ValueError),
    ({"mode": "r", "temporary": True}, ValueError),
    ({"mode": "monitor", "replace": True}, ValueError),
    ({"permissions": 0}, ValueError),
    ({"permissions": 0o400}, ValueError),
    ({"permissions": 0o1600}, ValueError),
    ({"permissions": -1}, ValueError),
    ({"permissions": "rw"}, TypeError),
    ({"permissions": 2**40}, (ValueError, OverflowError)),  # type: ignore[list-item]
    ({"spin": -1}, ValueError),
    ({"spin": 5}, ValueError),
    ({"spin": math.nan}, ValueError),
    ({"spin": "fast"}, TypeError),
    ({"speed": 3}, TypeError),
]


def test_bad_argument_of_the_constructor_makes_nothing(topic_name: str) -> None:
    for arguments, error in BAD_ARGUMENTS:
        with pytest.raises(error):
            shmflow.Topic(topic_name, **arguments)
    assert shmflow.topics() == []


def test_permissions_in_decimal_are_told_in_octal(topic_name: str) -> None:
    with pytest.raises(ValueError, match=r"not 0o1130$"):
        shmflow.Topic(topic_name, permissions=600)


def test_bad_argument_disturbs_no_live_topic(keeps_working: Working) -> None:
    with keeps_working() as topic:
        for arguments, error in BAD_ARGUMENTS:
            with pytest.raises(error):
                shmflow.Topic(topic.name, **arguments)


def test_capacity_text_is_explained() -> None:
    with pytest.raises(ValueError, match=r"'12 parsecs' is not a size.*'64 MiB'"):
        shmflow.Topic("a", capacity="12 parsecs")
    with pytest.raises(ValueError, match=r"mode must be 'rw', 'r', 'w' or 'monitor', not 'x'"):
        shmflow.Topic("a", "x")


def test_topic_that_was_never_initialised_crashes_nothing() -> None:
    topic = shmflow.Topic.__new__(shmflow.Topic)
    assert "not opened" in repr(topic)
    names = [name for name in dir(topic) if name not in ("__init__", "__new__", "__class__")]
    for name in names:
        try:
            value = getattr(topic, name)
            if callable(value) and not isinstance(value, type):
                value(b"x") if name == "write" else value()
        except (shmflow.Error, TypeError, ValueError, AttributeError, StopIteration):
            pass
    with pytest.raises(ValueError, match="topic name"):
        topic.__init__("bad name")
    for call in (lambda: topic.read(timeout=0), lambda: topic.write(b"x"), topic.stats):
        try:
            call()
        except (shmflow.Error, ValueError):
            pass


def test_a_zero_in_a_text_does_not_cut_it_short(keeps_working: Working) -> None:
    """A C string ends there, and names what is before it."""
    with keeps_working() as topic:
        keywords: dict[Callable[..., Any], str] = {
            topic.write: "meta",
            topic.write_many: "timeout",
            topic.loan: "dtype",
            topic.read: "timeout",
            topic.read_message: "timeout",
            topic.read_many: "stack",
            topic.read_messages: "copy",
            topic.messages: "latest",
            topic.snapshot: "copy",
            topic.peek: "copy",
            topic.seek: "timestamp_ns",
            shmflow.wait: "timeout",
            shmflow.Topic: "mode",
        }
        for call, name in keywords.items():
            for key in (f"{name}\0", f"{name}\0junk", f"\0{name}"):
                with pytest.raises(TypeError, match="keyword"):
                    call(
                        *(() if call in (topic.messages, topic.snapshot) else (b"x",)),
                        **{key: None},
                    )
        with pytest.raises(ValueError, match="name of a group"):
            shmflow.Topic(topic.name, group="g\0h")
        for argument in ({"mode": "r\0w"}, {"start": "new\0"}, {"capacity": "1 MiB\0"}):
            with pytest.raises(ValueError, match=r"must be|not a size"):
                shmflow.Topic(topic.name, **argument)
        with pytest.raises(ValueError, match="seek"):
            topic.seek("new\0")
        with pytest.raises(TypeError, match="not understood"):
            topic.loan(3, "f4\0")
        for call in (_core._peek, _core._clean, _core._identity):
            with pytest.raises(ValueError, match="null"):
                call("/dev/shm/shmflow.x\0y")
