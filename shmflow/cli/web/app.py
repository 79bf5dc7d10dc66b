"""What is served: the page, facts as JSON, streams of pictures, frames to keep.

Owns the routes, and the pace of a stream. Who may ask is decided before (guard.py).

1. The event loop never waits for a topic: all that copies or encodes goes through a thread.
2. A stream makes a picture when the browser has taken the one before, of the message that is the
   newest then: a slow browser gets fewer pictures, and none is queued for it.
"""

from __future__ import annotations

import importlib.resources
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import anyio
import numpy as np
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from shmflow._errors import Error
from shmflow._names import check_name
from shmflow.cli.pictures import Choice
from shmflow.cli.web.facts import Facts
from shmflow.cli.web.newest import Newest, Source, Sources

T = TypeVar("T")

PAGE = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "page.draw.js": "text/javascript",
    "page.svg": "image/svg+xml",
}
BOUNDARY = b"frame"
MOST = 64  # topics told in full at a time


def as_json(value: Any) -> Response:
    return Response(json.dumps(value, allow_nan=False), media_type="application/json")


def choice_of(request: Request) -> Choice:
    """What the page asks to see, from the query."""
    asked = request.query_params
    try:
        index = tuple(int(n) for n in asked.get("index", "").split(",") if n)
        return Choice(
            asked.get("kind", "auto"),
            asked.get("order", "auto"),
            asked.get("bayer", "auto"),
            asked.get("range", "auto"),
            index[:32],
        )
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


class Site:
    """Answers about the topics with these names, or about all there are."""

    def __init__(
        self, names: Sequence[str] | None, fps: float, stopping: Callable[[], bool]
    ) -> None:
        self._names = None if names is None else frozenset(names)
        self._fps = fps
        self._stopping = stopping
        self._sources = Sources()
        self._facts = Facts(names)
        self._closed = threading.Event()
        self._tidy = threading.Thread(target=self._let_go, name="tidy", daemon=True)
        self._tidy.start()
        folder = importlib.resources.files(__package__)
        self._page = {name: (folder / name).read_bytes() for name in PAGE}
        self.app = Starlette(
            routes=[
                Route("/", self.page),
                Route("/{file}", self.page),
                Route("/api/facts", self.facts),
                Route("/t/{name:path}/reading", self.reading),
                Route("/t/{name:path}/stream.mjpg", self.stream),
                Route("/t/{name:path}/picture.jpg", self.picture),
                Route("/t/{name:path}/frame.png", self.png),
                Route("/t/{name:path}/frame.npy", self.npy),
            ]
        )

    def close(self) -> None:
        """Lets go of all topics."""
        self._closed.set()
        self._tidy.join()
        self._facts.close()
        self._sources.close()

    def _let_go(self) -> None:
        """Of what nobody looks at any more: a mapping keeps the memory of a removed topic."""
        while not self._closed.wait(1.0):
            self._facts.let_go()
            self._sources.forget()

    # ---- the page and its facts ----

    async def page(self, request: Request) -> Response:
        name = request.path_params.get("file", "page.html")
        if name not in PAGE:
            raise HTTPException(404, "There is no such page.")
        return Response(self._page[name], media_type=PAGE[name])

    async def facts(self, request: Request) -> Response:
        wanted = [self._known(name) for name in request.query_params.getlist("t")[:MOST]]
        return as_json(await run_sync(self._facts.told, wanted) | {"fps": self._fps})

    # ---- messages ----

    async def reading(self, request: Request) -> Response:
        source, choice = self._source(request), choice_of(request)
        told = await self._asked(lambda: source.reading(choice))
        if request.query_params.get("after") == told["version"] != "":
            return Response(status_code=204)
        return as_json(told)

    async def picture(self, request: Request) -> Response:
        """One picture, if there is a newer one than `after`: else 204."""
        source, choice = self._source(request), choice_of(request)
        after = request.query_params.get("after", "")
        found = await self._asked(lambda: source.image(choice, after))
        if found is None:
            return Response(status_code=204)
        return Response(found[1], media_type="image/jpeg", headers={"x-version": found[0].version})

    async def stream(self, request: Request) -> Response:
        frames = self._frames(self._source(request), choice_of(request))
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY.decode()}"
        return StreamingResponse(frames, media_type=kind)

    async def png(self, request: Request) -> Response:
        source, choice = self._source(request), choice_of(request)
        found = await self._asked(lambda: source.image(choice, format="png"))
        if found is None:
            raise HTTPException(404, "There is no message that makes a picture.")
        return _download(source.name, found[0], found[1], "png", "image/png")

    async def npy(self, request: Request) -> Response:
        source = self._source(request)

        def saved() -> tuple[Newest, bytes] | None:
            found = source.newest()
            if found is None:
                return None
            file = io.BytesIO()
            np.save(file, found.array, allow_pickle=False)
            return found, file.getvalue()

        found = await self._asked(saved)
        if found is None:
            raise HTTPException(404, "There is no message.")
        return _download(source.name, found[0], found[1], "npy", "application/octet-stream")

    async def _frames(self, source: Source, choice: Choice) -> AsyncIterator[bytes]:
        """A boundary follows each picture at once: browsers show a part when it ends."""
        yield b"--" + BOUNDARY + b"\r\n"
        after = ""
        while not self._stopping():
            start = time.monotonic()
            try:
                found = await run_sync(source.image, choice, after)
            except (Error, OSError):  # the facts tell what is wrong with it
                found = None
            if found is not None:
                newest, data = found
                after = newest.version
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                yield head.encode() + data + b"\r\n--" + BOUNDARY + b"\r\n"
            await anyio.sleep(max(0.0, start + 1 / self._fps - time.monotonic()))

    # ---- what they share ----

    def _known(self, name: str) -> str:
        try:
            check_name(name)
        except ValueError as error:
            raise HTTPException(404, str(error)) from None
        if self._names is not None and name not in self._names:
            raise HTTPException(404, "This topic was not asked for on the command line.")
        return name

    def _source(self, request: Request) -> Source:
        return self._sources.of(self._known(request.path_params["name"]))

    async def _asked(self, ask: Callable[[], T]) -> T:
        try:
            result: T = await run_sync(ask)
        except (Error, OSError) as error:
            raise HTTPException(409, getattr(error, "strerror", None) or str(error)) from None
        return result


def _download(name: str, newest: Newest, data: bytes, end: str, kind: str) -> Response:
    file = f"{name.replace('/', '-')}-{newest.seq}.{end}"
    return Response(
        data, media_type=kind, headers={"content-disposition": f'attachment; filename="{file}"'}
    )
