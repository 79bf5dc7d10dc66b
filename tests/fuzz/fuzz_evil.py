"""Arguments that do harm while a call looks at them, over every public call: `make fuzz-evil`.

Owns: child processes that are attacked, the deadline, the search for the one attack that broke a
child, and the report.
Does not own: the attacks (evil_scene.py), the calls (evil_calls.py), the planted faults by which
it is shown that this finds any (evil_planted.py).

    fuzz_evil.py --seconds 50 --seed 1     some attacks, of which each call gets its share
    fuzz_evil.py --minutes 30              a long run, with a seed of its own
    fuzz_evil.py --call Loan.publish --act resize --attacks 500
    fuzz_evil.py --seed 1 --only 123       one attack again, with what it said
    fuzz_evil.py --list                    the calls and parameters that are attacked

A crash belongs to the attack that was running; if that does no harm alone, to the earliest one from
which on it happens. Equal findings are told once, with their count and the first number.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
BATCH = 150
DEADLINE = 25  # seconds without a word: far more than an attack takes on a busy machine
PERTURB = "219"  # evil_peer.py knows these bytes


# ---- the child ---------------------------------------------------------------------------------


class PeerProcess:
    def __init__(self) -> None:
        env = os.environ | {"MALLOC_PERTURB_": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", HERE / "evil_peer.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        return answer or f"the peer is gone: {self.process.wait(10)}"


def run_child(seed: int, numbers: list[int], planted: bool, only: str, act: str) -> None:
    """Says `begin NUMBER what` before each attack, and `end NUMBER trouble` behind it."""
    import warnings

    from evil_scene import Scene

    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", category=RuntimeWarning)
    warnings.showwarning = lambda *args, **kwargs: None
    calls = find_calls(planted, only)
    peer = PeerProcess()
    gc.freeze()
    for number in numbers:
        scene = Scene(number, seed, calls, act)
        print(f"begin {number} {scene}", flush=True)
        if not scene.unborn and (said := peer.ask(f"begin {scene.name}")) != "ok":
            scene.trouble(f"peer: {said}")
        scene.run()
        gc.collect()
        if (said := peer.ask(f"check {scene.name}")) != "ok":
            scene.trouble(f"peer: {said}")
        print(
            f"end {number} {scene.done} " + " | ".join(scene.troubles).replace("\n", " "),
            flush=True,
        )


def find_calls(planted: bool, only: str):
    import evil_calls

    import shmflow

    if planted:
        import evil_planted

        calls = evil_planted.calls()
    else:
        calls = evil_calls.every_call(Path(shmflow.__file__).parent, shmflow._HOMES)
        for module in {call.module for call in calls}:
            importlib.import_module(f"shmflow.{module}")
    return [call for call in calls if only in str(call)]


# ---- the parent --------------------------------------------------------------------------------


@dataclass
class Result:
    """Of some attacks: how many ended, the troubles by number, what they were."""

    done: int = 0
    acted: int = 0  # of those, in how many the act was done
    names: dict[int, str] = field(default_factory=dict)
    troubles: dict[int, str] = field(default_factory=dict)
    broken: int | None = None  # the one during which the child ended or hung


class Fuzzer:
    def __init__(self, seed: int, deadline: float, options: list[str]) -> None:
        self.seed = seed
        self.deadline = deadline
        self.options = options

    def attack(self, numbers: list[int]) -> Result:
        """In one child, up to the first crash or hang."""
        folder = tempfile.mkdtemp(prefix="evil-", dir=os.environ["SHMFLOW_DIR"])
        env = os.environ | {
            "SHMFLOW_DIR": folder,
            "MALLOC_PERTURB_": PERTURB,
            "PYTHONHASHSEED": "0",
            "OPENBLAS_NUM_THREADS": "1",
        }
        if not sysconfig.get_config_var("Py_GIL_DISABLED"):  # it knows one allocator only
            env["PYTHONMALLOC"] = "malloc"
        command = [sys.executable, "-P", "-u", __file__, "--seed", str(self.seed), "--child"]
        command += [",".join(map(str, numbers)), *self.options]
        errors = open(Path(folder) / "stderr", "w+", errors="replace")
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=env, start_new_session=True
        )
        try:
            return self.listen(child, errors)
        finally:
            try:
                os.killpg(child.pid, signal.SIGKILL)  # the peer as well
            except ProcessLookupError:
                pass
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
            errors.close()
            shutil.rmtree(folder, ignore_errors=True)

    def listen(self, child: subprocess.Popen[bytes], errors) -> Result:
        result, running = Result(), None
        hung = ""
        for line in lines_of(child, self.deadline):
            verb, _, rest = line.partition(" ")
            number, _, text = rest.partition(" ")
            if verb == "begin":
                running = int(number)
                result.names[running] = text
            elif verb == "end":
                acted, _, text = text.partition(" ")
                result.done += 1
                result.acted += acted != "0"
                if text:
                    result.troubles[int(number)] = text
                running = None
            elif verb == "hang":
                hung = f"no end within {self.deadline:g} s"
                os.kill(child.pid, signal.SIGUSR2)
                time.sleep(0.5)
                child.kill()
        status = child.wait()
        if status != 0 or running is not None:
            errors.seek(0)
            said = errors.read()
            how = hung or ended_by(status)
            result.broken = -1 if running is None else running
            result.troubles[result.broken] = f"{how}{heart_of(said)}"
        return result

    def bisect(self, numbers: list[int], result: Result) -> Result:
        """The child broke at the last of these: which one did it?"""
        last = numbers[-1]
        alone = self.attack([last])
        if alone.broken is not None or len(numbers) == 1:
            return result
        low, high = 0, len(numbers) - 1  # from low on it breaks, from high on it does not
        if self.attack(numbers).broken is None:
            result.troubles[last] += " (not once more)"
            return result
        while high - low > 1:
            middle = (low + high) // 2
            if self.attack(numbers[middle:]).broken is not None:
                low = middle
            else:
                high = middle
        result.troubles[last] += f" (only behind attack {numbers[low]})"
        return result

    def batch(self, numbers: list[int], until: float) -> list[Result]:
        results = []
        while numbers and time.monotonic() < until:
            result = self.attack(numbers)
            results.append(result)
            if result.broken is None:
                break
            at = numbers.index(result.broken) if result.broken in numbers else len(numbers) - 1
            if "no end" not in result.troubles[result.broken]:  # which would take its time
                self.bisect(numbers[: at + 1], result)
            numbers = numbers[at + 1 :]
        return results


def lines_of(child: subprocess.Popen[bytes], patience: float) -> Iterator[str]:
    """Its lines; `hang` where none came in time."""
    assert child.stdout is not None
    pending = b""
    while True:
        if not select.select([child.stdout], [], [], patience)[0]:
            yield "hang"
            return
        chunk = os.read(child.stdout.fileno(), 65536)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)


def ended_by(status: int) -> str:
    return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"


def heart_of(said: str) -> str:
    """Of what a child wrote to stderr: a failed assertion, or where it was."""
    if found := re.search(r".*Assertion.*", said):
        return f": {found.group().strip()[-200:]}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    inner = [line for line in lines if line.startswith("File") and "Traceback" not in said]
    if inner:
        return ": " + ", ".join(
            re.sub(r'File ".*?(\w+\.py)", line', r"\1", one) for one in inner[:6]
        )
    return f": {lines[-1][:200]}" if lines else ""


def kind_of(name: str, trouble: str) -> str:
    """What equal findings have in common."""
    call, _, rest = name.partition(": ")
    act = rest.split(" at ")[0]
    return f"{call} {act}: " + re.sub(r"0x[0-9a-f]+|\d+|'[^']*'|b\".*", "#", trouble)[:90]


def report(seed: int, results: list[Result], seconds: float) -> int:
    found: dict[str, list[int]] = {}
    texts: dict[int, str] = {}
    for result in results:
        for number, trouble in result.troubles.items():
            name = result.names.get(number, "?: between two attacks")
            texts[number] = f"{name}\n        {trouble}"
            found.setdefault(kind_of(name, trouble), []).append(number)
    for numbers in sorted(found.values()):
        print(f"--seed {seed} --only {numbers[0]} ({len(numbers)} times): {texts[numbers[0]]}")
    done = sum(result.done for result in results)
    acted = sum(result.acted for result in results)
    told = f"{done} attacks ({acted} acted) from seed {seed} in {seconds:.0f} s"
    print(f"fuzz_evil: {told}, {len(found)} troubles")
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--attacks", type=int, default=10**9)
    parser.add_argument("--only", type=int, action="append")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--call", default="", help="only those whose name contains this")
    parser.add_argument("--act", default="", help="only this one, of evil_acts.py")
    parser.add_argument("--deadline", type=float, default=DEADLINE)
    parser.add_argument("--planted", action="store_true", help="faults that must be found")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        numbers = [int(one) for one in args.child.split(",")]
        run_child(args.seed, numbers, args.planted, args.call, args.act)
        return 0
    if args.list:
        for call in find_calls(args.planted, args.call):
            print(call, *(param.name for param in call.params))
        return 0
    made = tempfile.mkdtemp(prefix="evil-run-", dir=os.environ.get("SHMFLOW_DIR") or "/dev/shm")
    os.environ["SHMFLOW_DIR"] = made
    start = time.monotonic()
    until = start + (args.seconds + 60 * args.minutes or (1e9 if args.attacks < 10**9 else 60))
    options = ["--call", args.call, "--act", args.act] + ["--planted"] * args.planted
    fuzzer = Fuzzer(args.seed, args.deadline, options)
    results: list[Result] = []
    try:
        if args.only:
            results = fuzzer.batch(args.only, float("inf"))
        else:
            results = run_all(fuzzer, args.attacks, args.jobs, until)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return report(args.seed, results, time.monotonic() - start)


def run_all(fuzzer: Fuzzer, attacks: int, jobs: int, until: float) -> list[Result]:
    results: list[Result] = []
    starts = iter(range(0, attacks, BATCH))
    with ThreadPoolExecutor(jobs) as pool:

        def work() -> None:
            for first in starts:
                if time.monotonic() >= until:
                    return
                numbers = list(range(first, min(attacks, first + BATCH)))
                results.extend(fuzzer.batch(numbers, until))

        for one in [pool.submit(work) for _ in range(jobs)]:
            one.result()
    return results


if __name__ == "__main__":
    sys.exit(main())
