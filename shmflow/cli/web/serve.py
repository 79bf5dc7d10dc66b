"""The socket, the server, and its end.

Owns: which port, the address that is printed, the browser that is opened, Ctrl-C. The server runs
in the main thread until a signal ends it; nothing is waited for then, for streams have no end.

1. The address does not appear in a command line, where other users could read its token: the
   browser is given a private file that leads there.
"""

from __future__ import annotations

import contextlib
import errno
import html
import logging
import os
import signal
import socket
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import click
import uvicorn

from shmflow.cli.leaving import ENDS
from shmflow.cli.web.app import Site
from shmflow.cli.web.guard import Guard, is_loopback, new_token

PORT = 8407
PATIENCE = 5.0  # s, with who connects and asks nothing: any user of the machine can
SEND_BUFFER = 128 * 1024  # bytes: what is under way to a slow browser is old when it arrives


class Server(uvicorn.Server):  # type: ignore[misc]
    """Ends at the first signal, with all its connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._silent: dict[Any, float] = {}  # connections without a question, since when

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second. Descriptors are few: who keeps silent does not keep one."""
        now = time.monotonic()
        silent = [c for c in self.server_state.connections if getattr(c, "cycle", None) is None]
        self._silent = {c: self._silent.get(c, now) for c in silent}
        for connection, since in self._silent.items():
            if now - since > PATIENCE and connection.transport is not None:
                connection.transport.abort()
        ends: bool = await super().on_tick(counter)
        return ends

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        _quiet()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await super().shutdown(sockets)


def listen(host: str, port: int | None) -> socket.socket:
    """A socket at that port; without one at PORT, or, if that is taken, at any that is free."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, PORT if port is None else port, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise click.ClickException(
            f"--host {host}: {error.strerror}; give an address of this machine, or leave it out"
        ) from None
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        try:
            sock.bind(address)
        except OSError as error:
            if port is not None or error.errno != errno.EADDRINUSE:
                raise
            sock.bind((address[0], 0, *address[2:]))
        sock.listen(64)
    except OSError as error:
        sock.close()
        what = f"cannot listen on {host}:{PORT if port is None else port}: {error.strerror}"
        advice = {
            errno.EADDRINUSE: "end what listens there, give another --port, or leave it out: then "
            "a free one is taken",
            errno.EACCES: "ports below 1024 are for root: give another --port",
            errno.EADDRNOTAVAIL: "give an address of this machine, or leave --host out",
        }.get(error.errno or 0, "leave --host and --port out")
        raise click.ClickException(f"{what}; {advice}") from None
    return sock


def address_of(host: str, port: int, token: str) -> str:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/{token}/"


@contextlib.contextmanager
def browser(url: str) -> Iterator[None]:
    """Opens it where there is a desktop; the file that leads there is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="shmflow-view-") as folder:  # 0700
        path = os.path.join(folder, "open.html")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0; url={html.escape(url)}">\n')
        webbrowser.open(f"file://{path}")
        yield


def has_desktop() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _quiet() -> None:
    """What connections say when they are cut off interests nobody."""
    logging.getLogger("uvicorn.error").disabled = True


def _ended(number: int, frame: FrameType | None) -> None:
    _quiet()
    sys.exit(128 + number)


def run(names: Sequence[str] | None, host: str, port: int | None, fps: float, open_: bool) -> None:
    """Serves until Ctrl-C. Prints the address, and nothing else, to standard output."""
    for number in ENDS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _ended)  # so that what is to be closed is closed
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(listen(host, port))
        number, token = sock.getsockname()[1], new_token()
        server: Server
        site = Site(names, fps, lambda: server.should_exit)
        stack.callback(site.close)
        server = Server(
            uvicorn.Config(
                Guard(site.app, token, host, number),
                lifespan="off",
                ws="none",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=30,
            )
        )
        url = address_of(host, number, token)
        if not is_loopback(host):
            click.echo(
                f"Warning: whoever reaches {host}:{number} and has the address sees the topics; "
                "what is sent is not encrypted.",
                err=True,
            )
        # A note from here on: an exception might come while asyncio begins, and leave it half made.
        signal.signal(signal.SIGINT, server.handle_exit)
        click.echo(url)
        sys.stdout.flush()
        if sys.stdout.isatty():
            click.echo("Ctrl-C ends it.", err=True)
        if open_ and has_desktop():
            stack.enter_context(browser(url))
        server.run(sockets=[sock])
