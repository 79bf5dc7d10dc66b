"""No mutable globals but those that the head of src/python/module.c lists, each with its reason:

     * Globals:
     *   name: why
     *   other, another: why, on as many
     *       lines as it takes
     *                              (an empty comment line, or the comment's end, ends the list)

The truth is what the compiler puts into .data and .bss. Tables that CPython's API takes as
non-const, though nobody writes them, are told by their names' endings."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest

TABLES = re.compile(r"_(?:methods|members|getset|slots|spec|keywords|module|moduledef)$")
ENTRY = re.compile(r"^\s*((?:\w+\s*,\s*)*\w+)\s*:(?!:)")


def listed(text: str) -> set[str]:
    """The names in the list that follows the line ``Globals:`` of the head comment."""
    head = text[: text.index("*/")]
    names: set[str] = set()
    inside = False
    for line in head.split("\n"):
        line = re.sub(r"^\s*/?\*+", "", line)
        if line.strip() == "Globals:":
            inside = True
        elif inside and not line.strip():
            break
        elif inside and (entry := ENTRY.match(line)):
            names |= {name.strip() for name in entry[1].split(",")}
    assert inside, "src/python/module.c has no line 'Globals:' in its head comment"
    return names


def mutable_symbols(nm_output: str) -> set[str]:
    """Of ``nm`` output, the names of what can be written; statics of functions without number."""
    found = set()
    for line in nm_output.splitlines():
        *_, kind, name = line.split()
        if kind in "bBdDCsSgG":
            found.add(re.sub(r"\.\d+$", "", name))
    return found


def test_mutable_globals_are_those_that_are_listed(c_tree, root, tmp_path):
    numpy = pytest.importorskip("numpy")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    assert shutil.which(compiler[0]) and shutil.which("nm"), "needs a C compiler and nm"
    # Without -fPIC: for then constant tables with pointers in them are in .rodata.
    flags = "-std=c11 -O1 -w -fno-pic -fvisibility=hidden -pthread -D_GNU_SOURCE -Isrc".split()
    for directory in (sysconfig.get_paths()["include"], numpy.get_include()):
        flags += ["-isystem", directory]
    flags += ["-DNPY_NO_DEPRECATED_API=NPY_1_25_API_VERSION"]
    flags += ["-DNPY_TARGET_VERSION=NPY_1_25_API_VERSION"]

    def symbols_of(source: str) -> set[str]:
        obj = str(tmp_path / (source.replace("/", "_") + ".o"))
        subprocess.run([*compiler, *flags, "-c", "-o", obj, source], cwd=root, check=True)
        return mutable_symbols(
            subprocess.run(["nm", obj], capture_output=True, text=True, check=True).stdout
        )

    with ThreadPoolExecutor(2) as pool:
        found = set().union(*pool.map(symbols_of, [p for p in c_tree if p.endswith(".c")]))
    assert {name for name in found if not TABLES.search(name)} == listed(
        c_tree["src/python/module.c"]
    )


def test_the_rule_finds_offenders():
    head = """\
/* The module.
 *
 * Globals:
 *   sf_process: one per process,
 *       told apart by its kernel word: see fork
 *   PyArray_API, PyArray_RUNTIME_VERSION: set once
 *
 * not_this: one
 */"""
    output = "0000 d counter.3\n0000 T f\n0008 b buffer\n U free\n0000 r table\n0004 C shared\n"
    assert mutable_symbols(output) == {"counter", "buffer", "shared"}
    assert listed(head) == {"sf_process", "PyArray_API", "PyArray_RUNTIME_VERSION"}
    assert TABLES.search("topic_methods") and not TABLES.search("topics")
