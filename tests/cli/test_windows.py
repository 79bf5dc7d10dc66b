"""`shmflow view` in windows: what is drawn of each kind of message, keys, closing.

The windows themselves are played by a few functions: the OpenCV of the tests has none.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import shmflow

cv2 = pytest.importorskip("cv2")

from shmflow.cli import windows  # noqa: E402
from shmflow.cli.web.newest import Newest  # noqa: E402


class Screen:
    """Windows that are open, what they show, and the keys that somebody will press."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: dict[str, list[np.ndarray]] = {}
        self.open: set[str] = set()
        self.keys: Callable[[], int] = lambda: -1
        plays = {
            "namedWindow": self.make,
            "imshow": lambda title, image: self.shown[title].append(image),
            "resizeWindow": lambda title, width, height: None,
            "getWindowProperty": lambda title, what: float(title in self.open),
            "waitKey": lambda ms: self.keys(),
            "destroyAllWindows": self.open.clear,
        }
        for name, play in plays.items():
            monkeypatch.setattr(cv2, name, play)

    def make(self, title: str, flags: int) -> None:
        self.shown[title] = []
        self.open.add(title)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(monkeypatch)


def test_each_kind_of_message_makes_a_picture() -> None:
    for array in (
        np.zeros((20, 30, 3), np.uint8),
        np.zeros((20, 30), np.uint16),
        np.sin(np.arange(500.0)),
        np.full(500, np.nan),
        np.zeros((100, 3)),
        np.array([1.7e308, -1.7e308] * 9),
        np.array([np.longdouble("1e4000"), 1.0] * 9),
        np.frombuffer(b"hello\0", np.uint8),
        np.zeros(3, [("x", "f4"), ("name", "S3")]),
        np.float64(2.5).reshape(()),
    ):
        image = windows.drawn(Newest("1-1", 1, 0, 1, array, {}))
        assert image.dtype == np.uint8 and image.ndim in (2, 3)
        assert image.shape[:2] == (20, 30) if array.ndim >= 2 and len(array) == 20 else image.any()


def test_it_shows_what_comes_until_a_key_ends_it(topic_name: str, screen: Screen) -> None:
    title = f"shmflow: {topic_name}"
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as topic:
        topic.write(np.full((20, 30), 1, "u1"))
        values = itertools.cycle(range(2, 250))

        def press() -> int:
            if len(screen.shown[title]) > 4:
                return ord("q")
            topic.write(np.full((20, 30), next(values), "u1"))
            time.sleep(0.01)
            return -1

        screen.keys = press
        windows.show([topic_name], fps=1000)
        seen = [int(image[0, 0]) for image in screen.shown[title][1:]]
        assert len(seen) == 4 == len(set(seen)), "each message once"
        assert screen.open == set() and len(topic.participants()) == 1
        topic.unlink()


def test_closing_all_windows_ends_it(topic_name: str, screen: Screen) -> None:
    with (
        shmflow.Topic(topic_name, "w", capacity="1 MiB") as one,
        shmflow.Topic(f"{topic_name}/two", "w", capacity="1 MiB") as two,
    ):

        def close_one() -> int:
            screen.open.pop()
            return -1

        screen.keys = close_one
        windows.show([topic_name, f"{topic_name}/two"], fps=1000)
        one.unlink(), two.unlink()


def test_a_frame_is_saved(
    topic_name: str, screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = np.arange(600, dtype=np.uint8).reshape(10, 20, 3)
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as topic:
        topic.write(frame)
        keys = iter([ord("s"), 27])
        screen.keys = lambda: next(keys)
        windows.show([topic_name], fps=1000)
        [file] = tmp_path.glob("*.png")
        assert file.name == f"{topic_name}-1.png"
        assert (cv2.imread(str(file)) == frame).all()
        topic.unlink()


def test_ctrl_c_ends_it(topic_name: str, screen: Screen) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    screen.keys = interrupt
    with shmflow.Topic(topic_name, "w", capacity="1 MiB") as topic:
        windows.show([topic_name], fps=1000)
        assert screen.open == set()
        topic.unlink()


@pytest.mark.parametrize("value, there", [("QT5", True), ("NONE", False), ("", False)])
def test_whether_there_are_windows_is_asked_of_opencv(
    value: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"General:\n  GUI:                           {value}\n    QT: YES\n"
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: text)
    assert windows.has_windows() == there
