"""Where frames come from: a test pattern, a clip, or a camera.

Owns `Source` (what the command line asked for, plain data that travels to the process that draws),
the two things that fill a frame in place, and the beat that they keep. Knows nothing of topics and
processes.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Frame = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]

# 3x5 digits, a row per character: 7 is three pixels, 5 the outer two.
DIGITS = "75557 26227 71747 71717 55711 74717 74757 71111 75757 75717".split()
WHITE, YELLOW, CYAN, GREEN = (235, 235, 235), (16, 235, 235), (235, 235, 16), (16, 235, 16)
MAGENTA, RED, BLUE, BLACK = (235, 16, 235), (16, 16, 235), (235, 16, 16), (16, 16, 16)
BARS = (WHITE, YELLOW, CYAN, GREEN, MAGENTA, RED, BLUE, BLACK)  # blue first, as OpenCV has it


class SourceError(Exception):
    """There are no frames to be had; the text says why."""


class SourceEnd(SourceError):
    """The clip is over, and was not to be played again."""


def need_opencv(what: str) -> None:
    """Raises SourceError where there is none."""
    if importlib.util.find_spec("cv2") is None:
        raise SourceError(
            f"{what} needs OpenCV, which is not here; install it with\n"
            f"    {sys.executable} -m pip install opencv-python-headless"
        )


@dataclass(frozen=True)
class Source:
    """What to send. All None but `size` is the test pattern."""

    size: tuple[int, int] | None
    fps: float | None = None
    video: str | None = None
    camera: int | None = None
    again: bool = True  # a clip: from the beginning when it is over

    @property
    def text(self) -> str:
        if self.camera is not None:
            return f"camera {self.camera}"
        return "test pattern" if self.video is None else self.video

    @property
    def title(self) -> str:
        return self.text if self.video is None else Path(self.video).name

    def open(self) -> Painter:
        """Open it in the process that will draw. Raises SourceError."""
        return Pattern(self) if self.video is None and self.camera is None else Capture(self)


class Painter(Protocol):
    """Fills frames of one shape; `fps` None means that it sets the pace itself."""

    shape: Shape
    fps: float | None
    how: str

    def draw(self, frame: Frame, number: int) -> None: ...


class Pattern:
    """Scrolling colour bars over a grey ramp, a bouncing square, the frame's number."""

    how = "drawn in place"

    def __init__(self, source: Source) -> None:
        assert source.size is not None
        width, height = source.size
        self.shape: Shape = (height, width, 3)
        self.fps: float | None = source.fps or 30.0
        columns = np.arange(2 * width) % width
        bars = np.array(BARS, dtype=np.uint8)[columns * len(BARS) // width]
        ramp = (columns * 255 // width).astype(np.uint8)
        # Twice as wide as a frame, so that every scroll position is one slice of it.
        self.scenery = np.empty((height, 2 * width, 3), dtype=np.uint8)
        self.scenery[: height * 3 // 4] = bars
        self.scenery[height * 3 // 4 :] = ramp[:, np.newaxis]
        scale = max(1, min(height // 40, width // 64))
        self.glyphs = np.stack([_glyph(rows, scale) for rows in DIGITS])

    def draw(self, frame: Frame, number: int) -> None:
        height, width, _ = self.shape
        left = number * max(1, width // 320) % width
        frame[...] = self.scenery[:, left : left + width]
        side = max(4, height // 8)
        x = _bounce(number * max(1, width // 160), width - side)
        y = _bounce(number * max(1, height // 120), height - side)
        frame[y : y + side, x : x + side] = WHITE
        digits = [int(digit) for digit in f"{number % 1_000_000:06}"]
        plate = np.concatenate(self.glyphs[digits], axis=1)[:, :, np.newaxis]
        top, start = (height - plate.shape[0]) // 2, (width - plate.shape[1]) // 2
        frame[top : top + plate.shape[0], start : start + plate.shape[1]] = plate


def _glyph(rows: str, scale: int) -> Frame:
    bits = [[0, 0, 0, 0, 0]]
    bits += [[0, *(int(row) >> shift & 1 for shift in (2, 1, 0)), 0] for row in rows]
    bits += [[0, 0, 0, 0, 0]]
    return np.kron(np.array(bits, dtype=np.uint8) * 255, np.ones((scale, scale), dtype=np.uint8))


def _bounce(position: int, room: int) -> int:
    position %= max(1, 2 * room)
    return min(position, 2 * room - position)


class Capture:
    """A clip, or a camera, decoded by OpenCV into the frame it is given."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.how = "decoded in place"
        self.capture = self._open()
        ok, first = self.capture.read()
        if not ok or first is None or first.dtype != np.uint8 or first.ndim != 3:
            raise SourceError(f"{source.text}: OpenCV found no colour picture in it")
        self.shape: Shape = first.shape
        self.fps = source.fps
        if source.video is not None:
            self.fps = source.fps or self._property("CAP_PROP_FPS") or 30.0
            self.capture = self._open()  # from the first frame again

    def draw(self, frame: Frame, number: int) -> None:
        ok, picture = self.capture.read(frame)
        if not ok and self.source.video is not None:
            if not self.source.again:
                raise SourceEnd(f"{self.source.text} is over")
            self.capture = self._open()
            ok, picture = self.capture.read(frame)
        if not ok:
            raise SourceError(f"{self.source.text} gives no more pictures")
        if picture is not frame:  # another size or type than the first one: OpenCV made a new array
            if picture.shape != frame.shape or picture.dtype != frame.dtype:
                raise SourceError(f"{self.source.text}: the pictures' size changed")
            self.how = "copied in"
            frame[...] = picture

    def _open(self) -> Any:
        import cv2

        source = self.source
        if source.video is not None:
            capture = cv2.VideoCapture(source.video)
        else:
            assert source.camera is not None
            capture = cv2.VideoCapture(source.camera)
        if not capture.isOpened():
            raise SourceError(f"{source.text}: OpenCV cannot open it")
        if source.camera is not None and source.size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, source.size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, source.size[1])
        return capture

    def _property(self, name: str) -> float:
        import cv2

        return float(self.capture.get(getattr(cv2, name)))


def wait_until(due: float, fps: float | None) -> float:
    """Sleep until `due`; when the next frame is due. After a hiccup the beat starts afresh."""
    if fps is None:  # a camera has a beat of its own
        return due
    now = time.monotonic()
    if now < due:
        time.sleep(due - now)
    elif now - due > 5 / fps:
        due = now
    return due + 1 / fps
