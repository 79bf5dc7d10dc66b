"""C programs over the core, compiled by tests that drive them.

Owns: the compiler's command, and an environment for such programs: one without the libraries and
options of a run that is itself under a sanitizer, which are for the extension in this process.
Does not own: what the programs do; each test that compiles one says where its sources are.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
FLAGS = "-std=c11 -g -Wall -Wextra -Wshadow -Werror -pthread -D_GNU_SOURCE".split()


def plain_env() -> dict[str, str]:
    """This process's environment, less what belongs to a sanitizer."""
    own = ("LD_PRELOAD", "ASAN_OPTIONS", "UBSAN_OPTIONS", "PYTHONMALLOC")
    return {key: value for key, value in os.environ.items() if key not in own}


def compile_core(
    program: Path, sources: Iterable[Path], *flags: str, core: Path = ROOT / "src"
) -> Path:
    """Compiles `sources` with the core under `core`. Skips without a compiler, fails in CI."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        if os.environ.get("SHMFLOW_CI") == "1":
            pytest.fail(f"no C compiler ({compiler[0]}), and SHMFLOW_CI=1")
        pytest.skip(f"needs a C compiler ({compiler[0]})")
    files = sorted([*sources, *core.glob("core/*.c"), *core.glob("os/*.c")])
    command = [*compiler, *FLAGS, *flags, f"-I{core}", *map(str, files), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=plain_env())
    if done.returncode != 0:
        pytest.fail(f"{program.name} does not compile:\n{done.stderr}", pytrace=False)
    return program
