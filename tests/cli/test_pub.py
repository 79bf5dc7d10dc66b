"""`shmflow pub`: what it sends is what is read, and what becomes of the topic."""

from __future__ import annotations

import os
import signal
import sys
import zipfile

import numpy as np
import pytest
from shell import Running, Terminal, piped, run

import shmflow as sf

cv2 = pytest.importorskip("cv2")


def read_all(name: str) -> list[sf.Message]:
    """All messages of a stream that was shut down."""
    with sf.Topic(name, "r") as topic:
        return list(topic.messages(timeout=20, copy=True))


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "picture.png"), array)
    return tmp_path / "picture.png", array


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for number in range(12):
        video.write(np.full((48, 64, 3), 20 * number, dtype=np.uint8))
    video.release()
    return path


# ---- what is sent --------------------------------------------------------------------------------


def test_arrays_and_pictures_arrive_as_they_are(topic_name, tmp_path, picture):
    grid = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "grid.npy", grid)
    np.savez(tmp_path / "two.npz", a=np.array([1, 2], ">i2"), b=np.float32(3))
    path, pixels = picture
    status, out, err = piped(
        "pub", topic_name, tmp_path / "grid.npy", tmp_path / "two.npz", path, "-r", "1000"
    )
    assert (status, out) == (0, ""), err
    assert "4 messages" in err and "from 3 files" in err and "the stream is ended" in err
    got = read_all(topic_name)
    for message, sent in zip(got, [grid, np.array([1, 2]), np.float32(3), pixels], strict=True):
        assert np.array_equal(message.array, sent)
    assert [m.meta.get("name") for m in got] == [None, "a", "b", None]
    assert got[1].array.dtype == np.dtype(">i2")
    assert got[3].meta == {"file": "picture.png", "encoding": "bgr8"}


def test_a_clip_is_decoded_frame_by_frame_and_ends(topic_name, clip):
    status, _, err = piped("pub", topic_name, clip, "-r", "1000")
    assert status == 0 and "12 messages" in err
    means = [message.array.mean() for message in read_all(topic_name)]
    assert means == pytest.approx([20 * number for number in range(12)], abs=3)


def test_a_clip_and_a_picture_come_in_the_size_asked_for(topic_name, clip, picture):
    status, _, err = piped("pub", topic_name, clip, picture[0], "--size", "40x32", "-r", "1000")
    assert status == 0, err
    assert [message.array.shape for message in read_all(topic_name)] == [(32, 40, 3)] * 13


def test_the_end_of_a_clip_is_no_message(topic_name, clip):
    status, _, err = piped("pub", topic_name, clip, *"--loop -n 25 -r 1000".split())
    assert status == 0 and "25 messages" in err
    means = [message.array.mean() for message in read_all(topic_name)]
    assert means[-16:] == pytest.approx([20 * (number % 12) for number in range(9, 25)], abs=3)


def test_loop_begins_again_until_the_count(topic_name, picture, tmp_path):
    np.save(tmp_path / "one.npy", 1)
    status, _, err = piped(
        "pub", topic_name, picture[0], tmp_path / "one.npy", *"--loop -n 5 -r 1000".split()
    )
    assert status == 0, err
    assert [message.array.ndim for message in read_all(topic_name)] == [3, 0, 3, 0, 3]


def test_a_grey_picture_without_opencv_is_read_by_pillow(topic_name, tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    from shmflow.cli import pub_sources

    grey, colour = np.zeros((32, 40), np.uint8), np.zeros((32, 40, 3), np.uint8)
    colour[:, :, 0] = 200  # blue, as OpenCV writes it
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "colour.png"), colour)
    find = pub_sources.importlib.util.find_spec
    monkeypatch.setattr(
        pub_sources.importlib.util, "find_spec", lambda name: None if name == "cv2" else find(name)
    )
    grey_piece = pub_sources._picture(str(tmp_path / "grey.png"), None)
    assert (grey_piece.shape, grey_piece.meta["encoding"]) == ((32, 40), "mono8")
    colour_piece = pub_sources._picture(str(tmp_path / "colour.png"), (20, 16))
    assert colour_piece.shape == (16, 20, 3) and (colour_piece.data[:, :, 0] == 200).all()


def test_lines_of_stdin_are_messages(topic_name):
    status, _, err = piped("pub", topic_name, "--stdin", stdin="eins\n\nzwölf".encode())
    assert status == 0, err
    got = [message.array.tobytes().decode() for message in read_all(topic_name)]
    assert got == ["eins", "", "zwölf"]


def test_raw_arrays_of_stdin_are_cut_by_their_shape(topic_name):
    data = np.arange(3 * 50 * 40, dtype="<u2").reshape(3, 50, 40)
    words = ["--stdin", "--shape", "50x40", "--dtype", "uint16"]
    status, _, err = piped("pub", topic_name, *words, stdin=data.tobytes())
    assert status == 0, err
    assert np.array_equal([message.array for message in read_all(topic_name)], data)


def test_no_input_makes_no_topic(topic_name, shm_dir):
    for words in (["--stdin"], ["--stdin", "--shape", "3"]):
        status, _, err = piped("pub", topic_name, *words)
        assert status == 1 and "there is nothing in it to send" in err
    assert not list(shm_dir.glob(f"*{topic_name}*"))


def test_raw_data_that_ends_within_an_array_is_an_error(topic_name):
    words = ["--stdin", "--shape", "50x40"]
    status, _, err = piped("pub", topic_name, *words, stdin=bytes(2001))
    assert status == 1 and "1 of 2000 bytes" in err
    assert len(read_all(topic_name)) == 1  # the stream is ended all the same


# ---- readers and the topic -----------------------------------------------------------------------


def test_it_waits_for_readers_and_they_get_the_first_message(topic_name, picture):
    with Running("pub", topic_name, picture[0], "-w", "1") as pub:
        assert pub.stderr.readline() == f"{topic_name}: 0 of 1 reader, waiting\n"
        got = read_all(topic_name)
        status, _, err = pub.finish()
    assert status == 0 and "1 reader;" in err
    assert [message.seq for message in got] == [1]


def test_what_is_there_with_readers_is_joined_as_it_is(topic_name, picture):
    with sf.Topic(topic_name, "rw", capacity="3 MiB") as there:
        there.write(1)
        status, _, err = piped("pub", topic_name, picture[0], "--keep")
        assert status == 0 and "the topic stays, open for other writers" in err
        assert there.head == 2 and not there.ended and there.generation == 1


def test_it_waits_for_readers_of_a_topic_that_is_there(topic_name, picture):
    with sf.Topic(topic_name, "rw", capacity="3 MiB") as there:
        there.write(1)
        there.read()
        status, _, err = piped("pub", topic_name, picture[0], "-w", "1", "--keep")
        assert status == 0 and "1 reader;" in err and there.head == 2


def test_other_writers_keep_the_stream(topic_name, picture):
    with sf.Topic(topic_name, "w") as there:
        there.write(1)
        status, _, err = piped("pub", topic_name, picture[0])
        assert status == 0 and "1 other writer is there" in err
        assert there.write(2) == 3


def test_an_idle_topic_that_is_too_small_is_made_anew(topic_name, tmp_path):
    with sf.Topic(topic_name, "w", capacity="1 MiB") as there:
        there.write(1)
    np.save(tmp_path / "large.npy", np.zeros(2_000_000, np.uint8))
    status, _, err = piped("pub", topic_name, tmp_path / "large.npy")
    assert status == 0, err
    assert [message.array.nbytes for message in read_all(topic_name)] == [2_000_000]


def test_ctrl_c_ends_the_pattern_and_removes_the_topic(topic_name, shm_dir):
    with Terminal("pub", topic_name, "--test-pattern", "--size", "64x48", "-r", "100") as pub:
        pub.expect(r"\d+ messages .* Hz .* 0 readers +Ctrl-C ends it")
        assert pub.ctrl_c() == 0
        assert "the stream is ended, the topic removed" in pub.said
    assert not list(shm_dir.glob(f"*{topic_name}*"))


def test_readers_drain_what_ctrl_c_ended(topic_name):
    with Running("pub", topic_name, "--test-pattern", "--size", "64x48", "-w", "1") as pub:
        with sf.Topic(topic_name, "r") as reader:
            reader.read(timeout=20)
            status, _, _ = pub.interrupt()
            left = list(reader)  # ends
            assert status == 0 and all(frame.shape == (48, 64, 3) for frame in left)


def test_ctrl_c_before_the_end_of_files_is_130(topic_name, picture, shm_dir):
    with Terminal("pub", topic_name, picture[0], picture[0], "-r", "0.01") as pub:
        pub.expect("1 message ")
        assert pub.ctrl_c() == 130
    assert not list(shm_dir.glob(f"*{topic_name}*"))


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_a_hang_up_leave_as_clean(topic_name, shm_dir, end):
    with Running("pub", topic_name, "--test-pattern", "-w", "1") as pub:
        pub.stderr.readline()
        status, _, err = pub.interrupt(end)
    assert status == 128 + end and "the topic removed" in err
    assert not list(shm_dir.glob(f"*{topic_name}*"))


def test_a_topic_that_was_there_before_survives_ctrl_c(topic_name):
    with sf.Topic(topic_name, "w", capacity="4 MiB") as there:
        there.write(7)
    with Running("pub", topic_name, "--test-pattern", "--size", "64x48", "-w", "1") as pub:
        pub.stderr.readline()
        pub.interrupt()
    assert [message.array for message in read_all(topic_name)] == [7]


def test_a_stream_that_somebody_shuts_down_is_ended(topic_name):
    with Running("pub", topic_name, "--test-pattern", "--size", "64x48", "-w", "1") as pub:
        with sf.Topic(topic_name, "r") as reader:
            reader.read(timeout=20)
            with sf.Topic(topic_name, "w", create=False) as other:
                other.shutdown()
            status, _, err = pub.finish()
    assert status == 0 and "was shut down by somebody else" in err


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ([], 2, "say one thing to send"),
        (["--stdin", "--test-pattern"], 2, "not several"),
        (["--test-pattern", "--loop"], 2, "--loop goes with files"),
        (["--test-pattern", "--shape", "3"], 2, "of raw arrays"),
        (["--stdin", "--dtype", "u1"], 2, "--dtype needs --shape"),
        (["--stdin", "--shape", "3x"], 2, "is not a shape"),
        (["--stdin", "--shape", "3", "--dtype", "nonsense"], 2, "NumPy knows no dtype"),
        (["--stdin", "--shape", "3", "--dtype", "O"], 2, "cannot be read from stdin"),
        (["--stdin", "--shape", "3", "--dtype", "f4,)"], 2, "NumPy knows no dtype"),
        (["--stdin", "--shape", "3", "--dtype", "99999999999f8"], 2, "NumPy knows no dtype"),
        (["--stdin", "--shape", "3", "--dtype", "(2,3)f4"], 2, "put them into --shape"),
        (["--test-pattern", "-r", "nan"], 2, "is not a finite number"),
        (["--test-pattern", "-r", "1e-300"], 2, "is not in the range"),
        (["--test-pattern", "--capacity", "0.5"], 2, "is out of range"),
        (["--test-pattern", "--capacity", "much"], 2, "is not a size"),
        (["absent.png"], 2, "does not exist"),
        ([__file__], 1, "OpenCV cannot open it"),
    ],
)
def test_a_wrong_line_says_what_is_wrong(topic_name, words, status, text):
    assert text in run("pub", topic_name, *words, status=status).output


def test_files_that_cannot_be_sent_say_why(topic_name, tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("read.me", "hello")
    np.save(tmp_path / "deep.npy", np.zeros((1,) * 40))
    for file, text in (
        ("cut.npz", "NumPy cannot read it"),
        ("text.npz", "'read.me' in it is no array"),
        ("deep.npy", "it cannot travel: an array of 40 dimensions"),
    ):
        status, _, err = piped("pub", topic_name, tmp_path / file)
        assert status == 1 and text in err and "Traceback" not in err, err


def test_what_a_topic_has_no_room_for_says_why(topic_name):
    line = b"x" * 500_000
    status, _, err = piped("pub", topic_name, "--stdin", stdin=b"short\n" + line + b"\n")
    assert status == 1 and err.startswith("Error: a message of 488.3 KiB does not fit")
    status, _, err = piped("pub", topic_name, "--stdin", "--shape", "9999999999,9999", stdin=b"x")
    assert status == 1 and "64 TiB at most" in err and "Traceback" not in err


def test_times_come_from_stdin_and_names_of_files_need_be_no_text(topic_name, tmp_path):
    times = np.arange(6).astype("M8[s]").reshape(2, 3)
    words = ("--stdin", "--shape", "3", "--dtype", "M8[s]")
    assert piped("pub", topic_name, *words, stdin=times.tobytes())[0] == 0
    assert [list(message.array) for message in read_all(topic_name)] == [list(t) for t in times]
    file = tmp_path / os.fsdecode(b"\xff.npy")
    np.save(file, np.zeros(3))
    assert piped("pub", topic_name, file)[0] == 0
    assert [message.meta for message in read_all(topic_name)] == [{"file": "\ufffd.npy"}]


@pytest.mark.parametrize("words", [["--camera", "0"], [__file__]])
def test_without_opencv_it_says_how_to_get_it(topic_name, monkeypatch, words):
    monkeypatch.setitem(sys.modules, "cv2", None)
    said = run("pub", topic_name, *words, status=1).stderr
    assert f"{words[0]} needs OpenCV" in said and "-m pip install opencv-python-headless" in said
