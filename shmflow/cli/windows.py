"""Topics in windows of OpenCV.

Owns the windows, their keys and their end. What is no picture is drawn as a plot or as text.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import click
import cv2
import numpy as np

from shmflow._core import _guard
from shmflow._errors import Error
from shmflow.cli.pictures import Array, Choice, Picture, encode, kind_of, picture
from shmflow.cli.web.newest import Newest, Source
from shmflow.cli.web.readings import bytes_, plot, table, text

CHOICE = Choice()
LONGEST = 1920
INK, PAPER = 225, 24
COLOURS = ((230, 170, 60), (60, 190, 250), (120, 210, 110), (180, 120, 240))


def has_windows() -> bool:
    """Whether this OpenCV was built with a user interface; opens nothing."""
    for line in cv2.getBuildInformation().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "GUI":
            return value.strip() not in ("", "NONE")
    return False


def written(lines: Sequence[str]) -> Picture:
    """Lines of text as a picture."""
    sheet = np.full((20 * min(len(lines), 40) + 20, 760, 3), PAPER, np.uint8)
    for i, line in enumerate(lines[:40]):
        plain = line.encode("ascii", "replace").decode()
        cv2.putText(
            sheet, plain, (10, 24 + 20 * i), cv2.FONT_HERSHEY_PLAIN, 1.0, (INK, INK, INK), 1,
            cv2.LINE_AA,
        )  # fmt: skip
    return sheet


def plotted(array: Array) -> Picture:
    """The lines of a plot, in the colours of the house."""
    told = plot(array, CHOICE)
    sheet = np.full((360, 760, 3), PAPER, np.uint8)
    low, high = told["low"], told["high"]
    if low is None:
        return written(["no finite value"])
    span = (high / 2 - low / 2) or 1.0  # halves: the distance of two floats may be no float
    for i, line in enumerate(told["lines"]):
        xs = np.linspace(10, 750, len(line))
        ys = [None if v is None else 330 - 300 * ((v / 2 - low / 2) / span) for v in line]
        points = [[x, y] for x, y in zip(xs, ys, strict=True) if y is not None]
        path = np.rint(np.array(points)).astype(np.int32).reshape(-1, 1, 2)
        cv2.polylines(sheet, [path], False, COLOURS[i % len(COLOURS)], 1, cv2.LINE_AA)
    label = f"{low:.6g} to {high:.6g}, {told['length']} values"
    cv2.putText(
        sheet, label, (10, 352), cv2.FONT_HERSHEY_PLAIN, 1.0, (INK, INK, INK), 1, cv2.LINE_AA
    )
    return sheet


def drawn(newest: Newest) -> Picture:
    """Any message as a picture."""
    array, choice = newest.array, CHOICE.with_meta(newest.meta)
    kind = kind_of(array.dtype, array.shape)
    if kind == "image":
        return picture(array, choice, LONGEST)
    if kind == "plot":
        return plotted(array)
    if kind == "bytes":
        return written(bytes_(array)["hex"])
    if kind == "table":
        fields = table(array)["fields"]
        return written([f"{f['name']}: {', '.join(f['values'][:4])}" for f in fields])
    return written(text(array)["text"].splitlines())


def save(source: Source) -> None:
    newest = source.newest()
    if newest is None:
        return
    file = f"{source.name.replace('/', '-')}-{newest.seq}.png"
    with open(file, "wb") as out:
        out.write(encode(drawn(newest), "png"))
    click.echo(f"saved {file}")


def is_open(title: str) -> bool:
    try:
        return bool(cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1)
    except cv2.error:  # with the last window Qt's part of OpenCV has gone
        return False


def show(names: Sequence[str], fps: float) -> None:
    """A window per topic, until all are closed, q, Esc or Ctrl-C."""
    _guard()  # as in Watch
    sources = {f"shmflow: {name}": Source(name) for name in names}
    versions = dict.fromkeys(sources, "")
    with contextlib.ExitStack() as stack:
        stack.callback(cv2.destroyAllWindows)
        for source in sources.values():
            stack.callback(source.close)
        for title, source in sources.items():
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.imshow(title, written([f"{source.name}: nothing came yet"]))
        stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        while True:
            start = time.monotonic()
            for title, source in list(sources.items()):
                if not is_open(title):
                    del sources[title]
                    continue
                with contextlib.suppress(Error, OSError):  # removed, or damaged: the last one stays
                    newest = source.newest()
                    if newest is not None and newest.version != versions[title]:
                        if not versions[title]:
                            image = drawn(newest)
                            scale = min(1.0, 1280 / image.shape[1])
                            cv2.resizeWindow(
                                title, int(image.shape[1] * scale), int(image.shape[0] * scale)
                            )
                        versions[title] = newest.version
                        cv2.imshow(title, drawn(newest))
            if not sources:
                return
            left = start + 1 / fps - time.monotonic()
            key = cv2.waitKey(max(1, int(left * 1000))) & 0xFF
            if key in (ord("q"), 27):
                return
            if key == ord("s"):
                for source in sources.values():
                    save(source)
