"""Spoilt segments: what the fuzzers have found worth keeping, run again; and a look for more.

Owns: the corpus of tests/fuzz as a test, compiled with sanitizers by the C compiler at hand; the
quick form of the attack by evil arguments, and the proof that it finds what is planted.
Does not own: the targets (tests/fuzz), or long runs: `tests/fuzz/run long`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compiled import plain_env

FUZZ = Path(__file__).parent.parent / "fuzz"
COMPILER = os.environ.get("CC", "cc").split()[0]
MOST_FILES, MOST_BYTES = 150, 512
# What fuzz_api.py says of each planted fault.
FINDS = {
    "lost": r"lost 0, skipped \d+: base",
    "skip": r"read \d+, came \d+|base",
    "twice": r"after read|\d+ after \d+|came",
    "torn": "bytes of others in it",
    "leak": "mappings are left",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C compiler ({COMPILER})"),
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def run(*command: str | Path, env: dict[str, str] | None = None, timeout: float = 110) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.mark.timeout(120)
def test_what_once_broke_the_core_is_answered_with_a_status(build):
    out = run(FUZZ / "run", "replay", f"BUILD={build}", env=plain_env())
    told = dict(re.findall(r"/(\w+): (\d+) inputs", out))
    kept = {d.name: str(len(list(d.iterdir()))) for d in (FUZZ / "corpus").iterdir()}
    assert told == kept and len(kept) == 4


@pytest.mark.timeout(120)
def test_nothing_crashes_or_hangs_while_words_change_under_it(build):
    run(FUZZ / "run", "replay", f"BUILD={build}", env=plain_env())
    out = run(build / "replay" / "mutator", "6", env=plain_env())
    good = {job: int(n) for job, n in re.findall(r"(\w+) \d+ \((\d+) good\)", out)}
    assert min(good.values()) > 0, good  # each of the jobs has done something


@pytest.mark.no_sanitizer("it goes with a debug build, which aborts at tables that contradict")
@pytest.mark.timeout(120)
def test_a_damaged_message_is_told_by_an_error_of_the_package():
    out = run(sys.executable, FUZZ / "fuzz_wire.py", "--rounds", "80", "--seed", "1")
    assert out.startswith("fuzz_wire: 80 rounds") and "0 troubles" in out


API = (sys.executable, FUZZ / "fuzz_api.py")


@pytest.mark.timeout(240)
def test_random_calls_in_threads_and_processes_do_what_a_model_says():
    out = run(*API, "--minutes", "0.5", "--seed", "1", "--stop", timeout=220)
    counts = {name: int(n) for name, n in re.findall(r"'(\w+)': (\d+)", out)}
    assert min(counts.values()) > 0 and counts["messages"] > 500, out


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["lost", "skip", "twice", "torn", "leak"])
def test_the_model_finds_a_fault_that_is_planted(fault):
    command = [*API, "--minutes", "0.5", "--seed", "1", "--stop", "--break", fault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(FINDS[fault], done.stdout), done.stdout


# ---- arguments that do harm ----


def run_evil(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FUZZ / "fuzz_evil.py", "--seed", "1", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=110)


@pytest.mark.timeout(120)
def test_no_call_is_harmed_by_what_its_arguments_do_meanwhile():
    done = run_evil("--seconds", "40")
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    attacks, acted = map(int, re.findall(r"(\d+) attacks \((\d+) acted\)", done.stdout)[0])
    assert attacks > 0 and acted > 0, done.stdout


PLANTED = {  # a fault of each kind: what is told of it, and the act that brings it out
    "crash": ("died of SIGSEGV", "close"),
    "hang": ("no end within", "close"),
    "wrong_error": ("KeyError: 'planted'", "close"),
    "system_error": ("SystemError", "close"),
    "raw_status": ("a raw status", "close"),
    "swallow": ("raise_interrupt came to nothing", "raise_interrupt"),
    "spoil": ("peer:", "close"),
    "leak": ("carries the writer's heap", "close"),
    "child_crash": ("a forked child died of SIGSEGV", "fork_on"),
}


@pytest.mark.no_sanitizer("it answers a crash in its own way")
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault):
    told, act = PLANTED[fault]
    options = ["--planted", "--call", f".{fault}", "--act", act, "--attacks", "5"]
    done = run_evil(*options, "--deadline", "8" if fault == "hang" else "30")
    assert done.returncode == 1 and told in done.stdout, done.stdout + done.stderr


def test_every_public_call_is_attacked_and_what_is_not_is_said():
    sys.path.insert(0, str(FUZZ))
    try:
        import evil_calls
    finally:
        sys.path.remove(str(FUZZ))
    import shmflow

    calls = evil_calls.every_call(Path(shmflow.__file__).parent, shmflow._HOMES)
    attacked = {str(call): {param.name for param in call.params} for call in calls}
    for name in ("Topic", "Loan", "Message", "Messages", "Stats", "Participant", "Sync"):
        kind = getattr(shmflow, name)
        public = {f"{name}.{one}" for one in vars(kind) if not one.startswith(("_", "n_"))}
        assert public - set(attacked) - set(evil_calls.LEFT_OUT) == set()
    assert {"data", "meta", "timestamp_ns", "timeout"} == attacked["Topic.write"]
    assert "_sync.sync" in attacked and "_core.wait" in attacked and "_admin.unlink" in attacked


def test_the_corpus_is_small():
    files = [path for path in (FUZZ / "corpus").rglob("*") if path.is_file()]
    assert 0 < len(files) <= MOST_FILES
    assert [path.name for path in files if path.stat().st_size > MOST_BYTES] == []
