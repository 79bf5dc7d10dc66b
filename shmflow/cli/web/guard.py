"""Who may see the page: whoever has the address, by an address that no stranger can lend.

Owns the token, the check of the Host header, and the headers of every answer. Does not know what
is served.

The page is reachable by every user of the machine, and by every web page that the user's browser
has open; topics are private. So:

1. The address holds a random token, as the first part of the path: /TOKEN/. Without it everything
   is 403. It stays in the path and does not become a cookie: cookies of 127.0.0.1 go to all ports,
   that is, also to a server of another user there, and two views would overwrite each other's.
   Nothing is loaded from elsewhere, and no Referer is sent, so the path goes nowhere.
2. The Host header must name this address: else a name of a stranger that was made to resolve to
   127.0.0.1 (DNS rebinding) would let a page of that name read from here. 421 otherwise.
3. Nothing is shared with other origins; nothing may be loaded from, or framed by, them.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = [
    (b"content-security-policy",
     b"default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
     b"form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]  # fmt: skip


def new_token() -> str:
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


class Guard:
    """Lets through what has the token and the right Host; the token is taken out of the path."""

    def __init__(self, app: App, token: str, host: str, port: int) -> None:
        self._app = app
        self._token = token
        self._port = port
        given = _address(host)
        self._wild = given is not None and given.is_unspecified
        names = {"127.0.0.1", "localhost"}
        names.add(f"[{host}]" if ":" in host else host.lower())
        if self._wild:
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._names = names

    def admits_host(self, header: str) -> bool:
        """One of the names, with the port (80: without it, as browsers leave it out). Where any
        address is listened on, any address in figures: what is no name cannot be made to point
        elsewhere."""
        asked = header.strip().lower()
        if self._port == 80 and not asked.endswith(":80"):
            asked += ":80"
        name, colon, port = asked.rpartition(":")
        if not colon or port != str(self._port):
            return False
        return name in self._names or (self._wild and _address(name) is not None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSocket is spoken here
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send)
        hosts = [value for key, value in scope["headers"] if key == b"host"]
        if len(hosts) != 1 or not self.admits_host(hosts[0].decode("latin-1")):
            await _refuse(send, 421, "This address is not one that shmflow view listens on.")
            return
        _, _, rest = scope["path"].partition("/")
        token, slash, path = rest.partition("/")
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            await _refuse(
                send, 403, "Open the whole address that shmflow view has printed, with its token."
            )
            return
        if not slash:
            await _refuse(send, 307, "", [(b"location", f"/{self._token}/".encode())])
            return
        inner = dict(scope) | {"path": "/" + path, "raw_path": b"/" + path.encode()}
        await self._app(inner, receive, send)


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    return sending


async def _refuse(
    send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    kind = (b"content-type", b"text/plain; charset=utf-8")
    end = (b"connection", b"close")  # a stranger keeps no descriptor
    await send(
        {"type": "http.response.start", "status": status, "headers": [kind, end, *(headers or [])]}
    )
    await send({"type": "http.response.body", "body": text.encode() + b"\n"})
