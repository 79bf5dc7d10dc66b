"""Show what a topic carries: the newest image at once, then whatever follows.

Terminal 1:  python show_video.py                 # waits if there is nothing yet
Terminal 2:  python write_image.py photo.jpg, or camera.py, or anything that writes images

Without a display: python show_video.py --headless DIR --count 3 writes DIR/00001.png and so on.
A window shows the newest image and skips the rest; --headless takes all, from the oldest retained.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

import shmflow


def newest(topic: shmflow.Topic) -> Iterator[np.ndarray | None]:
    """The newest image; None when 20 ms have passed without one, so that the window can breathe."""
    while True:
        try:
            yield topic.read(timeout=0.02, latest=True, default=None)
        except shmflow.Closed:  # the writer said that this was all
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topic", default="video")
    parser.add_argument("--headless", type=Path, metavar="DIR", help="write PNG files instead")
    parser.add_argument("--count", type=int, help="end after so many images")
    args = parser.parse_args()

    with shmflow.Topic(args.topic, "r") as topic:
        if args.headless is not None:
            args.headless.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(itertools.islice(topic, args.count), 1):
                cv2.imwrite(str(args.headless / f"{number:05}.png"), image)
            return
        shown = 0
        for image in newest(topic):
            if image is not None:
                cv2.imshow(args.topic, image)  # straight from shared memory
                shown += 1
            if cv2.waitKey(1) in (27, ord("q")) or shown == args.count:
                return


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
