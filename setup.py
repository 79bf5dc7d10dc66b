"""The one thing that pyproject.toml cannot say: how ``shmflow._core`` is compiled.

Switches, all environment variables:
  SHMFLOW_WERROR=1                            warnings are errors
  SHMFLOW_DEBUG=1                             the core checks its invariants, -O1 -g
  SHMFLOW_SANITIZE=address,undefined|thread   build with these sanitizers
  SHMFLOW_COVERAGE=1                          build for gcov
"""

import os
import sys
import sysconfig
from glob import glob

if not sys.platform.startswith("linux"):
    sys.exit(f"shmflow needs Linux (futexes, open-file-description locks), not {sys.platform}.")

import numpy
from setuptools import Extension, setup

python_paths = sysconfig.get_paths()
# As system directories, for then other people's headers cannot warn.
system_includes = sorted({python_paths["include"], python_paths["platinclude"]})
system_includes.append(numpy.get_include())

compile_args = [
    "-std=c11",
    "-O3",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wmissing-prototypes",
    "-fvisibility=hidden",
    "-pthread",
]
for directory in system_includes:
    compile_args += ["-isystem", directory]
link_args = ["-pthread"]
macros = [
    ("_GNU_SOURCE", None),
    # Built against NumPy 2, runs on 1.26 too; nothing deprecated by then is used.
    ("NPY_NO_DEPRECATED_API", "NPY_1_25_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
]

instrumented = any(os.environ.get(f"SHMFLOW_{n}") for n in ("DEBUG", "SANITIZE", "COVERAGE"))
if not instrumented:
    # The rooms are many and small; this lets the compiler see through their doors.
    compile_args.append("-flto=auto")
    link_args += ["-flto=auto", "-O3"]
if os.environ.get("SHMFLOW_WERROR") == "1":
    compile_args.append("-Werror")
if os.environ.get("SHMFLOW_DEBUG") == "1":
    compile_args += ["-O1", "-g", "-UNDEBUG"]
    macros.append(("SF_DEBUG", "1"))
if sanitizers := os.environ.get("SHMFLOW_SANITIZE"):
    compile_args += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-O1", "-g"]
    link_args.append(f"-fsanitize={sanitizers}")
if os.environ.get("SHMFLOW_COVERAGE") == "1":
    compile_args += ["--coverage", "-fprofile-update=atomic", "-O1", "-g"]
    link_args.append("--coverage")

sources = [path for room in ("os", "core", "python") for path in sorted(glob(f"src/{room}/*.c"))]

setup(
    ext_modules=[
        Extension(
            "shmflow._core",
            sources=sources,
            depends=[*sorted(glob("src/*/*.h")), "setup.py"],
            include_dirs=["src"],
            define_macros=macros,
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ]
)
