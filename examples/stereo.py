"""Stereo: two cameras, each a process; a third one takes the frames that belong together.

Terminal 1:  python stereo.py                     # waits for the cameras, measures distances
Terminal 2:  python stereo.py --camera left
Terminal 3:  python stereo.py --camera right

Both cameras are triggered 30 times a second, and now and then one of them misses a frame. Frames of
the same trigger have nearly the same time stamp: `shmflow.sync` puts them together by that.
"""

import argparse

import numpy as np

import shmflow

COUNT = 300
PERIOD_NS = 33_333_333
HEIGHT, WIDTH = 120, 160
ROOM = "32 MiB"  # for all frames, so that even a late reader loses none


def scene(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH + 16), dtype=np.uint8)


def shift(number: int) -> int:
    """What a point moves by between the two images: the nearer it is, the more."""
    return 1 + number % 15


def camera(name: str, side: str) -> None:
    clock = np.random.default_rng(len(side))
    with shmflow.Topic(f"{name}/{side}", "w", capacity=ROOM) as topic:
        for number in range(COUNT):
            if number % (10 if side == "left" else 7) == 3:
                continue  # missed
            at = shift(number) if side == "right" else 0
            # A driver tells when the trigger came, to within a millisecond or two.
            stamp = (number + 1) * PERIOD_NS + int(clock.integers(0, 2_000_000))
            with topic.loan((HEIGHT, WIDTH), meta={"number": number}, timestamp_ns=stamp) as frame:
                frame[:] = scene(number)[:, at : at + WIDTH]
        topic.shutdown()


def measure(left: np.ndarray, right: np.ndarray) -> int:
    """By how many pixels the left image is shifted against the right one."""
    fits = [(left[:, at:] == right[:, : WIDTH - at]).mean() for at in range(17)]
    return int(np.argmax(fits))


def match(name: str) -> None:
    with (
        shmflow.Topic(f"{name}/left", "r") as left_camera,
        shmflow.Topic(f"{name}/right", "r") as right_camera,
    ):
        pairs = shmflow.sync([left_camera, right_camera], tolerance=0.005)
        for left, right in pairs:
            number = left.meta["number"]
            assert right.meta["number"] == number, "these are not of the same trigger"
            assert measure(left.array, right.array) == shift(number)
        print(f"{pairs.given} pairs; without a partner: {sum(pairs.dropped)} frames")
    for side in ("left", "right"):
        shmflow.unlink(f"{name}/{side}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camera", choices=("left", "right"), help="be this camera")
    parser.add_argument("--name", default="stereo", help="what the topics' names begin with")
    args = parser.parse_args()
    try:
        camera(args.name, args.camera) if args.camera else match(args.name)
    except KeyboardInterrupt:
        pass
