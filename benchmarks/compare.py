"""Says what got worse from one run to another.

    make bench-check OLD=before.json NEW=build/bench/results.json
    python benchmarks/compare.py before.json after.json [--tolerance 10] [--all]

For each figure that both files have, the quotient new by old is printed. A figure is marked "worse"
or "better" when the quartile ranges of the two runs do not overlap and the medians differ by more
than the tolerance, in percent. Exit status: 1 if something got worse, 2 if the files cannot be
compared, else 0.

Only shmflow's own figures count; with --all also those of the peers: if they moved as well, it is
the machine that changed. Two runs compare on the same machine, with the same options, when it has
nothing else to do; with one round there is no spread, and a mark says little.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results import load

Figures = dict[tuple[str, str], dict[str, Any]]


def figures(results: dict[str, Any], everybody: bool) -> Figures:
    """By peer and key: what has a median, quartiles and a direction."""
    found = {
        (entry["peer"], entry["key"]): entry
        for entry in results["figures"]
        if entry.get("median") is not None and (everybody or entry["peer"].startswith("shmflow"))
    }
    for line in results["inside"]:
        if {"name", "ratio", "low", "high"} <= line.keys():
            better = line.get("better", "lower")
            told = {"median": line["ratio"], "low": line["low"], "high": line["high"]}
            found["shmflow", f"inside {line['name']}"] = told | {"better": better}
    return found


def verdict(old: dict[str, Any], new: dict[str, Any], tolerance: float) -> str:
    """ "worse", "better", or "" for what may be chance."""
    if not old["median"]:
        return ""
    change = new["median"] / old["median"] - 1
    apart = new["low"] > old["high"] or new["high"] < old["low"]
    if not apart or abs(change) <= tolerance:
        return ""
    return "better" if (change > 0) == (old["better"] == "higher") else "worse"


def compare(
    old: Figures, new: Figures, tolerance: float
) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any], str]]:
    for peer, key in old:
        if (peer, key) in new:
            one, other = old[peer, key], new[peer, key]
            yield peer, key, one, other, verdict(one, other, tolerance)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=10, help="in percent (default 10)")
    parser.add_argument("--all", action="store_true", help="the figures of the peers as well")
    options = parser.parse_args(arguments)
    try:
        old, new = (figures(load(path), options.all) for path in (options.old, options.new))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    lines = list(compare(old, new, options.tolerance / 100))
    if not lines:
        print("the two have no figure in common", file=sys.stderr)
        return 2
    for peer, key, one, other, word in lines:
        quotient = other["median"] / one["median"] if one["median"] else float("nan")
        print(f"{quotient:6.2f}  {word:<6}  {peer}: {key}")
    worse = sum(word == "worse" for *_, word in lines)
    print(f"{len(lines)} figures, {worse} worse by more than {options.tolerance:g} %")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
