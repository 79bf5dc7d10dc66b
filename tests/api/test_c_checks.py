"""What a C program may send: what the core lets through, Python reads, and the other way round.

Owns: dtype.c and json.c, held against NumPy and json. Does not own: where the core asks them
(tests/core/test_public.c).
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from compiled import ROOT, plain_env

from shmflow import _core, _meta, _wire


def nested(levels: int) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype("u1")
    for _ in range(levels):
        dtype = np.dtype([("in", dtype)])
    return dtype


DTYPES = [
    *("?", "i1", "u1", "<i2", ">i2", "<u4", ">i8", "<f2", "<f4", ">f8", "<c8", ">c16"),
    *("S1", "S70000", "U1", ">U5", "V8", "V1", "M8", "m8", "M8[ns]", ">M8[25s]", "m8[as]", "M8[Y]"),
    np.longdouble,
    np.clongdouble,
    [("x", "<f4")],
    [("x", "<f4"), ("y", ">i2", (2, 3)), ("z", "V3")],
    np.dtype([("a", "u1"), ("b", "<f8"), ("c", "S3")], align=True),
    [("outer", [("a", "<f4"), ("b", [("deep", "u1", (4,))], (2,))]), ("t", "M8[us]")],
    [(("a title", "x"), "<f4"), ("y", "<f4")],
    [("größe", "<f4"), ("it's", "u1"), ('"', "u1"), ("'\"\\", "u1"), ("ключ\U0001f600", "u1")],
    [(f"field{i}", "<f4") for i in range(500)],
    [],
    [("no bytes", "S0"), ("none", "U0"), ("nor here", "V0")],
    [("none", "<f4", (0, 3)), ("of many", "u1", (65536, 65536, 0)), ("deep", "u1", (1,) * 32)],
    np.dtype({"names": ["b"], "formats": ["<f4"], "offsets": [12], "itemsize": 64}),
    np.dtype({"names": ["", "b"], "formats": ["<f4", "<f4"], "titles": [None, "a title"]}),
    np.dtype({"names": ["a"], "formats": ["V3"], "titles": [""]}),
    nested(33),
    nested(64),
]

METAS: list[dict[str, Any]] = [
    {},
    {"exposure_us": 1200, "gain": 1.5e-7, "ok": True, "no": False, "none": None},
    {"größe": "тест \U0001f600 \u2028", "": "", 'q"\\': "\n\t\x7f\x00"},
    {"list": [1, [2, [3, {}]], [], {"a": [{}, {"b": -0.0}]}]},
    {"big": 10**4299, "small": -(10**300), "float": 1e300},
]


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        if os.environ.get("SHMFLOW_CI") == "1":
            pytest.fail(f"no C compiler ({compiler[0]}), and SHMFLOW_CI=1")
        pytest.skip(f"needs a C compiler ({compiler[0]})")
    library = tmp_path_factory.mktemp("checks") / "checks.so"
    sources = [str(ROOT / "src/core" / name) for name in ("dtype.c", "json.c")]
    flags = ["-std=c11", "-O1", "-shared", "-fPIC", f"-I{ROOT / 'src'}", "-o", str(library)]
    subprocess.run([*compiler, *flags, *sources], check=True, env=plain_env())
    loaded = ctypes.CDLL(str(library))
    loaded.sf_dtype_itemsize.restype = loaded.sf_is_json_object.restype = ctypes.c_bool
    return loaded


@pytest.fixture
def itemsize(checks: ctypes.CDLL) -> Callable[[bytes], int | None]:
    def ask(wire: bytes) -> int | None:
        size = ctypes.c_uint64()
        exact = ctypes.create_string_buffer(wire, len(wire)) if wire else None  # no NUL behind it
        known = checks.sf_dtype_itemsize(exact, ctypes.c_size_t(len(wire)), ctypes.byref(size))
        return size.value if known else None

    return ask


@pytest.fixture
def is_object(checks: ctypes.CDLL) -> Callable[[bytes], bool]:
    def ask(text: bytes) -> bool:
        exact = ctypes.create_string_buffer(text, len(text)) if text else None
        return bool(checks.sf_is_json_object(exact, ctypes.c_size_t(len(text))))

    return ask


def spoiled(seeds: list[bytes], count: int) -> Iterator[bytes]:
    """Seeds with a few bytes changed, dropped, doubled or taken from elsewhere."""
    dice = random.Random(17)
    pieces = [bytes([b]) for seed in seeds for b in seed]
    for _ in range(count):
        text = bytearray(dice.choice(seeds)[:400])
        for _ in range(dice.randint(1, 4)):
            at = dice.randint(0, len(text))
            match dice.randint(0, 3):
                case 0:
                    del text[at : at + dice.randint(1, 3)]
                case 1:
                    text[at:at] = dice.choice(pieces)
                case 2:
                    text[at : at + 1] = dice.choice(pieces)
                case 3:
                    text[at:at] = text[at : at + dice.randint(1, 12)]
        yield bytes(text)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[:30])
def test_each_dtype_that_python_sends_c_knows(itemsize: Callable, dtype: Any) -> None:
    dtype = np.dtype(dtype)
    assert itemsize(_wire.describe(dtype)) == dtype.itemsize


def test_a_dtype_that_c_lets_through_python_reads_with_the_same_size(itemsize: Callable) -> None:
    seeds = [_wire.describe(np.dtype(dtype)) for dtype in DTYPES]
    seeds += [b"[['x', '<f4'], [\"y\", '<i2', [3, 2]]]", b"[('x', '<f4', 3)]"]  # for no tuples
    seeds += [b"[( 'x' , \"<f4\" , ( 3 , ), ) , ((\"t\", 'y'), '<i2', (3, 2,)), ]"]
    known = 0
    for wire in spoiled(seeds, 20_000):
        size = itemsize(wire)
        if size is not None:
            dtype = _core._dtype_of(wire)
            assert (wire, dtype and dtype.itemsize) == (wire, size)
            known += 1
    assert known > 1000


@pytest.mark.parametrize(
    "wire",
    [
        *(
            b"",
            b"garbage",
            b"<f3",
            b"<O8",
            b"|O",
            b"<S",
            b"|S0",
            b"<U0",
            b"<f4 ",
            b"<f4\0",
            b"<i16",
        ),
        *(b"<M8[]", b"<M8[0s]", b"<M8[xs]", b"<U1073741824", b"|V2147483648", b"\xe4"),
        *(b"[('x', '<f4'", b"[('x', '<f4')]]", b"[('x', '<f4') ('y', '<f4')]", b"[('x')]"),
        *(
            b"[('x', '<f4'), ('x', '<f4')]",
            b"[('x', '<f4'), ('\\x78', '<f4')]",
            b"[('', '<f4'), ('', '<f4')]",
        ),
        *(b"[(('x', 'x'), '<f4')]", b"[('x', '<f4', (-1,))]", b"[('x', '<f4', (65536, 65536))]"),
        *(
            b"[('x', '<f4', 3)]",
            b"[('x', '<f4', [3])]",
            b"[('x', '<f4', (3)]",
            b"[('x', '<f4', ())]",
        ),
        *(
            b"[['x', '<f4']]",
            b"[(['title', 'x'], '<f4')]",
            b"[('', '|S3'), ('', '|V3'), ('', '|S3')]",
        ),
        b"[('x', " * 65 + b"'u1'" + b")]" * 65,
        *(b"[('x', 'O')]", b"('<f4', (3,))", b"[('x', '<f4', (3))", b"[" * 1000, b"[('a', " * 100),
    ],
)
def test_what_is_no_dtype_c_refuses(itemsize: Callable, wire: bytes) -> None:
    assert itemsize(wire) is None


@pytest.mark.parametrize("meta", METAS, ids=range(len(METAS)))
def test_each_meta_that_python_sends_c_knows(is_object: Callable, meta: dict[str, Any]) -> None:
    assert is_object(_meta.pack_meta(meta))
    assert is_object(json.dumps(meta, indent=2).encode())


def test_a_meta_that_c_lets_through_python_reads(is_object: Callable) -> None:
    seeds = [_meta.pack_meta(meta) for meta in METAS[:4]]
    seeds += [json.dumps(meta, indent=1).encode() for meta in METAS[:4]]
    known = 0
    for text in spoiled(seeds, 20_000):
        if is_object(text):
            _meta.pack_meta(_meta.unpack_meta(text))
            known += 1
    assert known > 1000


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b" ",
            b"[]",
            b"1",
            b'"a"',
            b"null",
            b"{",
            b"}",
            b"{}{}",
            b"{},",
            b"{} x",
            b"\xef\xbb\xbf{}",
        ),
        *(b"{a:1}", b"{'a':1}", b'{"a":1,}', b'{"a" 1}', b'{"a":}', b'{"a":1 "b":2}', b'{,"a":1}'),
        *(
            b'{"a":01}',
            b'{"a":+1}',
            b'{"a":.5}',
            b'{"a":1.}',
            b'{"a":1e}',
            b'{"a":-}',
            b'{"a":0x1}',
        ),
        *(b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":nul}', b'{"a":True}'),
        *(b'{"a":[1}', b'{"a":[1}]', b'{"a":[1,]}', b'{"a":[,1]}', b'{"a":"b}', b'{"a":"\n"}'),
        *(b'{"a":"\\x41"}', b'{"a":"\\u12"}', b'{"a":"\\ud800"}', b'{"a":"\\udc00\\ud800"}'),
        *(
            b'{"a":"\xff"}',
            b'{"a":"\xc0\x80"}',
            b'{"a":"\xed\xa0\x80"}',
            b'{"a":"\xf4\x90\x80\x80"}',
        ),
        *(b'{"a":"\xe2\x82"}', b'{"a":1}\0', b'{"a":' + b"9" * 4301 + b"}"),
        b'{"a":' + b"[" * 600 + b"]" * 600 + b"}",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_is_no_json_object_c_refuses(is_object: Callable, text: bytes) -> None:
    assert not is_object(text)
