"""Arrows point one way: python -> core -> os. Only src/os talks to the system, only src/python to
the interpreter, and of that arrays.h alone to NumPy."""

from __future__ import annotations

import posixpath
import re

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)

# What C itself brings, less its clocks, signals and threads; and the CPU's own instructions.
LANGUAGE = {
    *("assert.h", "complex.h", "errno.h", "float.h", "inttypes.h", "limits.h", "math.h"),
    *("stdalign.h", "stdarg.h", "stdatomic.h", "stdbool.h", "stddef.h", "stdint.h", "stdio.h"),
    *("stdlib.h", "string.h", "immintrin.h", "emmintrin.h", "x86intrin.h", "arm_acle.h"),
    "arm_neon.h",
}
INTERPRETER = {"Python.h", "structmember.h", "datetime.h", "frameobject.h"}
MAY_INCLUDE = {"os": {"os"}, "core": {"core", "os"}, "python": {"python", "core", "os"}}


def includes(text: str) -> list[tuple[bool, str]]:
    return [(bracket == "<", name.strip()) for bracket, name in INCLUDE.findall(text)]


def misplaced(files: dict[str, str]) -> list[str]:
    found = []
    for path, text in files.items():
        room = path.split("/")[1]
        for is_system, name in includes(text):
            if name in INTERPRETER or name.startswith("numpy/"):
                if room != "python":
                    found.append(f"{path}: {name} belongs to src/python")
            elif is_system:
                if room != "os" and name not in LANGUAGE:
                    found.append(f"{path}: <{name}> belongs to src/os")
            else:
                near = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
                target = near if near in files else posixpath.normpath("src/" + name)
                if target not in files:
                    found.append(f"{path}: there is no {name}")
                elif target.split("/")[1] not in MAY_INCLUDE.get(room, ()):
                    found.append(f"{path}: {name} is above it")
    return found


def users_of_numpy(files: dict[str, str]) -> list[str]:
    return [p for p, t in files.items() if any(n.startswith("numpy/") for _, n in includes(t))]


def test_each_layer_includes_only_what_is_below_it(c_tree):
    assert c_tree, "there is no C source"
    assert misplaced(c_tree) == []


def test_numpys_c_api_is_used_behind_one_door(c_tree):
    assert users_of_numpy(c_tree) == ["src/python/arrays.h"]
    behind = [p for p, t in c_tree.items() if (False, "python/arrays.h") in includes(t)]
    assert behind == ["src/python/arrays.c", "src/python/dtypes.c"]


def test_the_rule_finds_offenders():
    files = {
        "src/os/clock.h": "#include <time.h>\n",
        "src/os/clock.c": '#include "clock.h"\n#include "core/ring.h"\n',
        "src/core/ring.h": '#include <stdint.h>\n#include "os/clock.h"\n#include <sys/mman.h>\n',
        "src/core/ring.c": '  # include "python/topic.h"\n#include <Python.h>\n#include "none.h"\n',
        "src/python/topic.h": "#include <Python.h>\n#include <unistd.h>\n",
        "src/python/array.c": "#include <numpy/arrayobject.h>\n",
    }
    assert misplaced(files) == [
        "src/os/clock.c: core/ring.h is above it",
        "src/core/ring.h: <sys/mman.h> belongs to src/os",
        "src/core/ring.c: python/topic.h is above it",
        "src/core/ring.c: Python.h belongs to src/python",
        "src/core/ring.c: there is no none.h",
        "src/python/topic.h: <unistd.h> belongs to src/os",
    ]
    assert users_of_numpy(files) == ["src/python/array.c"]
