"""Dtypes with fields: what travels, what is refused and with which advice, what bytes are a dtype,
and that nothing but these bytes decides about a message.

Owns: the wire form of dtypes as users meet it; renamed fields and the caches.
Does not own: allocations that fail (test_out_of_memory.py), spoilt segments (tests/fuzz).
"""

from __future__ import annotations

import gc
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmflow


def passes(topic: shmflow.Topic, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    topic.write(data)
    received = topic.read(timeout=0)
    assert received.tobytes() == np.ascontiguousarray(data).tobytes()
    assert received.dtype.names == data.dtype.names
    for name in data.dtype.names or ():
        assert received.dtype.fields[name] == data.dtype.fields[name]
    return received


# ---- what travels -------------------------------------------------------------------------------

INNER = np.dtype([(("a title", "short"), ">i2"), ("ä\n'\"\\\t", "U3", (2, 2))])

TRAVELS = {
    "names of NumPy's own strings": np.dtype([(n, "f4") for n in np.array(["x", "y"])]),
    "such titles": np.dtype([((np.str_("t"), np.str_("x")), "f4"), ("y", [(np.str_("z"), "u1")])]),
    "a subarray of structures": np.dtype([("a", [("b", INNER)], (3,)), ("c", "M8[25us]")]),
    "half of a surrogate pair": np.dtype([("\udc80", "f4"), ("\U0001f600", "f8")]),
    "gaps": np.dtype({"names": ["a", "b"], "formats": ["u1", INNER], "offsets": [3, 8],
                      "itemsize": 80}),
    "some fields of many": np.zeros(3, [("a", "f4"), ("b", "f8"), ("c", "u1")])[["a", "c"]].dtype,
    "no field at all": np.dtype({"names": [], "formats": [], "itemsize": 7}),
    "a void within": np.dtype([("a", "V5"), ("b", "S0"), ("c", "?")]),
    "metadata": np.dtype([("a", np.dtype("f4", metadata={"unit": "m"}))], metadata={"of": "1"}),
    "metadata of a plain one": np.dtype("u1", metadata={"enum": {"red": 1}}),
    "many levels": np.dtype([("a", [("b", [("c", [("d", [("e", "f4", (2,))])])], (2,))])]),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRAVELS)
def test_it_travels_without_a_warning(topic: shmflow.Topic, kind: str) -> None:
    dtype = TRAVELS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (3, 600):
            received = passes(topic, np.zeros(count, dtype)).dtype
            assert received == dtype and received.fields == dtype.fields
        with topic.loan(5, dtype) as loaned:
            assert loaned.dtype == dtype
        assert topic.read(timeout=0).dtype == dtype


def test_what_comes_back_is_as_numpy_makes_it(topic: shmflow.Topic) -> None:
    for dtype in TRAVELS.values():
        if dtype.names == ():
            continue  # NumPy's own loader makes a void of it
        received = passes(topic, np.zeros(2, dtype)).dtype
        made = np.lib.format.descr_to_dtype(received.descr if dtype.names else received.str)
        assert (received == made) and (received.flags, hash(received)) == (made.flags, hash(made))
        assert (received.alignment, received.isbuiltin) == (made.alignment, made.isbuiltin)


# ---- what is refused ----------------------------------------------------------------------------

OVERLAP = np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})
DEEP: Any = "f4"
for _ in range(70):
    DEEP = [("a", DEEP)]

REFUSED: dict[str, tuple[Any, str]] = {
    "out of order": (np.zeros(3, "u1,f4")[["f1", "f0"]], r"in the order.*repack_fields\(array\)"),
    "overlapping": (np.zeros(3, OVERLAP), r"overlap; send array\.view\('V4'\)"),
    "overlapping within": (np.zeros(3, [("c", OVERLAP), ("d", "u1")]), r"overlap.*view\('V5'\)"),
    "a title that is no string": (np.zeros(3, [((1, "a"), "f4")]), r"title 1 of field 'a'"),
    "a name like a gap": (np.zeros(3, {"names": [""], "formats": ["V4"]}), r"another type.*V4"),
    "many levels": (np.zeros(3, DEEP), r"more than 64 structures.*view\('V4'\)"),
    "long names": (np.zeros(3, [("a" * 20000, "f4")]), r"at most 16384.*view\('V4'\)"),
    "objects within": (np.zeros(3, [("a", [("b", "O")])]), r"Python objects"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_gives_advice_that_is_true(topic: shmflow.Topic, kind: str) -> None:
    data, why = REFUSED[kind]
    with pytest.raises(TypeError, match=why) as caught:
        topic.write(data)
    with pytest.raises(TypeError, match=why):
        topic.loan(3, data.dtype)
    assert topic.head == 0
    advice = re.search(r"send (\S*array\S*)", str(caught.value))
    if advice:
        import numpy.lib.recfunctions

        topic.write(eval(advice.group(1).rstrip(","), {"array": data, "numpy": numpy}))
        assert topic.read(timeout=0).tobytes()[: data.nbytes] or not data.nbytes


def test_types_of_other_packages_are_told_what_they_are(topic: shmflow.Topic) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name, instead in (("bfloat16", "u2"), ("float8_e5m2", "u1"), ("int4", "u1")):
        data = np.zeros(3, getattr(ml_dtypes, name))
        with pytest.raises(TypeError, match=rf"not one of NumPy's own.*view\('{instead}'\)"):
            topic.write(data)
        topic.write(data.view(instead))
        assert topic.read(timeout=0).view(data.dtype).dtype == data.dtype
        with pytest.raises(TypeError, match=r"not one of NumPy's own.*view\('V\d'\)"):
            topic.write(np.zeros(3, [("a", data.dtype), ("b", "u1")]))


# ---- what bytes are a dtype ---------------------------------------------------------------------

GOOD = {
    "[('a','<f4')]": [("a", "<f4")],
    '[ ( "a" , "<f4" , ( 2 , ) , ) , ]': [("a", "<f4", (2,))],
    "[('\\x41\\u0042\\U00000043\\'\\\\', '|u1'), ('', '|V3')]": {
        "names": ["ABC'\\"], "formats": ["u1"], "itemsize": 4},
    "[(('t', 'a'), [('b', '>M8[7D]')], (1, 2))]": [(("t", "a"), [("b", ">M8[7D]")], (1, 2))],
    "[]": [],
    "|S7": "S7",
    "?": "?",
    "i4": "i4",
}  # fmt: skip
BAD = [
    "[('a','<f4'),('a','<f4')]", "[(('a','a'),'<f4')]", "[('a','|O')]", "[('a','|O8')]", "|O",
    "[('a','<f4',(-1,))]", "[('a','<f4',2)]", "[('a','<f4',())]", "[('a','<f4',(2147483648,))]",
    "[('a','<f4',(70000,70000))]", "[('a','V2147483647'),('b','u1')]", "[('a','<i3')]", "<f3",
    "[('a','f4,f4')]", "f4,f4", "3f4", "(2,)f4", "float", "a5", "|V", "S0", "U0", "<M8[]", "<M8[",
    "<M8[0s]", "<M8[xy]", "<M8[2147483648s]", "[1]", "[[]]", "[('a',)]", "[('a','<f4'", "[('a'",
    "('<f4',(2,))", "[('a','<f4',1.5)]", "[('\\d','f4')]", "[('\\xg0','f4')]", "[('\\u12','f4')]",
    "[('\\U00110000','f4')]", "[('a','f4')] ]", "['a']", "[(b'a','<f4')]", "[('a','a4')]", "",
    "[('a','<f4',(" + "1," * 33 + "))]", "[('a'," * 65 + "'f4'" + ")]" * 65, "[(" * 400, "<",
    "[('a\0','<f4')]", "[('a','\0')]", "\0", "[('a','<f4'),,]", "{}", "[('a' '<f4')]", "T", "f\0",
]  # fmt: skip


@pytest.fixture
def wire(topic_name: str, shm_dir: Path) -> Iterator[Callable[[str], np.dtype[Any]]]:
    """``wire(text)``: what a reader takes that for; and it reads the message after it."""
    name = "x" * 900
    with shmflow.Topic(topic_name, capacity="1 MiB", max_message=200_000) as topic:

        def read(text: str) -> np.dtype[Any]:
            # Its bytes are replaced where it lies, short of what they stand for: those of a name.
            inner = f"[('{name}', '|V120000')]".encode()
            pad = len(inner) - len(text)
            text = text[:1] + " " * pad + text[1:] if text[:1] == "[" else text
            topic.write(np.zeros(1, [(name, "V120000")]))
            topic.write(b"next")
            path = shm_dir / f"shmflow.{topic_name}"
            at = path.read_bytes().rfind(inner)
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(text.encode().ljust(len(inner), b" "))
            try:
                return topic.read(timeout=0).dtype
            finally:
                assert bytes(topic.read(timeout=0)) == b"next"

        yield read
        gc.collect()
        topic.unlink()


def test_bytes_that_are_no_dtype_cost_one_message(wire: Callable[[str], np.dtype[Any]]) -> None:
    for text in BAD:
        with pytest.raises(shmflow.CorruptTopic):
            wire(text)


@pytest.mark.parametrize("text", GOOD)
def test_a_text_is_read_as_the_dtype_that_it_says(topic: shmflow.Topic, text: str) -> None:
    from shmflow import _core

    assert _core._dtype_of(text.encode()) == np.dtype(GOOD[text])
    assert all(_core._dtype_of(bad.encode()) is None for bad in BAD)


# ---- nothing but the bytes decides --------------------------------------------------------------


def test_a_collection_at_any_moment_loses_no_message(
    topic_name: str, background: Callable[..., Any]
) -> None:
    """Python code that a collection runs: no error of the interpreter is one of the data."""
    dtypes = [np.dtype([(f"field_{n}", "f4"), ("nested", [(f"x{n}", "u1")])]) for n in range(400)]
    collections = []
    before = gc.get_threshold(), sys.getswitchinterval()

    def read(topic: shmflow.Topic) -> list[tuple[str, int]]:
        got = []
        try:
            while True:
                array = topic.read()
                got.append((array.dtype.names[0], int(array["nested"].view("u1").sum())))
        except shmflow.Closed:
            return got

    def on_collection(phase: str, info: dict[str, int]) -> None:
        collections.append([phase for _ in range(3)])
        del collections[10:]

    gc.callbacks.append(on_collection)
    gc.set_threshold(50)
    sys.setswitchinterval(1e-6)
    try:
        with shmflow.Topic(topic_name, capacity="8 MiB", depth=1000) as topic:
            for number, dtype in enumerate(dtypes):
                topic.write(np.array([(number, (number % 80,))] * 3, dtype))
            topic.shutdown()
            threads = [background(read, topic) for _ in range(4)]
            got = [one for thread in threads for one in thread.outcome(60)]
            assert sorted(got) == sorted((f"field_{n}", n % 80 * 3) for n in range(400))
            assert topic.lost == 0
            topic.unlink()
    finally:
        gc.callbacks.remove(on_collection)
        gc.set_threshold(*before[0])
        sys.setswitchinterval(before[1])
    assert collections


# ---- renamed in place ---------------------------------------------------------------------------


def test_fields_renamed_in_place_are_written_as_they_are_now(topic: shmflow.Topic) -> None:
    data = np.zeros(3, [("a", [("b", "i2"), ("c", [("d", "f4")], (2,))]), (("t", "e"), "u1")])
    dtype = data.dtype
    for inner in (dtype, dtype["a"], dtype["a"]["c"].base):
        for number in range(20):
            passes(topic, data)
            old = inner.names
            inner.names = tuple(f"{name}{number}" for name in old)
            assert passes(topic, data).dtype == dtype
            inner.names = old  # the very tuple that it had
    assert passes(topic, data).dtype.names == ("a", "e")


def test_a_structure_is_the_readers_own_down_to_the_last_one(topic: shmflow.Topic) -> None:
    data = np.zeros(3, [(("t", "a"), [("b", "i2"), ("c", [("d", "f4")], (2,))]), ("e", "u1")])
    arrays = [passes(topic, data) for _ in range(4)]
    for array in arrays[1:]:
        array.dtype["a"]["c"].base.names = ("renamed",)
        array.dtype["a"].names = ("renamed", "too")
        assert array.dtype.fields["t"] == array.dtype.fields["a"]
        array.dtype.names = ("and", "this")
    assert arrays[0].dtype == data.dtype == passes(topic, data).dtype
    assert arrays[1].dtype == arrays[2].dtype != data.dtype


def test_threads_write_a_dtype_that_another_renames(
    topic_name: str, background: Callable[..., Any]
) -> None:
    data, done = np.zeros(3, [("a", "i2"), ("b", [("c", "f4")])]), threading.Event()

    def rename() -> None:
        for number in range(3000):
            data.dtype["b"].names = (f"c{number % 5}",)
        done.set()

    def write(topic: shmflow.Topic) -> None:
        while not done.is_set():
            topic.write(data)
            assert topic.read(timeout=5).dtype["b"].names[0] in {f"c{n}" for n in range(5)} | {"c"}

    with shmflow.Topic(topic_name, capacity="1 MiB") as topic:
        threads = [background(write, topic) for _ in range(3)] + [background(rename)]
        for thread in threads:
            thread.outcome(60)
        topic.unlink()


def test_a_dtype_that_leads_back_to_its_topic_does_not_keep_it(topic_name: str) -> None:
    import weakref

    class Name(str):
        pass

    name = Name("a")
    topic = shmflow.Topic(topic_name, capacity="1 MiB")
    name.topic = topic  # type: ignore[attr-defined]
    for dtype in (
        np.dtype("u1", metadata={"topic": topic}),
        np.dtype([("a", np.dtype("u1", metadata={"topic": topic}))]),
        np.dtype([("a", "u1")], metadata={"topic": topic}),
        np.dtype([(name, "u1")]),
    ):
        assert topic.write(np.zeros(3, dtype)) and topic.write(np.zeros(3, dtype))
    topic.unlink()
    there = weakref.ref(topic)
    del topic, dtype, name
    gc.collect()
    assert there() is None
