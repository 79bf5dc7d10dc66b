"""Three stages, each a process: source -> filter -> sink. They may be started in any order.

Terminal 1:  python numpy_pipeline.py             # starts all three and waits

or, each in a terminal of its own, in any order:

Terminal 1:  python numpy_pipeline.py --stage sink
Terminal 2:  python numpy_pipeline.py --stage filter
Terminal 3:  python numpy_pipeline.py --stage source

`shutdown()` ends a stream: its readers take what is left, then their loop just ends.
"""

import argparse
import contextlib
import subprocess
import sys

import numpy as np

import shmflow

COUNT = 200
ROOM = "64 MiB"  # for all 200 messages, so that even a late reader loses none


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).random((256, 256), dtype=np.float32)


def smooth(image: np.ndarray, out: np.ndarray) -> None:
    """The mean of every pixel's 2x2 neighbourhood; the image wraps around."""
    np.add(image, np.roll(image, 1, axis=0), out=out)
    out += np.roll(out, 1, axis=1)
    out *= 0.25


def source(name: str) -> None:
    with shmflow.Topic(f"{name}/raw", "w", capacity=ROOM) as raw:
        for number in range(COUNT):
            raw.write(picture(number), meta={"number": number})
        raw.shutdown()


def filter_(name: str) -> None:
    with (
        shmflow.Topic(f"{name}/raw", "r") as raw,
        shmflow.Topic(f"{name}/smooth", "w", capacity=ROOM) as result,
    ):
        for message in raw.messages():
            image = message.array  # where the source wrote it
            with result.loan(image.shape, image.dtype, meta=message.meta) as out:
                smooth(image, out)  # where the sink will read it
        result.shutdown()


def sink(name: str) -> None:
    expected, count = np.empty((256, 256), dtype=np.float32), 0
    with shmflow.Topic(f"{name}/smooth", "r") as result:
        for count, message in enumerate(result.messages(), 1):
            assert message.meta["number"] == count - 1, "one is missing"
            smooth(picture(count - 1), expected)
            np.testing.assert_array_equal(message.array, expected)
    assert count == COUNT, f"{count} of {COUNT} came"
    print(f"{count} images came through three processes, all of them right")
    remove(name)


def remove(name: str) -> None:
    for part in ("raw", "smooth"):
        with contextlib.suppress(shmflow.TopicNotFound):
            shmflow.unlink(f"{name}/{part}")


STAGES = {"source": source, "filter": filter_, "sink": sink}


def main() -> bool:
    """Has one of them failed?"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=STAGES, help="run this one only")
    parser.add_argument("--name", default="pipeline", help="what the topics' names begin with")
    args = parser.parse_args()
    if args.stage:
        STAGES[args.stage](args.name)
        return False
    command = [sys.executable, __file__, "--name", args.name, "--stage"]
    stages = [subprocess.Popen([*command, stage]) for stage in STAGES]
    try:
        failed = any(stage.wait() for stage in stages)
    finally:  # one failed, or Ctrl-C: the others would wait for what does not come
        for stage in stages:
            stage.terminate()
        for stage in stages:
            stage.wait()
        remove(args.name)  # else the next run would begin with what is left of this one
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
