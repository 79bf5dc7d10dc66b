"""Storms: participants of a topic are killed or frozen at random by the hundred; and a short soak.

Owns: compiling tests/storm/*.c once, with and without invariant checks, and short runs of it and of
tests/storm/soak.py. Both judge by themselves: their exit status is the verdict.
Does not own: long runs; those are started by hand, with a larger number.
"""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compiled import ROOT, SANITIZED, compile_core, plain_env

pytestmark = pytest.mark.slow

STORM = ROOT / "tests" / "storm"
LIMIT = 100  # seconds, a net only


def compile_storm(core: Path, program: Path, macros: list[str]) -> Path:
    return compile_core(program, STORM.glob("*.c"), "-O2", *macros, core=core)


@pytest.fixture(scope="module")
def compiled() -> Iterator[Callable[[bool], Path]]:
    """``compiled(checked)``: the program, compiled at the first call, gone after the module."""
    folder = Path(tempfile.mkdtemp(prefix="shmflow-storm-"))

    @functools.cache
    def compile_once(checked: bool) -> Path:
        macros = ["-DSF_DEBUG=1"] if checked else []
        return compile_storm(ROOT / "src", folder / f"storm{checked:d}", macros)

    yield compile_once
    shutil.rmtree(folder, ignore_errors=True)


def run(command: list[str], env: dict[str, str] | None = None) -> str:
    """To its end; what it said, which is the reason too if it ended badly."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )
    try:
        said, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # it kills its children, and cleans up
        said, _ = process.communicate(timeout=20)
        pytest.fail(f"no end in {LIMIT} s: {' '.join(command)}\n{said}", pytrace=False)
    if process.returncode != 0:
        pytest.fail(f"{' '.join(command)} ended with {process.returncode}\n{said}", pytrace=False)
    print(said)
    return said


@pytest.mark.parametrize(
    ("checked", "kills", "topic"),
    [
        pytest.param(False, 80, ["--capacity", "8M", "--max-message", "1M"], id="roomy"),
        pytest.param(False, 60, ["--capacity", "256K", "--max-message", "128K"], id="in the lane"),
        pytest.param(True, 40, ["--capacity", "4M", "--depth", "16"], id="short and checked"),
        pytest.param(True, 40, ["--lossless", "--capacity", "1M"], id="lossless and checked"),
    ],
)
def test_nobody_notices_hundreds_of_deaths(
    compiled: Callable[[bool], Path], checked: bool, kills: int, topic: list[str]
) -> None:
    said = run([str(compiled(checked)), "--kills", str(kills), *topic], plain_env())
    assert "recovery" in said


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])
def test_the_frozen_find_all_they_had(compiled: Callable[[bool], Path], checked: bool) -> None:
    said = run([str(compiled(checked)), "--stop", "--kills", "20"], plain_env())
    assert "frozen with the lock" in said


def test_the_frozen_find_all_they_had_while_others_die(compiled: Callable[[bool], Path]) -> None:
    run([str(compiled(False)), "--mix", "--kills", "15", "--capacity", "1M"], plain_env())


def test_a_core_that_frees_what_is_held_is_found_out(tmp_path: Path, shm_dir: Path) -> None:
    """What finds nothing proves nothing, unless it finds what is there."""
    core = tmp_path / "src"
    shutil.copytree(ROOT / "src", core)
    text = (core / "core" / "ring.c").read_text()
    sound = "return !sf_is_held(ring, desc);"
    assert text.count(sound) == 1, "retire reads otherwise now: break it here in another way"
    (core / "core" / "ring.c").write_text(text.replace(sound, "return true;"))
    program = compile_storm(core, tmp_path / "storm", [])
    done = subprocess.run(
        [str(program), "--kills", "200"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=plain_env(),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATION" in done.stdout and "seed" in done.stdout
    assert list(shm_dir.iterdir()) == [], "it was to leave nothing"


@pytest.mark.skipif(SANITIZED, reason="some seconds are too short for a sanitizer's start")
def test_soak_of_some_seconds() -> None:
    said = run([sys.executable, str(STORM / "soak.py"), "--minutes", "0.1"])
    assert "exact?" in said
