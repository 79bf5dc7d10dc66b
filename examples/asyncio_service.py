"""A service on asyncio: it works on every image that comes, and answers clients meanwhile.

Terminal 1:  python asyncio_service.py            # the service, on a socket in the current folder
Terminal 2:  python asyncio_service.py --feed 100 # a source: so many images, then the end
Terminal 3:  python asyncio_service.py --ask      # a client: how many were there, how bright?

Service and source may be started in any order, the client as often as you like while the service
runs. One loop waits for messages and for sockets; no thread of Python's, no polling. Whatever
cancels `async for` loses no message.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

import shmflow


class Service:
    """What is known of the images so far."""

    def __init__(self) -> None:
        self.count, self.mean = 0, 0.0

    async def work(self, topic: shmflow.Topic) -> None:
        async for image in topic:  # ends when the source says so
            self.count += 1
            self.mean += (float(image.mean()) - self.mean) / self.count

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps({"images": self.count, "mean": round(self.mean, 2)}).encode())
        writer.close()
        await writer.wait_closed()


async def serve(name: str, path: str) -> None:
    service = Service()
    with shmflow.Topic(name, "r") as topic:
        server = await asyncio.start_unix_server(service.answer, path)
        async with server:
            await service.work(topic)
    print(f"{service.count} images, their mean is {service.mean:.2f}")
    shmflow.unlink(name)
    Path(path).unlink(missing_ok=True)  # before Python 3.13 a server leaves its socket


async def feed(name: str, count: int) -> None:
    with shmflow.Topic(name, "w", capacity="16 MiB") as topic:
        for number in range(count):
            with topic.loan((240, 320)) as image:
                image[:] = number % 256
            await asyncio.sleep(0.001)
        topic.shutdown()


async def ask(path: str) -> None:
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        sys.exit(f"no service answers at {path}: start it first, in this folder")
    print((await reader.read()).decode())
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topic", default="images")
    parser.add_argument("--socket", default="service.sock")
    parser.add_argument("--feed", type=int, metavar="COUNT", help="write so many images instead")
    parser.add_argument("--ask", action="store_true", help="ask the service instead")
    args = parser.parse_args()
    if args.feed is not None:
        asyncio.run(feed(args.topic, args.feed))
    elif args.ask:
        asyncio.run(ask(args.socket))
    else:
        asyncio.run(serve(args.topic, args.socket))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
