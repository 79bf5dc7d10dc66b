"""Measures shmflow beside its peers, in one run, interleaved.

    make bench                              # all of it, below half an hour
    make bench-quick                        # two minutes
    python benchmarks/run.py --peers shmflow,iceoryx2-events --works stream --rounds 5

Owns: the order of things, progress, and what is written at the end. In each round each work is done
by all peers in turn, the order rotated, and shmflow's ratio to each is taken within the round: a
machine that is slow for a while is slow for all. Ctrl-C ends it and writes what there is.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for children it is a copy of sys.path

RESULTS = Path(__file__).resolve().parent.parent / "build" / "bench" / "results"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewest sizes, for two minutes")
    parser.add_argument("--rounds", type=int, help="how often each is measured (3; quick: 2)")
    parser.add_argument("--seconds", type=float, help="of each measurement (0.6; quick: 0.25)")
    parser.add_argument("--minutes", type=float, default=25, help="nothing is begun after (25)")
    parser.add_argument("--peers", help="names, or module:Class, with commas (default: all)")
    parser.add_argument(
        "--works", help="stream, batches, round_trip, latency, idle, inside, limits"
    )
    parser.add_argument("--match", help="only what has this in its key, as in results.json")
    parser.add_argument("--json", type=Path, default=RESULTS.with_suffix(".json"), metavar="FILE")
    parser.add_argument("--markdown", type=Path, default=RESULTS.with_suffix(".md"), metavar="FILE")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw them there (matplotlib)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.seconds = options.seconds or (0.25 if options.quick else 0.6)
    return options


class Progress:
    """One line on a terminal, written over; else one line for each thing that is worth one."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.begin = total, 0, time.monotonic()
        self.terminal = sys.stderr.isatty()

    def step(self, what: str) -> None:
        self.done += 1
        spent = time.monotonic() - self.begin
        line = f"[{self.done}/{self.total}, {spent:.0f} s] {what}"
        if self.terminal:
            print(f"\r{line[:110]:<110}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def tell(self, what: str) -> None:
        print(("\n" if self.terminal else "") + what, file=sys.stderr, flush=True)


def available(names: list[str], progress: Any, skipped: dict[str, str]) -> dict[str, Any]:
    import peers

    found = {}
    for name in names:
        try:
            found[name] = peers.find(name)
        except peers.Missing as error:
            skipped[name] = str(error)
            progress(f"{name} is skipped: {error}")
    return found


def measure(options: argparse.Namespace, results: Any, kinds: dict[str, Any]) -> None:
    """All rounds of the works between processes."""
    import plan
    import processes
    import works

    wanted = options.works.split(",") if options.works else list(works.WORKS)
    jobs = [job for job in plan.jobs(options.quick, options.seconds) if job.work in wanted]
    jobs = [job for job in jobs if options.match is None or options.match in job.key]
    for job in jobs:
        for name, kind in kinds.items():
            if why := job.unfit(name, kind):
                results.fail(job, name, kind, "skipped", why)
    plan_of = [
        (turn, job, name)
        for turn in range(options.rounds)
        for number, job in enumerate(jobs)
        if turn < job.rounds
        for name in rotated(list(kinds), turn + number)
        if not results.gave_up(job, name)
    ]
    progress = Progress(len(plan_of))
    for turn, job, name in plan_of:
        progress.step(f"round {turn + 1}: {job.key}: {name}")
        if results.gave_up(job, name):
            continue
        if time.monotonic() - progress.begin > 60 * options.minutes:
            progress.tell(f"{options.minutes:g} minutes are over")
            break
        kind = kinds[name]
        try:
            results.add(job, name, kind, turn, works.WORKS[job.work](kind, **job.parameters))
        except processes.Hung as error:
            results.fail(job, name, kind, "hung", str(error))
            progress.tell(f"{name} hung: {job.key}: {error}")
        except Exception as error:
            results.fail(job, name, kind, "failed", str(error))
            last = (str(error).strip() or repr(error)).splitlines()[-1]
            progress.tell(f"{name} failed: {job.key}: {last}")
    progress.tell(f"{time.monotonic() - progress.begin:.0f} s between processes")


def rotated(names: list[str], by: int) -> list[str]:
    by %= max(len(names), 1)
    return names[by:] + names[:by]


def beside(options: argparse.Namespace, results: Any) -> None:
    """What is measured without peers: inside one process, and the machine's own limits."""
    wanted = options.works.split(",") if options.works else ["limits", "inside"]
    if "limits" in wanted:
        attempt("limits", lambda: results.extra.update(limits=limits()))
    if "inside" in wanted:
        rounds = 5 if options.quick else 15
        attempt("inside", lambda: results.extra.update(inside=inside(rounds)))


def attempt(what: str, call: Any) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)
    try:
        call()
    except Exception as error:  # no compiler, for instance
        print(f"{what} failed: {type(error).__name__}: {error}", file=sys.stderr)


def inside(rounds: int) -> list[dict[str, Any]]:
    import inside

    return inside.run(rounds)


def limits() -> dict[str, Any]:
    import limits
    import plan

    found: dict[str, Any] = {
        what: {
            placed: limits.measure(what, pinned=placed == "pinned")
            for placed in ("unpinned", "pinned")
        }
        for what in ("futex", "line")
    }
    frames = {"nbytes": plan.size_of(plan.HD), "depth": plan.SIZES[plan.HD]}
    for threads in (1, 2):
        found[f"memcpy_{threads}"] = limits.measure("memcpy", threads=threads, **frames)
    return found | {"stat": limits.measure("stat"), "np_copyto": limits.np_copyto(**frames)}


def write(options: argparse.Namespace, results: Any) -> None:
    import report
    from results import save

    told = results.as_json()
    save(told, options.json)
    text = report.markdown(told)
    options.markdown.parent.mkdir(parents=True, exist_ok=True)
    options.markdown.write_text(text, encoding="utf-8")
    print(text)
    print(f"written: {options.json}, {options.markdown}", file=sys.stderr)
    if options.plots:
        import plots

        plots.draw(told, options.plots)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    import machine
    import peers
    from results import Results

    options = parse(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    names = options.peers.split(",") if options.peers else list(peers.REGISTRY)
    described = machine.describe(names)
    print(machine.head(described), file=sys.stderr)
    told = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    results = Results(described, told)
    status = 0
    try:
        kinds = available(
            names, lambda line: print(line, file=sys.stderr), results.extra["skipped"]
        )
        beside(options, results)
        measure(options, results, kinds)
    except KeyboardInterrupt:
        print("\ninterrupted: this is what there is", file=sys.stderr)
        status = 130
    write(options, results)
    return status


if __name__ == "__main__":
    sys.exit(main())
