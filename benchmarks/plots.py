"""Draws the results: sizes, readers, and the distribution of latencies.

    python benchmarks/plots.py build/bench/results.json build/bench

Owns: the pictures. matplotlib comes with the extra `bench`; without it nothing is drawn, and a line
says so. shmflow is drawn bold and in one colour everywhere; its peers keep theirs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measures import EDGES_US
from plan import human, size_of
from report import number

Entry = dict[str, Any]
Series = dict[str, tuple[str, list[float], list[float]]]  # by peer: title, x, y

OURS = "shmflow"
# After Okabe and Ito, and a few greys: to be told apart by most eyes.
COLOURS = {
    "shmflow": "#d1112b",
    "shmflow-lossless": "#e8788a",
    "shmflow-spin": "#8c0b1d",
    "iceoryx2-events": "#0072b2",
    "iceoryx2-polling": "#56b4e9",
    "zenoh": "#009e73",
    "ecal": "#7a5195",
    "pyzmq": "#e69f00",
    "pynng": "#b58900",
    "faster-fifo": "#cc79a7",
    "mp-queue": "#444444",
    "mp-pipe": "#777777",
    "shm-semaphore": "#a0a0a0",
    "ctypes-ring": "#5b3a1d",
}


def colour(peer: str) -> str:
    return COLOURS.get(peer, "#222222")


def chosen(results: dict[str, Any], work: str, **parameters: Any) -> list[Entry]:
    """Entries with figures, of a work, with these parameters (a callable decides itself)."""

    def fits(entry: Entry) -> bool:
        own = {"readers": 1, "writers": 1, "rate": None, "pinned": None} | entry["parameters"]
        return all(
            wanted(own.get(name)) if callable(wanted) else own.get(name) == wanted
            for name, wanted in parameters.items()
        )

    return [
        entry
        for entry in results["figures"]
        if entry["work"] == work and entry.get("median") is not None and fits(entry)
    ]


def series(entries: list[Entry], x: Callable[[Entry], float]) -> Series:
    found: Series = {}
    for entry in sorted(entries, key=x):
        _, xs, ys = found.setdefault(entry["peer"], (entry["title"], [], []))
        xs.append(x(entry))
        ys.append(entry["median"])
    return found


# ---- drawing -------------------------------------------------------------------------------------


def style(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=12)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="major", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def apart(heights: list[float], step: float) -> list[float]:
    """Moved apart to at least `step`, in their order, and each as little as can be: neighbours that
    would overlap are pooled around their mean; all within 0 to 1."""
    pools: list[list[float]] = []
    for i, height in enumerate(heights):
        pools.append([height - i * step, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, many), (other, more) = pools[-2:]
            pools[-2:] = [[(one * many + other * more) / (many + more), many + more]]
    flat = [mean for mean, count in pools for _ in range(int(count))]
    most = 1 - (len(flat) - 1) * step
    return [min(max(place, 0), most) + i * step for i, place in enumerate(flat)]


def name_lines(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """The names at the right edge, beside where each line ends. `ends`: heights as shares of the
    axes (0 to 1), with peer and title."""
    ends = sorted(ends)
    places = apart([height for height, _, _ in ends], 0.045)
    for place, (height, peer, title) in zip(places, ends, strict=True):
        axes.annotate(
            title,
            xy=(1.0, height),
            xytext=(1.06, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=9.5 if peer == OURS else 8.5,
            fontweight="bold" if peer == OURS else "normal",
            color=colour(peer),
            arrowprops={
                "arrowstyle": "-",
                "color": colour(peer),
                "lw": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 4,
            },
            annotation_clip=False,
        )


def lines(axes: Any, drawn: Series) -> None:
    for peer, (_, xs, ys) in drawn.items():
        ours = peer == OURS
        axes.plot(
            xs,
            ys,
            color=colour(peer),
            linewidth=3 if ours else 1.4,
            marker="o",
            markersize=6 if ours else 3.5,
            linestyle="--" if peer.startswith(OURS + "-") else "-",
            zorder=5 if ours else 3,
            clip_on=False,
        )


def label(axes: Any, drawn: Series) -> None:
    """After the limits of the axes are final. A line that ends early is named where it ends."""
    right = max((xs[-1] for _, xs, _ in drawn.values()), default=1)
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = []
    for peer, (title, xs, ys) in drawn.items():
        if xs[-1] == right:
            ends.append((float(to_axes.transform((xs[-1], ys[-1]))[1]), peer, title))
        else:
            axes.annotate(
                title,
                (xs[-1], ys[-1]),
                xytext=(6, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                color=colour(peer),
            )
    axes.set_xlim(right=right)
    name_lines(axes, ends)


def ticks(axes: Any, values: list[float], names: list[str]) -> None:
    axes.set_xticks(values, names)
    axes.minorticks_off()


def draw_sizes(plt: Any, results: dict[str, Any], place: Path) -> bool:
    entries = chosen(results, "stream", readers=1, writers=1)
    if not entries:
        return False
    drawn = series(entries, lambda entry: size_of(entry["parameters"]["shape"]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(15, 6.2))
    sizes = sorted({x for _, xs, _ in drawn.values() for x in xs})
    volume = {
        peer: (title, xs, [x * y / 1e9 for x, y in zip(xs, ys, strict=True)])
        for peer, (title, xs, ys) in drawn.items()
    }
    for axes, what, words, unit in (
        (left, drawn, "Messages that arrive", "messages/s"),
        (right, volume, "Data that arrive", "GB/s"),
    ):
        style(axes, f"{words}: one writer, one reader that looks at each page", "message", unit)
        axes.set_xscale("log")
        axes.set_yscale("log")
        lines(axes, what)
        ticks(axes, sizes, [human(int(size)) for size in sizes])
        label(axes, what)
    finish(plt, figure, results, place / "sizes.png")
    return True


def draw_readers(plt: Any, results: dict[str, Any], place: Path) -> bool:
    many = chosen(results, "stream", writers=1, readers=lambda n: n > 1)
    shapes = sorted({tuple(entry["parameters"]["shape"]) for entry in many}, key=size_of)
    if not shapes:
        return False
    figure, all_axes = plt.subplots(1, len(shapes), figsize=(7.5 * len(shapes), 6.2), squeeze=False)
    for axes, shape in zip(all_axes[0], shapes, strict=True):
        entries = chosen(results, "stream", writers=1, shape=lambda s, o=shape: tuple(s) == o)
        drawn = series(entries, lambda entry: entry["parameters"].get("readers", 1))
        counts = sorted({x for _, xs, _ in drawn.values() for x in xs})
        words = f"{human(size_of(shape))} to each of so many readers"
        style(axes, words, "readers", "messages/s that arrive, median reader")
        axes.set_xscale("log")
        axes.set_yscale("log")
        lines(axes, drawn)
        ticks(axes, counts, [f"{count:g}" for count in counts])
        label(axes, drawn)
    finish(plt, figure, results, place / "readers.png")
    return True


def draw_latency(plt: Any, results: dict[str, Any], place: Path) -> bool:
    forms = (
        ("720p, one after the other", chosen(results, "latency", rate=None)),
        ("720p, paced", chosen(results, "latency", rate=lambda rate: rate is not None)),
        ("64 B round trip", chosen(results, "round_trip", pinned=None)),
        ("64 B round trip, pinned", chosen(results, "round_trip", pinned=lambda cpus: cpus)),
    )
    forms = tuple((words, entries) for words, entries in forms if entries)
    if not forms:
        return False
    columns = min(len(forms), 2)
    rows = -(-len(forms) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(7.5 * columns, 5.6 * rows), squeeze=False, sharey=False
    )
    for axes in grid.flat[len(forms) :]:
        axes.remove()
    for axes, (words, entries) in zip(grid.flat, forms, strict=False):
        style(axes, words, "µs, median marked, 10 % to 99 %", "")
        entries = sorted(entries, key=lambda entry: -entry["median"])
        for row, entry in enumerate(entries):
            violin(axes, row, entry, np.asarray(EDGES_US))
        axes.set_xscale("log")
        axes.set_yticks(range(len(entries)), [entry["title"] for entry in entries])
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        for text, entry in zip(axes.get_yticklabels(), entries, strict=True):
            text.set_color(colour(entry["peer"]))
            text.set_fontweight("bold" if entry["peer"] == OURS else "normal")
    finish(plt, figure, results, place / "latency.png")
    return True


def violin(axes: Any, row: int, entry: Entry, edges: np.ndarray) -> None:
    """One system: how its times are spread, over all rounds, with its 10, 50 and 99 % marked."""
    counts = np.sum([told["histogram"] for told in entry["rounds"] if "histogram" in told], axis=0)
    if not np.any(counts):
        return
    centres = np.sqrt(edges[1:] * edges[:-1])
    smooth = np.convolve(counts, [1, 2, 3, 2, 1], "same") / 9
    height = 0.42 * smooth / smooth.max()
    shown = height > 0.004
    first, last = np.flatnonzero(shown)[[0, -1]]
    part = slice(first, last + 1)
    ours = entry["peer"] == OURS
    axes.fill_between(
        centres[part],
        row - height[part],
        row + height[part],
        color=colour(entry["peer"]),
        alpha=0.55 if ours else 0.3,
        linewidth=0,
    )
    share = np.cumsum(counts) / counts.sum()
    low, high = (centres[np.searchsorted(share, q)] for q in (0.1, 0.99))
    axes.plot([low, high], [row, row], color=colour(entry["peer"]), linewidth=2 if ours else 1)
    axes.plot(entry["median"], row, "o", color=colour(entry["peer"]), markersize=7 if ours else 5)
    axes.annotate(
        number(entry["median"]),
        (entry["median"], row),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        fontweight="bold" if ours else "normal",
    )


def finish(plt: Any, figure: Any, results: dict[str, Any], path: Path) -> None:
    machine = results["machine"]
    virtual = ", virtual machine" if machine["virtual"] else ""
    figure.tight_layout(w_pad=4, h_pad=2, rect=(0, 0.035, 1, 1))
    figure.text(
        0.01,
        0.008,
        f"{machine['processor']}, {machine['cpus']} CPUs{virtual}, Linux {machine['kernel']}, "
        f"Python {machine['python']}. Rounds: {results['options']['rounds']}; medians.",
        fontsize=8,
        color="#666666",
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(results: dict[str, Any], place: Path) -> list[str]:
    """Names of the files drawn."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no pictures: pip install 'shmflow[bench]' brings matplotlib", file=sys.stderr)
        return []
    place.mkdir(parents=True, exist_ok=True)
    pictures = {"sizes": draw_sizes, "readers": draw_readers, "latency": draw_latency}
    drawn = [f"{name}.png" for name, one in pictures.items() if one(plt, results, place)]
    print(f"drawn in {place}: {', '.join(drawn) or 'nothing'}", file=sys.stderr)
    return drawn


def main() -> None:
    from results import load

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON that run.py wrote")
    parser.add_argument("place", type=Path, help="the folder they are drawn in")
    options = parser.parse_args()
    draw(load(options.results), options.place)


if __name__ == "__main__":
    main()
