"""What tests of `shmflow view` share: the running command, its address, questions over HTTP."""

from __future__ import annotations

import http.client
import json
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from shell import COMMAND, PATIENCE, environment

NO_OPEN = ("view", "--web", "--no-open")


class View:
    """`shmflow view --web --no-open ...` as a process of its own; killed when the block ends."""

    def __init__(self, room: Path, *options: str, web: bool = True) -> None:
        self.stderr_path = room / "view.stderr"
        env = {k: v for k, v in environment().items() if not k.endswith("DISPLAY")}
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, *(NO_OPEN if web else ["view"]), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=env,
            )
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            self.close()
            raise AssertionError(f"no address in {PATIENCE} s: {self.stderr}")
        self.url = self.process.stdout.readline().strip()
        if not self.url.startswith("http://"):
            self.close()
            raise AssertionError(f"{self.url!r} is no address: {self.stderr}")
        parts = urlsplit(self.url)
        self.port, self.path = parts.port, parts.path

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
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

    def ctrl_c(self) -> int:
        """Ctrl-C, and its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextmanager
def view_of(folder: Path, room: Path, *options: str) -> Iterator[View]:
    """Of all topics there, for the tests of a module; it has complained of nothing at their end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHMFLOW_DIR", str(folder))
        view = View(room, "--port", "0", *options)
    with view:
        yield view
        assert (view.ctrl_c(), view.stderr) == (0, "")


class Stream:
    """The pictures of a topic, as a browser takes them."""

    def __init__(self, view: View, name: str, query: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=PATIENCE)
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
