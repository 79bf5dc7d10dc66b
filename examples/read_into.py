"""Read a file, a pipe or a socket straight into shared memory; the last message is shorter.

Terminal 1:  python read_into.py --receive copy.bin     # as often as you like, each its own copy
Terminal 2:  python read_into.py clip.mp4               # or - for standard input, or host:port

A loan is a buffer: the kernel copies into the ring, and Python never sees a byte. At the end there
is less than the loan is long; then the message is as long as what came. The topic stays, and who
receives later gets it all again: `shmflow rm chunks` before the next file.
"""

import argparse
import socket
import sys
from collections.abc import Callable

import shmflow

ReadInto = Callable[[memoryview], int]  # of a file, or of a socket: how many bytes, 0 at the end

CHUNK = 1 << 20


def fill(loan: shmflow.Loan, read_into: ReadInto) -> int:
    """Bytes read: fewer than there is room for only at the end. A pipe gives a little at a time."""
    room = memoryview(loan)
    filled = 0
    while filled < len(room) and (count := read_into(room[filled:])):
        filled += count
    return filled


def send(topic: shmflow.Topic, read_into: ReadInto) -> tuple[int, int]:
    """Messages and bytes, until there is no more."""
    messages = total = 0
    while True:
        loan = topic.loan(CHUNK)
        count = fill(loan, read_into)
        if not count:
            loan.discard()
            return messages, total
        loan.publish(count)
        messages += 1
        total += count


def receive(name: str, path: str) -> None:
    total = 0
    with shmflow.Topic(name, "r") as topic, open(path, "wb") as file:
        for chunk in topic:
            total += file.write(chunk.data)
        lost = topic.lost
    print(f"{total} bytes in '{path}', {lost} messages lost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="-", help="a file, - or host:port")
    parser.add_argument("--receive", metavar="FILE", help="write what comes to FILE")
    parser.add_argument("--topic", default="chunks")
    args = parser.parse_args()

    if args.receive:
        receive(args.topic, args.receive)
        return
    host, colon, port = args.source.rpartition(":")
    # 64 chunks may wait for a reader that is slow; beyond, the oldest are lost to it.
    with shmflow.Topic(args.topic, "w", capacity=64 * CHUNK, max_message=CHUNK) as topic:
        if colon and port.isdecimal():
            with socket.create_connection((host, int(port))) as connection:
                messages, total = send(topic, connection.recv_into)
        else:
            source = sys.stdin.fileno() if args.source == "-" else args.source
            with open(source, "rb", buffering=0) as file:
                messages, total = send(topic, file.readinto)
        topic.shutdown()  # readers come to the end of their loops
    print(f"{total} bytes in {messages} messages")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
