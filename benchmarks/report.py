"""Results as Markdown: a table per work, and one of what shmflow set out to reach.

    python benchmarks/report.py build/bench/results.json

Owns: words and numbers as people read them. The goals themselves are in reach.py.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import machine
import reach
from plan import human, size_of

Entry = dict[str, Any]
WORDS = {
    "stream": "As fast as it goes",
    "batches": "As fast as it goes, in batches of 64",
    "round_trip": "Round trip",
    "latency": "Age of a message when it has been read",
    "idle": "A reader that waits",
}


def title(entry: Entry) -> str:
    parameters = entry["parameters"]
    words = [WORDS[entry["work"]]]
    nbytes = parameters.get("nbytes") or size_of(parameters.get("shape", ()))
    if entry["work"] != "idle":
        words.append(human(nbytes))
    for what in ("readers", "writers"):
        if parameters.get(what, 1) > 1:
            words.append(f"{parameters[what]} {what}")
    if "depth" in parameters:
        words.append(f"depth {parameters['depth']}")
    if entry["work"] == "latency":
        rate = parameters.get("rate")
        words.append(f"{rate:g} per second" if rate else "one after the other")
    if entry["work"] in ("round_trip", "latency"):
        words.append("pinned" if parameters.get("pinned") else "not pinned")
    return ", ".join(words)


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def spread(quartiles: dict[str, Any]) -> str:
    middle, low, high = (number(quartiles[k]) for k in ("median", "low", "high"))
    return middle if low == middle == high else f"{middle} ({low} … {high})"


def middle(entry: Entry, field: str) -> float:
    values = [told[field] for told in entry["rounds"] if told.get(field) is not None]
    return statistics.median(values) if values else float("nan")


def notes(entry: Entry) -> str:
    words = []
    if entry["polls"]:
        words.append("polls")
    if entry["work"] in ("stream", "batches"):
        share = middle(entry, "lost")
        if share >= 0.0005:
            words.append(f"loses {100 * share:.3g} %")
        if not entry["lossy"]:
            words.append("waits")
        if size_of(entry["parameters"]["shape"]) >= 4096:
            words.append("view" if entry["zero_copy"] else "copy")
    if entry["work"] == "round_trip" and (lost := middle(entry, "lost")):
        words.append(f"{lost:g} lost")
    if entry["work"] == "latency":
        arrived = sum(told["count"] for told in entry["rounds"])
        # The first tenth is left out of the distribution.
        share = 1 - arrived / 0.9 / max(sum(told["sent"] for told in entry["rounds"]), 1)
        if share > 0.02:
            words.append(f"loses {100 * share:.3g} %")
    words += sorted({note for told in entry["rounds"] for note in told.get("notes", ())})
    return ", ".join(words)


# ---- tables --------------------------------------------------------------------------------------


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    align = ["---"] + ["---:"] * (len(head) - 2) + ["---"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, align, *rows])


def columns(entry: Entry) -> tuple[list[str], list[str]]:
    """Heads and cells between the name and the notes."""
    work, figure = entry["work"], spread(entry)
    if work in ("stream", "batches"):
        shape = entry["parameters"]["shape"]
        return ["messages/s", "GB/s", "CPU us/message: writer", "reader"], [
            figure,
            number(entry["median"] * size_of(shape) / 1e9),
            number(middle(entry, "writer_cpu_us")),
            number(middle(entry, "reader_cpu_us")),
        ]
    if work == "idle":
        return ["% of a core", "sleeps/s"], [
            number(100 * entry["median"]),
            number(middle(entry, "wakeups")),
        ]
    return ["us, median", "90 %", "99 %", "99.9 %"], [
        figure,
        *(number(middle(entry, q)) for q in ("p90", "p99", "p99.9")),
    ]


def section(entries: list[Entry]) -> str:
    good = [entry for entry in entries if entry.get("median") is not None]
    good.sort(key=lambda entry: entry["median"], reverse=entries[0]["better"] == "higher")
    lines = [f"## {title(entries[0])}", ""]
    if good:
        head = ["system", *columns(good[0])[0], "shmflow ÷ it", "notes"]
        rows = []
        for entry in good:
            name = f"**{entry['title']}**" if entry["peer"] == "shmflow" else entry["title"]
            ratio = spread(entry["ratio"]) if "ratio" in entry else ""
            rows.append([name, *columns(entry)[1], ratio, notes(entry)])
        lines += [table(head, rows), ""]
    for entry in entries:
        if entry["state"] in ("failed", "hung"):
            reason = entry["why"].strip().splitlines()
            lines += [f"{entry['title']} {entry['state']}: {reason[-1] if reason else ''}", ""]
    why = {entry["why"] for entry in entries if entry["state"] == "skipped"}
    for reason in sorted(why):
        who = ", ".join(e["title"] for e in entries if e["why"] == reason)
        lines += [f"Left out, {reason}: {who}.", ""]
    return "\n".join(lines)


def reached(results: dict[str, Any]) -> str:
    rows = []
    for goal in reach.GOALS:
        for wanted in goal.wanted:
            measured = wanted.measured(results)
            verdict = "missing" if measured is None else "yes" if wanted.holds(measured) else "no"
            shown = "" if measured is None else number(measured)
            rows.append([goal.work, wanted.text(), shown, verdict])
    return table(["work", "wanted", "measured", "reached"], rows)


def limits(results: dict[str, Any]) -> str:
    """What the machine allows without Python, as far as it was measured."""
    told = results["limits"]
    rows = []
    for what, words in (("futex", "two processes that sleep"), ("line", "two that spin")):
        for placed in ("unpinned", "pinned"):
            if (found := told.get(what, {}).get(placed)) is not None:
                us = number(1e6 * found["median"])
                rows.append([f"round trip of {words}, in C, {placed}", f"{us} us"])
    for threads in (1, 2):
        if (found := told.get(f"memcpy_{threads}")) is not None:
            rate = f"{number(found['bytes_per_second'] / 1e9)} GB/s"
            rows.append([f"memcpy of 720p frames into a ring, threads: {threads}", rate])
    if "np_copyto" in told:
        rows.append(["np.copyto of a 720p frame", f"{number(1e6 * told['np_copyto'])} us"])
    return table(["the machine", "", ""], ([*row, ""] for row in rows))


def inside(results: dict[str, Any]) -> str:
    rows = [
        [str(line.get("name", "")), spread(line | {"median": line["ratio"]}), line.get("text", "")]
        for line in results["inside"]
        if {"ratio", "low", "high"} <= line.keys()
    ]
    return table(["inside one process", "ratio", ""], rows)


def markdown(results: dict[str, Any]) -> str:
    options = results["options"]
    parts = [
        "# Figures",
        machine.head(results["machine"]).replace("\n", "  \n"),
        f"Rounds: {options['rounds']}, of {options['seconds']:g} s each; medians and quartiles; "
        "ratios are taken within each round. What they mean, and what not: the README beside the "
        "benchmarks.",
        "## What was to be reached",
        reached(results),
    ]
    if results["limits"]:
        parts += ["## What the machine allows", limits(results)]
    if results["inside"]:
        parts += ["## Inside one process", inside(results)]
    by_key: dict[str, list[Entry]] = {}
    for entry in results["figures"]:
        by_key.setdefault(entry["key"], []).append(entry)
    parts += [section(entries).strip() for entries in by_key.values()]
    for name, why in results["skipped"].items():
        parts.append(f"{name} was skipped: {why}")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    from results import load

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON that run.py wrote")
    print(markdown(load(parser.parse_args().results)), end="")


if __name__ == "__main__":
    main()
