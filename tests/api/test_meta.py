"""Meta: what may be given, what it arrives as, and what is refused because it would change."""

from __future__ import annotations

import enum
import gc
import itertools
import json
from collections import OrderedDict
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import shmflow
from shmflow import _meta


@pytest.fixture
def topic(topic_name: str) -> Iterator[shmflow.Topic]:
    with shmflow.Topic(topic_name, capacity="2 MiB") as topic:
        yield topic
        gc.collect()
        topic.unlink()


numbers = itertools.count()


def count_up(value: Any) -> str:
    """Not of the values: one is too long to be written."""
    return str(next(numbers))


class Level(enum.IntEnum):
    HIGH = 2


TAKEN_AS: list[tuple[Any, Any]] = [
    ((1, (2, 3)), [1, [2, 3]]),
    (np.float32(0.5), 0.5),
    (np.float16(0.5), 0.5),
    (np.float64(0.1), 0.1),
    (np.longdouble(0.25), 0.25),
    (np.int64(-7), -7),
    (np.uint8(7), 7),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (Level.HIGH, 2),
    (np.array([1, 2], "u2"), [1, 2]),
    (np.eye(2, dtype="f4"), [[1.0, 0.0], [0.0, 1.0]]),
    (np.array(0.5), 0.5),
    (np.array(5, "i1"), 5),
    (np.array([True]), [True]),
    (np.array([0.5], "g"), [0.5]),
    (np.zeros((2, 0)), [[], []]),
    (MappingProxyType({"a": (1,)}), {"a": [1]}),
    (OrderedDict(a=np.int8(1)), {"a": 1}),
]


@pytest.mark.parametrize(("given", "arrives"), TAKEN_AS, ids=count_up)
def test_meta_takes_what_camera_programs_have(
    topic: shmflow.Topic, given: Any, arrives: Any
) -> None:
    topic.write(b"x", meta={"top": given, "in": [{"side": (given,)}]})
    meta = topic.read_message(timeout=0).meta
    assert meta == {"top": arrives, "in": [{"side": [arrives]}]}
    assert type(meta["top"]) is type(arrives)


REFUSED: list[tuple[Any, type[Exception], str]] = [
    ({1: "a", "1": "b"}, TypeError, r"meta: the key 1 is no text.*write '1'"),
    ({"a": {None: 1}}, TypeError, r"meta\['a'\]: the key None"),
    ({"a": [{"b": {1.5: 1}}]}, TypeError, r"meta\['a'\]\[0\]\['b'\]: the key 1\.5"),
    ({"a": MappingProxyType({True: 1})}, TypeError, r"meta\['a'\]: the key True"),
    ({b"a": 1}, TypeError, r"the key b'a'"),
    ({"a": [0, float("nan")]}, ValueError, r"meta\['a'\]\[1\]: .*nan: give None, or .*'nan'"),
    ({"a": np.float32("-inf")}, ValueError, r"-inf: give None, or .*'-inf'"),
    ({"a": np.array([0, np.nan])}, ValueError, r"meta\['a'\]\[1\]: .*nan"),
    ({"a": np.array(np.inf, "g")}, ValueError, r"meta\['a'\]: .*inf"),
    ({"a": np.zeros(40_000, "u1")}, ValueError, r"40000 numbers.*message of its own"),
    ({"a": np.zeros(20_000)}, ValueError, r"meta takes .* at most 65536"),
    ({"a": b"x"}, TypeError, r"bytes is no JSON value: write base64"),
    ({"a": {1}}, TypeError, r"sorted\(it\)"),
    ({"a": 1j}, TypeError, r"it\.real"),
    ({"a": np.complex64(1)}, TypeError, r"it\.real"),
    ({"a": np.datetime64("2026-01-01")}, TypeError, r"str\(it\)"),
    ({"a": np.timedelta64(5, "ms")}, TypeError, r"m8\[ns\]"),
    ({"a": np.array(["x"])}, TypeError, r"tolist"),
    ({"a": np.ma.masked_array([1], [True])}, TypeError, r"MaskedArray .*tolist"),
    ({"a": object()}, TypeError, r"object is no JSON value"),
    ({"a": "\ud800"}, ValueError, r"no Unicode"),
    ({"a": 10**5000}, ValueError, r"meta: .*digits"),
]


@pytest.mark.parametrize(("meta", "error", "text"), REFUSED, ids=count_up)
def test_meta_that_would_change_on_its_way_is_refused(
    topic: shmflow.Topic, meta: Any, error: type[Exception], text: str
) -> None:
    for call in (lambda: topic.write(b"x", meta=meta), lambda: topic.loan(1, meta=meta)):
        with pytest.raises(error, match=text):
            call()
    assert not topic.head


def test_meta_is_nested_as_deep_as_it_says(topic: shmflow.Topic) -> None:
    def nested(levels: int) -> dict[str, Any]:
        meta: Any = 0.5
        for level in range(levels - 1):
            meta = [meta] if level % 2 else {"a": meta}
        return {"top": meta}

    topic.write(b"x", meta=nested(100))
    assert topic.read_message(timeout=0).meta == nested(100)
    with pytest.raises(ValueError, match="more than 100"):
        topic.write(b"x", meta=nested(101))
    with pytest.raises(ValueError, match="more than 100"):
        _meta.unpack_meta(json.dumps(nested(101)).encode())
    many = {"many": [[i] for i in range(300)], "text": "[" * 300}
    topic.write(b"x", meta=many)
    assert topic.read_message(timeout=0).meta == many


def test_a_deep_stack_says_nothing_about_meta() -> None:
    def deep(packed: bytes) -> None:
        try:
            deep(packed)
        except RecursionError:
            _meta.unpack_meta(packed)
            raise

    for packed in (b"{}", b'{"a": ' * 90 + b"1" + b"}" * 90):
        with pytest.raises(RecursionError):
            deep(packed)
