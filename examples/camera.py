"""Capture a camera, or play a clip, straight into shared memory.

Terminal 1:  python camera.py                     # camera 0; or: python camera.py clip.mp4
Terminal 2:  python show_video.py                 # as often as you like, in as many terminals

OpenCV decodes into the array it is given, if size and type fit, and returns that very array; so the
image is never copied on its way to the readers. If it returns another one, the image is copied.
At the end of a clip the stream is shut down, and those who show it end. The topic stays for who
comes late: `shmflow rm video`.
"""

import argparse
import sys
import time

import cv2
import numpy as np

import shmflow

IMAGE = {"encoding": "bgr8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="0", help="a camera's number, or a file")
    parser.add_argument("--topic", default="video")
    parser.add_argument("--count", type=int, default=-1, help="end after so many images")
    args = parser.parse_args()

    is_camera = args.source.isdecimal()
    capture = cv2.VideoCapture(int(args.source) if is_camera else args.source)
    ok, first = capture.read()
    if not ok:
        sys.exit(f"{args.source}: OpenCV gets no image from it")
    pause = 0 if is_camera else 1 / (capture.get(cv2.CAP_PROP_FPS) or 30)

    written, copied = 1, 0
    with shmflow.Topic(args.topic, "w") as topic:
        topic.write(first, meta=IMAGE)  # the first one tells shape and type
        while written != args.count:
            time.sleep(pause)
            loan = topic.loan(first.shape, first.dtype, meta=IMAGE)
            with loan as a:
                ok, frame = capture.read(a)
                if not ok:
                    loan.discard()
                    break
                if frame is not a:  # another size or type than the first image had
                    copied += 1
                    np.copyto(a, cv2.resize(frame, (a.shape[1], a.shape[0])))
            written += 1
        topic.shutdown()  # that was all: the loops of its readers end
    print(f"{written} images written, {copied} of them copied")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
