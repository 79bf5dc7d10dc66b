"""The kill matrix: tests/kill, a C program that dies at every point of every operation.

Owns: compiling it with failpoints and invariant checks, running its quick form, and seeing that it
left no operation out; what clean() makes of the files that a killed creator leaves.
Does not own: what must be true after a death; the program says, and ends at the first violation.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compiled import ROOT, compile_core, plain_env

import shmflow


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("kill") / "kill_matrix"
    sources = (ROOT / "tests" / "kill").glob("*.c")
    return compile_core(program, sources, "-O1", "-DSF_FAILPOINTS", "-DSF_DEBUG=1")


def run(matrix: Path, *options: str, timeout: float = 60) -> str:
    done = subprocess.run(
        [matrix, *options], capture_output=True, text=True, timeout=timeout, env=plain_env()
    )
    if done.returncode != 0:
        pytest.fail(f"exit {done.returncode}\n{done.stderr}\n{done.stdout}", pytrace=False)
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(250)
def test_a_death_at_any_point_of_any_operation_costs_nobody_anything(matrix: Path) -> None:
    names = run(matrix, "--list").splitlines()
    said = run(matrix, "--jobs", "2", timeout=240)
    print(said)
    rows = re.findall(r"^(.+?) +(\d+) +\d+ +(\d+) +\d+ +[\d.]+ +[\d.]+$", said, re.MULTILINE)
    assert [name for name, _, _ in rows] == names
    assert [name for name, points, seconds in rows if not (int(points) and int(seconds))] == []
    assert sum(int(seconds) for _, _, seconds in rows) >= 2000
    stops = re.search(r"(\d+) stops", said)
    assert stops is not None
    assert int(stops.group(1)) > 0


@pytest.fixture
def debris(matrix: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which creators died at each of their points, where there is no O_TMPFILE."""
    folder = Path(run(matrix, "--debris").strip())
    monkeypatch.setenv("SHMFLOW_DIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_unfinished_files_of_killed_creators_go_when_they_are_an_hour_old(debris: Path) -> None:
    files = list(debris.iterdir())
    assert files
    assert all(re.fullmatch(r"\.shmflow-[0-9a-f]{32}", file.name) for file in files)
    assert shmflow.topics() == []
    assert shmflow.clean() == 0
    for file in files:
        os.utime(file, (time.time() - 3700,) * 2)
    assert shmflow.clean() == len(files)
    assert list(debris.iterdir()) == []
