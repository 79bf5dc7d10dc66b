"""The benchmark's own works: figures are taken and told, and a peer that misbehaves stops nobody.

Owns: the runner, its report and the comparison of two runs, as programs. No figure is judged here.
Does not own: the peers that need a library of their own.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

PEERS = '''
import os, time
from peers.base import Peer, Reader, Writer

class NoWriter(Writer):
    def write(self, array):
        pass

class NoReader(Reader):
    def read(self, timeout):
        time.sleep(timeout)

class Deaf(Peer):
    """Nothing ever arrives."""
    title, module = "deaf", ""
    def writer(self): return NoWriter()
    def reader(self, index): return NoReader()

class Raises(Deaf):
    title = "raises"
    def reader(self, index): raise RuntimeError("no reader today")

class Dies(Deaf):
    title = "dies"
    def writer(self):
        os.write(2, b"last words")
        os._exit(7)
'''


def program(name: str, *arguments: object, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=path,
        env=os.environ | {"PYTHONPATH": str(path), "BENCH_START_S": "10"},
    )


def measured(path: Path, peers: str) -> tuple[dict[str, Any], str, str]:
    """JSON, Markdown and stderr of a tiny run."""
    (path / "strange.py").write_text(PEERS)
    options = "--rounds 1 --seconds 0.05 --quick --works stream --match shape=64".split()
    files = ["--json", path / "out" / "a.json", "--markdown", path / "out" / "a.text"]
    done = program("run.py", *options, "--peers", peers, *files, path=path)
    assert done.returncode == 0, done.stderr
    results = json.loads((path / "out" / "a.json").read_text())
    return results, (path / "out" / "a.text").read_text(), done.stderr


@pytest.fixture
def results() -> dict[str, Any]:
    """As they are written, with one figure."""
    figure = {"work": "stream", "key": "stream shape=64", "peer": "shmflow", "better": "higher"}
    return {
        "format": 1,
        "inside": [{"name": "small", "ratio": 1.5, "low": 1.4, "high": 1.6}],
        "figures": [figure | {"median": 100.0, "low": 95.0, "high": 105.0}],
    }


def test_two_peers_are_measured_and_told(tmp_path):
    results, text, _ = measured(tmp_path, "shmflow,mp-queue,nobody")
    figures = {entry["peer"]: entry for entry in results["figures"]}
    assert set(figures) == {"shmflow", "mp-queue"}
    for entry in figures.values():
        assert (entry["state"], entry["why"]) == ("ok", "")
        assert entry["low"] == entry["median"] == entry["high"] > 0
        assert entry["rounds"][0]["lost"] >= 0
    ratio = figures["mp-queue"]["ratio"]["median"]
    assert ratio == pytest.approx(figures["shmflow"]["median"] / figures["mp-queue"]["median"])
    assert "no peer is called 'nobody'" in results["skipped"]["nobody"]
    table = [line for line in text.splitlines() if line.startswith(("| system", "| **shmflow**"))]
    assert len(table) == 2 and len({line.count("|") for line in table}) == 1


def test_a_peer_that_hangs_or_fails_is_told_and_the_run_goes_on(tmp_path):
    strange = ",".join(f"strange:{name}" for name in ("Deaf", "Raises", "Dies"))
    results, text, told = measured(tmp_path, f"{strange},shmflow")
    states = {entry["peer"]: (entry["state"], entry["why"]) for entry in results["figures"]}
    assert states["shmflow"] == ("ok", "")
    assert states["strange:Deaf"] == ("hung", "only 0 of 1 readers ever got a message")
    state, why = states["strange:Raises"]
    assert state == "failed" and "no reader today" in why
    state, why = states["strange:Dies"]
    assert state == "failed" and "ended with 7" in why and "last words" in why
    assert "deaf hung: only 0 of 1 readers ever got a message" in text
    assert "raises failed: RuntimeError: no reader today" in text
    assert "strange:Deaf hung" in told


@pytest.mark.parametrize(
    ("median", "spread", "status", "word"),
    [
        (80.0, 1.0, 1, "worse"),
        (120.0, 1.0, 0, "better"),
        (93.0, 1.0, 0, ""),  # within the tolerance
        (80.0, 30.0, 0, ""),  # the quartile ranges overlap
    ],
)
def test_a_comparison_marks_what_got_worse(tmp_path, results, median, spread, status, word):
    new = copy.deepcopy(results)
    new["figures"][0] |= {"median": median, "low": median - spread, "high": median + spread}
    for name, content in (("old.json", results), ("new.json", new)):
        (tmp_path / name).write_text(json.dumps(content))
    done = program("compare.py", "old.json", "new.json", path=tmp_path)
    assert done.returncode == status, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert words[0][1] == (word or "shmflow:")
    assert words[1][1:] == ["shmflow:", "inside", "small"]


def test_a_ratio_inside_one_process_is_the_better_the_less(tmp_path, results):
    new = copy.deepcopy(results)
    new["inside"][0] |= {"ratio": 2.0, "low": 1.9, "high": 2.1}
    for name, content in (("old.json", results), ("new.json", new)):
        (tmp_path / name).write_text(json.dumps(content))
    assert program("compare.py", "old.json", "new.json", path=tmp_path).returncode == 1
    assert program("compare.py", "new.json", "old.json", path=tmp_path).returncode == 0


def test_what_cannot_be_compared_is_told(tmp_path, results):
    (tmp_path / "old.json").write_text(json.dumps(results))
    (tmp_path / "new.json").write_text(json.dumps(results | {"figures": [], "inside": []}))
    (tmp_path / "odd.json").write_text("[]")
    for other in ("new.json", "odd.json", "none.json"):
        done = program("compare.py", "old.json", other, path=tmp_path)
        assert done.returncode == 2 and done.stderr
