"""What has been measured so far: kept by work and peer, summed up, read and written as JSON.

Owns: the format of the file. Each entry of "figures" has

    work, parameters, key, peer, title, figure (the name), unit, better ("higher", "lower"),
    state ("ok", "failed", "hung", "skipped"), why, values (one per round), median, low, high,
    ratio {median, low, high}: shmflow's figure by this one's, per round, and its quartiles,
    rounds: all that the work returned, per round.

Does not: measure or print.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.base import Peer
from plan import HIGHER, UNITS, Job, primary

FORMAT = 1
OURS = "shmflow"


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median, and the quartiles around it; with one value, that one."""
    if len(values) < 2:
        return dict.fromkeys(("median", "low", "high"), values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


class Results:
    def __init__(self, machine: dict[str, Any], options: dict[str, Any]) -> None:
        self.machine, self.options = machine, options
        self.extra: dict[str, Any] = {"limits": {}, "inside": [], "skipped": {}}
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}
        self._rounds: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}

    def entry(self, job: Job, name: str, peer: type[Peer]) -> dict[str, Any]:
        figure = primary(job.work)
        return self._entries.setdefault(
            (job.key, name),
            {
                "work": job.work,
                "parameters": job.parameters,
                "key": job.key,
                "peer": name,
                "title": peer.title,
                "lossy": peer.lossy,
                "polls": peer.polls,
                "zero_copy": peer.zero_copy,
                "figure": figure,
                "unit": UNITS[figure],
                "better": "higher" if figure in HIGHER else "lower",
                "state": "ok",
                "why": "",
            },
        )

    def add(self, job: Job, name: str, peer: type[Peer], turn: int, told: dict[str, Any]) -> None:
        entry = self.entry(job, name, peer)
        if told.get(entry["figure"]) is None:
            entry.update(state="failed", why="no message arrived")
        else:
            self._rounds.setdefault((job.key, name), {})[turn] = told

    def fail(self, job: Job, name: str, peer: type[Peer], state: str, why: str) -> None:
        self.entry(job, name, peer).update(state=state, why=why)

    def gave_up(self, job: Job, name: str) -> bool:
        """It has failed or hung in an earlier round: it would again, and cost its deadline."""
        entry = self._entries.get((job.key, name))
        return entry is not None and entry["state"] != "ok"

    def figures(self) -> list[dict[str, Any]]:
        found = []
        for (key, name), entry in self._entries.items():
            rounds = self._rounds.get((key, name), {})
            figure = entry["figure"]
            values = [told[figure] for told in rounds.values()]
            summed: dict[str, Any] = {"values": values, "rounds": list(rounds.values())}
            if values:
                summed |= quartiles(values)
            ours = self._rounds.get((key, OURS), {})
            ratios = [
                ours[turn][figure] / told[figure]
                for turn, told in rounds.items()
                if turn in ours and told[figure]
            ]
            if ratios:
                summed["ratio"] = quartiles(ratios)
            found.append(entry | summed)
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "machine": self.machine,
            "options": self.options,
            **self.extra,
            "figures": self.figures(),
        }


def save(results: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Raises ValueError for what is no such file."""
    results = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise ValueError(f"{path} has no results of format {FORMAT}")
    return results
