"""What ``shmflow pub`` sends: pieces, from files, a test pattern, a camera, or standard input.

Owns the pieces and how each kind of file becomes some. A piece that says how to fill an array is
drawn straight into the ring, one that has its data already is copied there once. Knows nothing of
topics.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import numpy as np

from shmflow.cli.frames import Source, SourceEnd, SourceError, need_opencv

PICTURES = {
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm", ".jp2"),
    *(".exr", ".hdr", ".gif"),
}
KEPT = 256 << 20  # bytes of decoded pictures that are kept for the next turn of --loop
LONGEST_LINE = 1 << 20  # of text, bytes: longer ones are sent in parts


@dataclass(frozen=True)
class Piece:
    """One message to be. Either `data`, or `fill`, which fills an array of this shape and dtype and
    says whether there was something to fill it with."""

    shape: tuple[int, ...]
    dtype: Any
    data: Any = None
    fill: Callable[[Any], bool] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)


@dataclass
class Stream:
    """What there is to send, one piece after the other; `rate` None: it has a beat of its own."""

    title: str
    pieces: Iterator[Piece]
    rate: float | None
    endless: bool = False


def painted(source: Source) -> Stream:
    """The test pattern or a camera."""
    return Stream(source.text, _frames(source), _rate_of(source), endless=True)


def _rate_of(source: Source) -> float | None:
    return (source.fps or 30.0) if source.camera is None else source.fps


def _frames(source: Source, resize: tuple[int, int] | None = None) -> Iterator[Piece]:
    """Frames without end, or until the clip's; a pace is kept by the one who takes them."""
    painter = source.open()
    meta = {"encoding": "bgr8"}
    number, over = 0, False
    shape = painter.shape if resize is None else (resize[1], resize[0], painter.shape[2])
    room = None if resize is None else np.empty(painter.shape, dtype=np.uint8)

    def fill(frame: Any) -> bool:
        nonlocal over
        try:
            painter.draw(frame if room is None else room, number)
        except SourceEnd:
            over = True
            return False
        if room is not None:
            import cv2

            cv2.resize(room, resize, dst=frame, interpolation=cv2.INTER_AREA)
        return True

    while not over:
        number += 1
        yield Piece(shape, np.dtype(np.uint8), fill=fill, meta=meta)


# ---- files ---------------------------------------------------------------------------------------


def files(
    paths: Sequence[str], rate: float | None, loop: bool, size: tuple[int, int] | None
) -> Stream:
    """Files in turn: pictures, .npy, .npz, and whatever OpenCV can play. One clip alone goes at its
    own rate, all else at 1 Hz."""
    for path in paths:  # what is not there is told before anything is sent
        if not Path(path).is_file():
            raise SourceError(f"there is no file {path!r}")
    if rate is None:
        rate = _clip_rate(paths[0]) if len(paths) == 1 and is_clip(paths[0]) else 1.0
    title = paths[0] if len(paths) == 1 else f"{len(paths)} files"
    return Stream(title, _files(paths, loop, size), rate, endless=loop)


def is_clip(path: str) -> bool:
    return Path(path).suffix.lower() not in PICTURES | {".npy", ".npz"}


def _clip_rate(path: str) -> float:
    need_opencv(path)
    return Source(None, video=path).open().fps or 30.0


def _files(paths: Sequence[str], loop: bool, size: tuple[int, int] | None) -> Iterator[Piece]:
    kept: dict[str, list[Piece]] = {}
    room = KEPT
    while True:
        for path in paths:
            if is_clip(path):
                need_opencv(path)
                yield from _frames(Source(None, video=path, again=False), size)
            elif path in kept:
                yield from kept[path]
            else:
                pieces = [_picture(path, size)] if not _is_numpy(path) else list(_arrays(path))
                cost = sum(piece.nbytes for piece in pieces)
                if loop and cost <= room:
                    kept[path], room = pieces, room - cost
                yield from pieces
        if not loop:
            return


def _is_numpy(path: str) -> bool:
    return Path(path).suffix.lower() in {".npy", ".npz"}


def _file_name(path: str) -> str:
    """For meta, which is text: what is no UTF-8 in it is replaced."""
    return os.fsencode(Path(path).name).decode(errors="replace")


def _arrays(path: str) -> Iterator[Piece]:
    """A .npy file's array, mapped; all of a .npz file's, by name."""
    name = _file_name(path)
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            yield Piece(loaded.shape, loaded.dtype, data=loaded, meta={"file": name})
            return
        with loaded:
            for key in loaded.files:
                array = loaded[key]
                if not isinstance(array, np.ndarray):
                    raise SourceError(f"{path}: {key!r} in it is no array")
                meta = {"file": name, "name": key}
                yield Piece(array.shape, array.dtype, data=array, meta=meta)
    except (ValueError, OSError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
        raise SourceError(f"{path}: NumPy cannot read it: {error}") from None


def _picture(path: str, size: tuple[int, int] | None) -> Piece:
    if importlib.util.find_spec("cv2") is not None:
        array = _read_by_opencv(path, size)
    elif importlib.util.find_spec("PIL") is not None:
        array = _read_by_pillow(path, size)
    else:
        raise SourceError(
            f"{path} needs OpenCV or Pillow, and neither is here; install one with\n"
            f"    {sys.executable} -m pip install opencv-python-headless"
        )
    meta = {"file": _file_name(path)}
    if encoding := _encoding(array):
        meta["encoding"] = encoding
    return Piece(array.shape, array.dtype, data=array, meta=meta)


def _encoding(array: Any) -> str:
    bits = {"uint8": "8", "uint16": "16"}.get(str(array.dtype))
    if bits is None:
        return ""
    channels = array.shape[2] if array.ndim == 3 else 1
    kind = {1: "mono", 3: "bgr", 4: "bgra"}.get(channels)
    return f"{kind}{bits}" if kind else ""


def _read_by_opencv(path: str, size: tuple[int, int] | None) -> Any:
    import cv2

    array = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if array is None:
        raise SourceError(f"{path}: OpenCV cannot read it as a picture")
    return array if size is None else cv2.resize(array, size, interpolation=cv2.INTER_AREA)


def _read_by_pillow(path: str, size: tuple[int, int] | None) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as file:
            plain = file.mode not in ("P", "CMYK", "YCbCr", "LAB", "HSV")
            picture = file.copy() if plain else file.convert("RGB")
        array = np.asarray(picture if size is None else picture.resize(size))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: Pillow cannot read it: {error}") from None
    if array.ndim == 3 and array.shape[2] in (3, 4):  # blue first, as OpenCV has it
        array = array[:, :, [2, 1, 0, 3][: array.shape[2]]]
    return array


# ---- standard input ------------------------------------------------------------------------------


def lines(stdin: BinaryIO, rate: float | None) -> Stream:
    """Each line of text is a message, without its newline."""

    def pieces() -> Iterator[Piece]:
        while line := stdin.readline(LONGEST_LINE):
            line = line.removesuffix(b"\n")
            yield Piece((len(line),), np.dtype(np.uint8), data=line)

    return Stream("standard input", pieces(), rate)


def raw(stdin: BufferedReader, dtype: Any, shape: tuple[int, ...], rate: float | None) -> Stream:
    """Arrays of one shape, one after the other, read straight into the ring."""

    def fill(array: Any) -> bool:
        data = memoryview(array.view(np.uint8)).cast("B")  # times are no buffers
        count = 0
        while count < len(data):
            got = stdin.readinto(data[count:])
            if not got:
                raise SourceError(
                    f"standard input ended within a message: {count} of {len(data)} bytes; "
                    "--shape and --dtype may not be those of the data"
                )
            count += got
        return True

    def pieces() -> Iterator[Piece]:
        while stdin.peek(1):
            yield Piece(shape, dtype, fill=fill)

    return Stream("standard input", pieces(), rate)
