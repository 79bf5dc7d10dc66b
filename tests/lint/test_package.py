"""What is installed is whole: type information, and a C core to build other programs with."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

shmflow = pytest.importorskip("shmflow")


def test_types_are_shipped():
    package = Path(shmflow.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "_core.pyi").exists()


def test_the_core_is_shipped_without_the_bindings(root):
    installed = Path(shmflow.get_include())
    shipped = {str(p.relative_to(installed)) for p in installed.rglob("*.[ch]")}
    ours = {str(p.relative_to(root / "src")) for p in (root / "src").rglob("*.[ch]")}
    assert shipped == {path for path in ours if not path.startswith("python/")}


def test_a_c_program_is_built_against_the_installed_core(tmp_path):
    include = Path(shmflow.get_include())
    program = tmp_path / "app.c"
    program.write_text('#include "core/shmflow.h"\nint main(void) { return 0; }\n')
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        str(program),
        f"-I{include}",
        *map(str, sorted(include.glob("core/*.c")) + sorted(include.glob("os/*.c"))),
        *("-o", str(tmp_path / "app"), "-pthread"),
    ]
    subprocess.run(command, check=True)
    subprocess.run([str(tmp_path / "app")], check=True)
