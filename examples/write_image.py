"""Write one image into a topic and exit. The topic stays, so readers may come later.

Terminal 1:  python write_image.py photo.jpg     # without a file: a generated image
Terminal 2:  python show_video.py                # started before or after

`shmflow.unlink("video")` removes the topic when you are done with it.
"""

import argparse
import sys

import cv2
import numpy as np

import shmflow


def generated() -> np.ndarray:
    """A colour wheel, 640x480: hue is the angle, saturation the distance from the middle."""
    y, x = np.mgrid[-240:240, -320:320].astype(np.float32)
    hsv = np.empty((480, 640, 3), dtype=np.uint8)
    hsv[..., 0] = np.degrees(np.arctan2(y, x) + np.pi) / 2 % 180
    hsv[..., 1] = np.minimum(np.hypot(x, y), 255)
    hsv[..., 2] = 255
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="an image that OpenCV can read")
    parser.add_argument("--topic", default="video")
    args = parser.parse_args()

    image = generated() if args.file is None else cv2.imread(args.file)
    if image is None:
        sys.exit(f"{args.file}: OpenCV cannot read it")
    with shmflow.Topic(args.topic, "w") as topic:
        seq = topic.write(image, meta={"encoding": "bgr8"})
    print(f"message {seq} of '{args.topic}': {image.shape[1]}x{image.shape[0]}")


if __name__ == "__main__":
    main()
