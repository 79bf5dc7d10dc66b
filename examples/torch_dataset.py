"""Train from a topic: a PyTorch IterableDataset whose samples come from another process.

Terminal 1:  python torch_dataset.py              # waits for samples, counts them in batches
Terminal 2:  python torch_dataset.py --feed       # any process that writes arrays will do

Every reader sees every message, so each DataLoader worker keeps those of its own share.
"""

import argparse
import sys

import numpy as np

import shmflow

try:
    import torch
except ImportError:
    print("skipped: no torch")
    sys.exit(0)

SAMPLES = 256


class TopicDataset(torch.utils.data.IterableDataset):
    """(image, label) from the messages of a topic, until its writer says that this was all."""

    def __init__(self, name: str) -> None:
        self.topic = shmflow.Topic(name, "r")  # travels to workers by name; each attaches anew

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        share, shares = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # A view would be read-only, which torch.from_numpy warns about: it has no such tensors.
        for message in self.topic.messages(copy=True):
            if message.seq % shares == share:
                yield torch.from_numpy(message.array), message.meta["label"]


def feed(name: str) -> None:
    rng = np.random.default_rng(0)
    with shmflow.Topic(name, "w", capacity="64 MiB") as topic:
        for number in range(SAMPLES):
            image = rng.random((3, 64, 64), dtype=np.float32)
            topic.write(image, meta={"label": number % 10})
        topic.shutdown()


def train(name: str, workers: int) -> None:
    loader = torch.utils.data.DataLoader(TopicDataset(name), batch_size=32, num_workers=workers)
    seen, mean = 0, 0.0
    for images, _labels in loader:  # your training step goes here
        seen += len(images)
        mean += float(images.sum()) / images[0].numel()
    print(f"{seen} samples, their mean is {mean / seen:.3f}")
    shmflow.unlink(name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topic", default="samples")
    parser.add_argument("--feed", action="store_true", help="be the process that writes samples")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    args = parser.parse_args()
    feed(args.topic) if args.feed else train(args.topic, args.workers)
