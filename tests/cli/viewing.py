"""What tests of `shmflow view` share: the running command, its address, questions over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SHMFLOW = [sys.executable, "-P", "-m", "shmflow"]  # -P: the installed one
LIMIT = 20  # s


class View:
    """`shmflow view --web --no-open ...` as a process of its own."""

    def __init__(self, room: Path, *options: str, web: bool = True) -> None:
        self.stderr_path = room / "view.stderr"
        env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                [*SHMFLOW, "view", *(["--web", "--no-open"] if web else []), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=env | {"PYTHONWARNINGS": "error"},
                cwd=room,
            )
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], LIMIT)[0]:
            self.close()
            raise AssertionError(f"no address in {LIMIT} s: {self.stderr}")
        self.url = self.process.stdout.readline().strip()
        if not self.url.startswith("http://"):
            self.close()
            raise AssertionError(f"{self.url!r} is no address: {self.stderr}")
        parts = urlsplit(self.url)
        self.port, self.path = parts.port, parts.path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def get(
        self, path: str = "", host: str | None = None, raw: bool = False
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers in small letters, body); `path` is taken from the token on, or `raw`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.putrequest("GET", path if raw else self.path + path, skip_host=True)
            connection.putheader("Host", f"127.0.0.1:{self.port}" if host is None else host)
            connection.endheaders()
            answer = connection.getresponse()
            headers = {key.lower(): value for key, value in answer.getheaders()}
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, _, body = self.get(path)
        assert status == 200, (status, body)
        return json.loads(body)

    def facts(self, *names: str) -> Any:
        """A sample that is taken now: one is told again for a quarter of a second."""
        time.sleep(0.3)
        return self.json("api/facts?" + "&".join(f"t={name}" for name in names))

    def interrupt(self) -> int:
        """Ctrl-C, and its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(LIMIT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Stream:
    """The pictures of a topic, as a browser takes them."""

    def __init__(self, view: View, name: str, query: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=LIMIT)
        self._connection.request("GET", f"{view.path}t/{name}/stream.mjpg?{query}")
        self._answer = self._connection.getresponse()
        kind = self._answer.getheader("content-type")
        assert kind == "multipart/x-mixed-replace; boundary=frame"
        assert self._answer.readline() == b"--frame\r\n"

    def picture(self) -> bytes:
        """The next one."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._answer.readline()
            assert line, "the stream ended"
            head += line
        length = re.search(rb"Content-Length: (\d+)", head)
        assert length is not None
        data = self._answer.read(int(length[1]))
        assert self._answer.read(11) == b"\r\n--frame\r\n"
        return data

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def wait_until(condition: Any, what: str = "it") -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {LIMIT} s"
        time.sleep(0.05)
    return value
