"""`shmflow view --web` over HTTP: who is let in, what is told, that nobody is disturbed, its end.

Owns: a view of all topics that most tests share, and views of their own for those that need them.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cli.looking import digest, mappings_of
from cli.viewing import NO_OPEN, Stream, View, view_of
from shell import PATIENCE, Terminal, piped, until, without

import shmflow

for needed in ("starlette", "uvicorn", "PIL"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Topics of these tests alone."""
    return tmp_path_factory.mktemp("topics")


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SHMFLOW_DIR", str(folder))
    yield
    for file in folder.iterdir():
        file.unlink()


@pytest.fixture(scope="module")
def view(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[View]:
    with view_of(folder, tmp_path_factory.mktemp("view"), "--fps", "100") as view:
        yield view


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., View]]:
    """Starts one with options of its own."""
    started: list[View] = []

    def begin(*options: str, web: bool = True) -> View:
        room = tmp_path / f"view{len(started)}"
        room.mkdir()
        started.append(View(room, *options, web=web))
        return started[-1]

    yield begin
    for view in started:
        view.close()


def jpeg(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image).astype(int)


# ---- who is let in -------------------------------------------------------------------------------


def test_only_who_has_the_address_sees_anything(view: View) -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:
        topic.write(np.zeros((16, 16), "u1"))
        token = view.path.strip("/")
        assert len(token) >= 32
        ends = ("", "api/facts?t=cam", "page.js", "t/cam/reading", "t/cam/picture.jpg",
                "t/cam/stream.mjpg", "t/cam/frame.npy")  # fmt: skip
        wrong = ("/", f"/{token[:-1]}/", f"/{token}x/", f"/{token.swapcase()}/", "/%00/", "//")
        for end in ends:
            for prefix in wrong:
                status, headers, body = view.get(prefix + end, raw=True)
                assert status == 403 and b"token" in body, prefix + end
                assert "set-cookie" not in headers
            if "stream" not in end:
                assert view.get(end)[0] == 200, end
        assert view.get(f"/?token={token}", raw=True)[0] == 403
        status, headers, _ = view.get(f"/{token}", raw=True)
        assert (status, headers["location"]) == (307, f"/{token}/")


def test_a_strange_host_is_turned_away(view: View) -> None:
    port = view.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert view.get(host=host)[0] == 200, host
    for host in (f"evil.example:{port}", "127.0.0.1", "localhost", f"127.0.0.1:{port + 1}", "",
                 f"127.0.0.1.evil.example:{port}", f"10.0.0.1:{port}", f"[::1]:{port}",
                 f"127.0.0.1:{port}:{port}"):  # fmt: skip
        status, headers, body = view.get(host=host)
        assert status in (400, 421), host
        assert b"<html" not in body and "access-control-allow-origin" not in headers


def test_who_asks_nothing_or_is_refused_keeps_no_connection(start: Callable[..., View]) -> None:
    view = start("--port", "0")
    view.facts()  # it has all that it needs
    fds = Path(f"/proc/{view.pid}/fd")
    before = len(list(fds.iterdir()))
    with contextlib.ExitStack() as stack:
        for text in (
            b"",
            b"GET / HT",
            f"GET / HTTP/1.1\r\nHost: localhost:{view.port}\r\n\r\n".encode(),
        ):
            for _ in range(10):
                sock = stack.enter_context(
                    socket.create_connection(("127.0.0.1", view.port), PATIENCE)
                )
                sock.sendall(text)
        with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:  # who has the token stays
            topic.write(np.zeros((20, 20), np.uint8))
            stream = Stream(view, "cam")
            stream.picture()
            until(lambda: len(list(fds.iterdir())) <= before + 5, "the end of connections")
            time.sleep(0.5)
            topic.write(np.ones((20, 20), np.uint8))
            stream.picture()
            stream.close()
    assert view.ctrl_c() == 0 and view.stderr == ""


def test_browsers_leave_out_the_port_80() -> None:
    from shmflow.cli.web.guard import Guard

    guard = Guard(None, "token", "127.0.0.1", 80)  # type: ignore[arg-type]
    assert all(map(guard.admits_host, ("127.0.0.1", "localhost", "127.0.0.1:80", "LOCALHOST:80")))
    assert not any(map(guard.admits_host, ("", ":80", "evil", "evil:80", "127.0.0.1:81")))
    wild = Guard(None, "token", "::", 80)  # type: ignore[arg-type]
    assert all(map(wild.admits_host, ("10.0.0.1", "10.0.0.1:80", "[fe80::1]", "[fe80::1]:80")))
    assert not wild.admits_host("evil") and not wild.admits_host("10.0.0.1:81")
    guard = Guard(None, "token", "127.0.0.1", 8407)  # type: ignore[arg-type]
    assert not guard.admits_host("127.0.0.1")


def test_each_answer_keeps_other_origins_out(view: View) -> None:
    for path in ("", "page.js", "api/facts", "nothing"):
        _, headers, _ = view.get(path)
        assert headers["content-security-policy"].startswith("default-src 'self'; ")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert not [key for key in headers if key.startswith("access-control")]


def test_it_listens_on_this_machine_only(view: View) -> None:
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    ends = [line.split()[1] for line in listening.splitlines() if " 0A " in line]
    assert [end for end in ends if end.endswith(f":{view.port:04X}")] == [
        f"0100007F:{view.port:04X}"
    ]


def test_another_host_is_warned_of(start: Callable[..., View]) -> None:
    view = start("--port", "0", "--host", "0.0.0.0")
    assert "Warning: whoever reaches 0.0.0.0" in view.stderr
    name = socket.gethostname()
    for host in (f"127.0.0.1:{view.port}", f"10.1.2.3:{view.port}", f"{name}:{view.port}"):
        assert view.get(host=host)[0] == 200, host
    assert view.get(host=f"evil.example:{view.port}")[0] == 421
    assert view.get("/", raw=True)[0] == 403


def test_topics_are_those_that_were_asked_for(start: Callable[..., View]) -> None:
    with (
        shmflow.Topic("left/cam", "w", capacity="1 MiB") as one,
        shmflow.Topic("secret", "w", capacity="1 MiB") as two,
    ):
        one.write(np.zeros((16, 16), "u1"))
        two.write(np.zeros((16, 16), "u1"))
        view = start("--port", "0", "left/cam")
        assert view.json("t/left/cam/reading")["kind"] == "image"
        assert [told["name"] for told in view.json("api/facts")["topics"]] == ["left/cam"]
        for path in ("t/secret/reading", "t/secret/frame.npy", "api/facts?t=secret",
                     "t/../secret/reading", "t/.x/reading", "t/a%2F..%2Fb/reading"):  # fmt: skip
            assert view.get(path)[0] == 404, path
        assert view.get("t/left/cam/reading?order=x")[0] == 400
        assert view.get("t/left/cam/reading?index=x")[0] == 400


def test_what_is_no_name_is_no_topic(view: View) -> None:
    for path in ("t/.x/reading", "t/../x/frame.npy", "t//reading", "t/a%20b/stream.mjpg",
                 "api/facts?t=.x", "api/facts?t=", f"t/{'x' * 201}/picture.jpg"):  # fmt: skip
        assert view.get(path)[0] == 404, path
    assert view.json("t/x/reading")["kind"] == "none"


# ---- what is told --------------------------------------------------------------------------------


def test_numbers_agree_with_the_topic(view: View) -> None:
    with (
        shmflow.Topic("cam", "w", capacity="4 MiB", depth=8) as writer,
        shmflow.Topic("cam", "r") as reader,
        shmflow.Topic("cam", "r", lossless=True) as waiter,
    ):
        writer.write_many(np.zeros((8, 100_000), "u1"))
        held = [reader.read() for _ in range(3)]
        facts = view.facts("cam")
        [short], told = facts["topics"], facts["details"]["cam"]
        assert short["name"] == "cam" and short["state"] == "live"
        assert (told["head"], told["tail"], told["retained"]) == (writer.head, writer.tail, 8)
        assert (told["capacity"], told["depth"]) == (writer.capacity, writer.depth)
        rows = told["participants"]
        assert [row["lag"] for row in rows] == [0, reader.stats().lag, waiter.stats().lag]
        assert rows[1]["held_blocks"] == reader.stats().held_blocks == 3
        assert rows[1]["held_bytes"] == reader.stats().held_bytes
        assert rows[2]["lossless"]
        [blame] = told["blame"]
        assert f"pid {os.getpid()} " in blame and "the next write waits for it" in blame
        ring = told["ring"]
        assert ring["count"] == 8 == len(ring["blocks"])
        assert sorted(b[2] for b in ring["blocks"] if b[4]) == [1, 2, 3]
        del held
        writer.unlink()


@pytest.mark.parametrize(
    "array, kind, check",
    [
        (np.arange(5000.0), "plot", lambda r: len(r["lines"][0]) == 1000 and r["high"] == 4999),
        (np.array([1.0, np.nan, 3]), "plot", lambda r: r["lines"] == [[1, None, 3]]),
        (np.zeros((500, 3)), "plot", lambda r: len(r["lines"]) == 3 and r["length"] == 500),
        (b"hello\0\xff", "bytes", lambda r: r["hex"] == ["000000  68 65 6c 6c 6f 00 ff"]),
        (np.float64(2.5), "text", lambda r: r["text"] == "2.5"),
        (
            np.array([(1, 2.5)], [("n", "i4"), ("x", "f8")]),
            "table",
            lambda r: [f["values"] for f in r["fields"]] == [["1"], ["2.5"]],
        ),
    ],
)  # fmt: skip
def test_each_message_is_told_as_suits_it(
    view: View, array: object, kind: str, check: Callable[..., bool]
) -> None:
    with shmflow.Topic("t", "w", capacity="1 MiB") as topic:
        topic.write(array, meta={"unit": "m"})
        told = view.json("t/t/reading")
        assert (told["kind"], told["seq"], told["meta"]) == (kind, 1, {"unit": "m"})
        assert check(told["reading"]), told["reading"]
        assert view.get(f"t/t/reading?after={told['version']}")[0] == 204
        assert view.get("t/t/frame.png")[0] == 404


def test_a_topic_may_come_and_go(view: View) -> None:
    assert view.facts("late")["topics"] == []
    assert view.json("t/late/reading")["kind"] == "none"
    for value in (1, 2):
        with shmflow.Topic("late", "w", capacity="1 MiB") as topic:
            topic.write(np.full((16, 16), value, "u1"))
            until(lambda: view.json("api/facts?t=late")["topics"], "the topic")
            _, _, body = view.get("t/late/frame.npy")
            assert (np.load(io.BytesIO(body)) == value).all()
            topic.unlink()
        until(lambda: not view.json("api/facts?t=late")["topics"], "its end")


def test_the_rest_after_a_copy_is_not_for_another_topic_of_that_name() -> None:
    from shmflow.cli.web.newest import Source

    source = Source("t")
    try:
        for value in (1, 2):
            with shmflow.Topic("t", "w", capacity="1 MiB") as topic:
                topic.write(np.int64(value))
                found = source.newest()
                assert found is not None and found.array == value
                source._rest_until = time.monotonic() + PATIENCE
                topic.unlink()
    finally:
        source.close()


def test_a_damaged_topic_is_told_of(view: View, folder: Path) -> None:
    (folder / "shmflow.bad").write_bytes(b"x" * 10_000)
    [told] = view.facts("bad")["topics"]
    assert told["state"] == "broken" and "not a usable topic" in told["error"]
    assert view.get("t/bad/reading")[0] == 409


def test_another_file_under_the_name_between_two_samples_is_no_error(
    view: View, folder: Path
) -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:
        topic.write(np.zeros(3))
        view.facts("cam")
        (folder / "new").write_bytes(b"junk")
        (folder / "new").rename(folder / "shmflow.cam")
        assert view.get("api/facts?t=cam")[0] == 200


def test_a_stranger_s_file_is_not_told_of(view: View, folder: Path) -> None:
    (folder / "shmflow.<b> a&t").write_bytes(b"junk")
    assert view.facts()["topics"] == []


def test_letters_that_are_none_are_shown_as_bytes(view: View) -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:
        topic.write(np.frombuffer(b"\xff" * 8, "<U1"))
        assert "xff" in view.json("t/cam/reading")["reading"]["text"].lower()
        topic.write(np.frombuffer(b"\xff" * 8, [("letters", "<U2")]))
        until(lambda: view.json("t/cam/reading")["kind"] == "table", "the next message")
        [field] = view.json("t/cam/reading")["reading"]["fields"]
        assert "xff" in field["values"][0].lower()


def test_frames_are_saved_as_they_are(view: View) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:
        topic.write(frame)
        _, headers, body = view.get("t/cam/frame.npy")
        assert headers["content-disposition"] == 'attachment; filename="cam-1.npy"'
        assert (np.load(io.BytesIO(body)) == frame).all()
        _, headers, body = view.get("t/cam/frame.png")
        assert headers["content-disposition"] == 'attachment; filename="cam-1.png"'
        assert (jpeg(body) == frame[:, :, ::-1]).all()
        assert (jpeg(view.get("t/cam/frame.png?order=rgb")[2]) == frame).all()


# ---- pictures ------------------------------------------------------------------------------------


def test_a_stream_follows_the_topic(view: View) -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:
        topic.write(np.full((32, 32), 10, "u1"))
        stream = Stream(view, "cam")
        try:
            for value in (10, 120, 240):
                topic.write(np.full((32, 32), value, "u1"))
                until(lambda v=value: abs(jpeg(stream.picture()) - v).max() < 8, "the picture")
        finally:
            stream.close()


@pytest.mark.no_sanitizer("what is freed stays resident for a while")
def test_a_slow_browser_gets_fewer_pictures_and_the_newest(view: View) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (400, 600, 3), np.uint8)
    last = np.full((400, 600, 3), 77, "u1")
    with shmflow.Topic("cam", "w", capacity="8 MiB") as topic:
        topic.write(noise)
        stream, quick = Stream(view, "cam"), Stream(view, "cam")
        try:
            for shift in range(60):  # one takes each picture, the other none
                topic.write(np.roll(noise, shift + 1))
                quick.picture()
            memory, size = resident(view.pid), 0
            for shift in range(60):
                topic.write(np.roll(noise, shift + 61))
                size += len(quick.picture())
            assert size > 5_000_000, "what would have to be queued shows"
            assert resident(view.pid) - memory < size // 2
            topic.write(last)
            taken = 1
            while abs(jpeg(stream.picture()) - 77).max() > 8:
                taken += 1
            assert taken < 100
        finally:
            stream.close()
            quick.close()


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


# ---- nobody is disturbed -------------------------------------------------------------------------


def test_it_adds_no_participant_and_stores_nothing(view: View, folder: Path) -> None:
    file = folder / "shmflow.cam"
    with (
        shmflow.Topic("cam", "w", capacity="4 MiB") as writer,
        shmflow.Topic("cam", "r") as reader,
    ):
        writer.write_many(np.zeros((8, 64, 1000), "u1"))
        held = reader.read()
        before = digest(file)
        names = [(p.pid, p.mode) for p in writer.participants()]
        stream = Stream(view, "cam")
        stream.picture()
        for _ in range(5):
            assert view.facts("cam")["details"]["cam"]["head"] == 8
            view.json("t/cam/reading")
            view.get("t/cam/frame.npy")
        assert mappings_of(view.pid, file) == {"r--s"}
        assert [(p.pid, p.mode) for p in writer.participants()] == names
        assert digest(file) == before
        assert (reader.stats().lag, reader.lost) == (7, 0)
        stream.close()
        del held
        writer.unlink()


def test_what_nobody_looks_at_is_let_go_of(view: View, folder: Path) -> None:
    with shmflow.Topic("cam", "w", capacity="1 MiB") as topic:
        topic.write(np.zeros((64, 64), "u1"))
        file = folder / "shmflow.cam"
        view.facts("cam")
        view.json("t/cam/reading")
        assert mappings_of(view.pid, file)
        topic.unlink()  # nobody asks any more
        until(lambda: not mappings_of(view.pid, file), "the end of its mappings")


# ---- its end, and what is refused ----------------------------------------------------------------


def test_ctrl_c_ends_it_with_streams_open(start: Callable[..., View]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (400, 600, 3), np.uint8)
    with shmflow.Topic("cam", "w", capacity="8 MiB") as topic:
        topic.write(noise)
        view = start("--port", "0", "--fps", "100")
        streams = [Stream(view, "cam") for _ in range(3)]
        for number in range(50):  # two take each picture, the third none after the first
            topic.write(np.roll(noise, number))
            for stream in streams[: 2 if number else 3]:
                stream.picture()
        assert view.ctrl_c() == 0
        assert view.stderr == "" and view.process.stdout.read() == ""
        for stream in streams:
            stream.close()


def test_a_hang_up_ends_it_unless_it_is_ignored(start: Callable[..., View]) -> None:
    view = start("--port", "0")
    view.process.send_signal(signal.SIGHUP)
    assert view.process.wait(PATIENCE) == 129
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup
    try:
        view = start("--port", "0")
    finally:
        signal.signal(signal.SIGHUP, before)
    view.process.send_signal(signal.SIGHUP)
    assert view.facts()["topics"] == [] and view.ctrl_c() == 0


def test_in_a_terminal() -> None:
    with Terminal(*NO_OPEN, "--port", 0) as view:
        view.expect(r"http://127\.0\.0\.1:\d+/[\w-]{32}/\r\n")
        view.expect("Ctrl-C ends it")
        assert view.ctrl_c() == 0
        assert "Traceback" not in view.said


def test_a_port_that_is_taken(start: Callable[..., View]) -> None:
    first = start()
    status, out, err = piped(*NO_OPEN, "--port", first.port)
    assert (status, out) == (1, "")
    assert f"127.0.0.1:{first.port}: Address already in use; end what listens" in err
    second = start()
    assert second.port != first.port, "without --port a free one is taken"
    assert second.path != first.path, "each has a token of its own"


def test_without_a_window_it_is_the_page(start: Callable[..., View]) -> None:
    view = start(web=False)
    assert view.url.startswith("http://127.0.0.1:")
    assert view.stderr.startswith("No windows, since there is no desktop here")
    assert view.get()[0] == 200


@pytest.mark.parametrize(
    "arguments, status, text",
    [
        (["nowhere"], 1, "there is no topic at all"),
        (["a b"], 2, "is not a topic name"),
        (["--web", "--host", "192.0.2.1"], 1, "give an address of this machine"),
        (["--web", "--fps", "nan"], 2, "is not a finite number"),
        (["--web", "--port", "70000"], 2, "70000 is not in the range"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], status: int, text: str) -> None:
    got, out, err = piped("view", *arguments)
    assert (got, out) == (status, "")
    assert text in err and "Traceback" not in err


def test_a_missing_extra_is_told_with_the_line_that_installs_it() -> None:
    status, _, err = piped(*NO_OPEN, command=without("uvicorn"))
    assert status == 1 and "'shmflow[web]'" in err
    assert f"the page needs uvicorn; install it with\n    {sys.executable} -m pip" in err
