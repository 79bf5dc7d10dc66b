"""`shmflow echo`: the forms of a message, and that looking on takes nothing."""

from __future__ import annotations

import json
import pickle
import time

import numpy as np
import pytest
from shell import Running, Terminal, piped, run

import shmflow as sf


@pytest.fixture
def three(topic_name):
    """A topic with an array, a text and bytes."""
    with sf.Topic(topic_name, "w", capacity="1 MiB") as topic:
        topic.write(np.arange(6.0).reshape(2, 3), meta={"unit": "mm"}, timestamp_ns=10**18 + 5)
        topic.write("grüße".encode())
        topic.write(bytes(range(200, 256)) * 4)
    return topic_name


def test_json_has_the_array_as_it_was_sent_by_pub(topic_name, tmp_path):
    grid = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "grid.npy", grid)
    assert piped("pub", topic_name, tmp_path / "grid.npy")[0] == 0
    status, out, err = piped("echo", topic_name, "--json")
    assert (status, err) == (0, "")
    message = json.loads(out)
    assert message["array"] == grid.tolist()
    assert (message["seq"], message["dtype"], message["shape"]) == (1, "<f8", [3, 4])
    assert (message["meta"], message["lost"]) == ({"file": "grid.npy"}, 0)
    with sf.Topic(topic_name, "monitor") as monitor:
        assert message["timestamp_ns"] == monitor.peek(1).timestamp_ns and message["bytes"] == 96


def test_people_get_a_header_and_the_array_as_numpy_prints_it(three):
    status, out, _ = piped("echo", three, "--from-oldest", "-n", "3")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("#1  2001-09-") and "float64 (2, 3)  48 B" in lines[0]
    assert lines[0].endswith('{"unit": "mm"}')
    assert lines[1:3] == ["[[0. 1. 2.]", " [3. 4. 5.]]"]
    assert lines[4] == "grüße"
    assert lines[6].startswith("000000  c8 c9 ca")
    assert lines[-1] == "… 224 bytes in all"


def test_without_arrays_there_are_headers_only(three):
    status, out, _ = piped("echo", three, "--from-oldest", "-n", "3", "--no-arr")
    assert status == 0 and [line[:2] for line in out.splitlines()] == ["#1", "#2", "#3"]


def test_csv_has_numbers_stamps_and_flat_values(three):
    _, out, _ = piped("echo", three, "--from-oldest", "-n", "2", "--csv")
    first, second = out.splitlines()
    assert first == f"1,{10**18 + 5},0.0,1.0,2.0,3.0,4.0,5.0"
    assert second.endswith(",grüße")


def test_fields_are_chosen(three):
    words = ["echo", three, "--from-oldest", "-n", "2"]
    _, out, _ = piped(*words, "--field", "dtype", "--field", "shape")
    assert out == "float64\t(2, 3)\nuint8\t(7,)\n"
    _, out, _ = piped(*words, "--json", "--field", "meta")
    assert out == '{"meta":{"unit":"mm"}}\n{"meta":{}}\n'


def test_once_is_the_newest_message_and_takes_nothing(three):
    with sf.Topic(three, "r") as reader:
        reader.read()
        status, out, _ = piped("echo", three, "--once", "--field", "seq")
        assert (status, out) == (0, "3\n")
        assert reader.read_message(0).seq == 2 and reader.lost == 0


def test_it_waits_for_a_topic_takes_no_place_and_ends_with_the_stream(topic_name):
    with Running("echo", topic_name, "--field", "array") as echo:
        assert f"waiting for topic {topic_name!r}" in echo.stderr.readline()
        with sf.Topic(topic_name, "w") as topic:
            topic.write(b"first")
            assert echo.stdout.readline() == "first\n"
            assert echo.pid not in [p.pid for p in topic.participants()]
            topic.write(b"second")
            topic.shutdown()
        status, out, _ = echo.finish()
    assert (status, out) == (0, "second\n")


def test_silence_is_explained_once(topic_name):
    with sf.Topic(topic_name, "w", capacity="1 MiB") as topic:
        with Running("echo", topic_name, "-n", "1", "--no-arr") as echo:
            line = echo.stderr.readline()
            assert line.startswith("waiting: no message on") and "none was ever written" in line
            topic.write(1)
            assert echo.finish()[::2] == (0, "")


@pytest.fixture
def after_three_lost(topic_name):
    """The fifth message, to a monitor that has seen the first."""
    with sf.Topic(topic_name, "w", depth=2) as topic:
        topic.write(0)
        with sf.Topic(topic_name, "monitor", start="oldest") as monitor:
            monitor.read()
            topic.write_many(range(1, 6))
            return monitor.read_message()


def test_what_was_missed_is_told(after_three_lost):
    from shmflow.cli import echo_forms

    assert after_three_lost.lost == 3
    assert echo_forms.header(after_three_lost).endswith("lost 3 before this")
    assert echo_forms.as_json(after_three_lost, ["lost"]) == {"lost": 3}


def test_lost_messages_go_to_stderr_where_the_form_has_no_place_for_them(after_three_lost, capsys):
    from shmflow.cli.echo import form

    form((), False, True, False)(after_three_lost)
    captured = capsys.readouterr()
    assert captured.err == "lost 3 before #5\n"
    assert captured.out == f"5,{after_three_lost.timestamp_ns},4\n"


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.array([1.5, np.nan, -np.inf]), [1.5, None, None]),
        (np.array([1, 2], np.longdouble), [1.0, 2.0]),
        (np.array(1 - 2j), [1.0, -2.0]),
        (np.array([(1, 0.5)], [("a", "i4"), ("b", "f8")]), [[1, 0.5]]),
        (np.array([True]), [True]),
        (np.array([b"ab"]), ["ab"]),
        (np.array(["2020-01-02"], "M8[D]"), ["2020-01-02"]),
        (np.zeros((0, 2)), []),
    ],
)
def test_every_array_has_a_json_form(array, value):
    from shmflow.cli.echo_forms import nested

    assert json.loads(json.dumps(nested(array), allow_nan=False)) == value


def test_stamps_that_no_calendar_has_are_shown_as_numbers():
    from shmflow.cli.echo_forms import iso

    assert iso(2**63).startswith("2262-")
    assert iso(10**21) == f"{10**21} ns"


def test_ctrl_c_is_how_it_ends_unless_a_count_was_given(three):
    with Terminal("echo", topic_of(three), "--no-arr") as echo:
        echo.expect("#1 ")
        assert echo.ctrl_c() == 0
    with Terminal("echo", topic_of(three), "--no-arr", "-n", "2") as echo:
        echo.expect("#1 ")
        assert echo.ctrl_c() == 130


def topic_of(three: str) -> str:
    """A topic beside it, with one message, that is not shut down."""
    name = f"{three}.more"
    with sf.Topic(name, "w", capacity="1 MiB") as topic:
        if not topic.head:
            topic.write(b"x")
    return name


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--once", "-n", "2"], "--once is -n 1"),
        (["--csv", "--json"], "exclude each other"),
        (["--no-arr", "--field", "array"], "exclude each other"),
        (["--field", "colour"], "is not one of"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(topic_name, words, text):
    assert text in run("echo", topic_name, *words, status=2).output


def test_a_broken_topic_is_told_and_ends_it(topic_name, shm_dir):
    (shm_dir / f"shmflow.{topic_name}").write_bytes(b"nonsense" * 1000)
    status, _, err = piped("echo", topic_name, "--once")
    assert status == 1 and "is not a usable topic" in err


HOSTILE = {"\x1b[31m": "\x9b31m"}


@pytest.mark.parametrize(
    "array",
    [
        np.array(["\ud800"]),
        np.array(["\x1b[31m", "\x9b31m"]),
        np.array([b"\x1b[31m"]),
        np.frombuffer(b"one\r\x1b[31mtwo", np.uint8),
        np.frombuffer(b"one\rtwo", np.uint8),
        np.frombuffer(b"\xff" * 8, "<U1"),  # no letters
        np.frombuffer(b"\xff" * 20, [("letters", "<U2"), ("x\x1b", "f2")]),
    ],
)
def test_nothing_that_a_message_holds_ends_it_or_reaches_the_terminal(topic_name, array):
    with sf.Topic(topic_name, "w", capacity="1 MiB") as topic:
        topic.write(array, meta=HOSTILE)
        for words in ([], ["--csv"], ["--json"]):
            said = run("echo", topic_name, "--once", *words).stdout
            if words == ["--json"]:
                assert json.loads(said)["meta"] == HOSTILE
            with Terminal("echo", topic_name, "--once", *words) as echo:
                assert echo.finish() == 0
                assert not set(echo.before.replace("\r\n", "")) & set("\x1b\x9b\r")


def test_a_wait_for_a_topic_is_told_once(topic_name):
    with Running("echo", topic_name, "--field", "array") as echo:  # a warning would be an error
        assert "which is not there yet" in echo.stderr.readline()
        time.sleep(1.5)  # the core warns after one second
        with sf.Topic(topic_name, "w") as topic:
            topic.write(b"first")
            topic.shutdown()
            assert echo.finish() == (0, "first\n", "")


DAMAGED = [b"", b"{", b"[1]", b"\xff", b"5", b"{" * 5000, b'{"a":' * 200 + b"1" + b"}" * 200]


@pytest.mark.parametrize("meta", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_meta_is_told_and_the_rest_goes_on(topic_name, monkeypatch, meta):
    from shmflow import _wire
    from shmflow.cli.web.newest import Source

    with sf.Topic(topic_name, capacity="1 MiB") as topic:
        monkeypatch.setattr(_wire, "pack_meta", lambda _: meta)  # as a writer in C can
        topic.write(np.arange(3), meta={})
        monkeypatch.undo()
        if not meta:
            assert topic.read_message(0).meta == {}
            return
        message = topic.read_message(0)
        for _ in range(2):
            with pytest.raises(sf.CorruptTopic, match=r"message 1, written by pid .*no JSON"):
                message.meta  # noqa: B018
        assert message.array.tolist() == [0, 1, 2] and pickle.loads(pickle.dumps(message)).seq == 1
        topic.write(np.arange(2), meta={"good": 1})
        status, out, err = piped("echo", topic_name, "--from-oldest", "-n", "2")
        assert (status, err) == (0, "") and "meta is damaged" in out and '{"good": 1}' in out
        status, out, err = piped("echo", topic_name, "--from-oldest", "-n", "2", "--json")
        assert (status, err) == (0, "")
        first, second = map(json.loads, out.splitlines())
        assert (
            first["meta"] is None and first["array"] == [0, 1, 2] and second["meta"] == {"good": 1}
        )
        for more in (["--csv"], ["--field", "meta"]):
            status, _, err = piped("echo", topic_name, "--from-oldest", "-n", "2", *more)
            assert (status, err) == (0, "")
        monkeypatch.setattr(_wire, "pack_meta", lambda _: meta)
        topic.write(np.arange(3), meta={})
        monkeypatch.undo()
        status, out, err = piped("info", topic_name)
        assert (status, err) == (0, "") and "its meta is damaged" in out
        status, out, err = piped("info", topic_name, "--json")
        assert (status, err) == (0, "") and json.loads(out)["newest"]["meta"] is None
        source = Source(topic_name)
        newest = source.newest()
        assert newest is not None and "damaged" in str(newest.meta)
        assert newest.array.tolist() == [0, 1, 2]
        source.close()
        del newest, message


def test_json_never_has_a_nan(topic_name, monkeypatch):
    from shmflow import _wire

    def refuse(constant):
        raise AssertionError(constant)

    meta = b'{"nan": NaN, "in": [-Infinity, {"far": 1e999, "near": 1}], "text": "NaN"}'
    with sf.Topic(topic_name, "w", capacity="1 MiB") as topic:
        monkeypatch.setattr(_wire, "pack_meta", lambda _: meta)
        topic.write(np.array([np.nan, np.inf, 1]), meta={})
        monkeypatch.undo()
        for command in (["echo", topic_name, "--json", "--once"], ["info", topic_name, "--json"]):
            status, out, _ = piped(*command)
            told = json.loads(out, parse_constant=refuse)
            told = told.get("newest", told)
            assert status == 0 and told["meta"] == {
                "nan": None,
                "in": [None, {"far": None, "near": 1}],
                "text": "NaN",
            }
        status, out, _ = piped("echo", topic_name, "--once")
        assert status == 0 and "NaN," not in out
