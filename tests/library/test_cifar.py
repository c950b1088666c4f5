"""CIFAR-10's archive: a small one of the same form, served on the loopback address by a server that breaks off."""

import hashlib
import io
import re
import tarfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from course_lib import cifar, data

PER_FILE = 20
RNG = np.random.default_rng(0)
LABELS = np.tile(np.arange(10), PER_FILE * 6 // 10).reshape(6, PER_FILE)
IMAGES = RNG.integers(0, 256, (6, PER_FILE, 32, 32, 3))


def records(labels, images):
    """As the archive has them: a label, then the red, the green and the blue image, byte by byte."""
    flat = [
        bytes([label]) + b"".join(image[..., c].astype(np.uint8).tobytes() for c in range(3))
        for label, image in zip(labels, images, strict=True)
    ]
    return b"".join(flat)


def archive(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


FILES = {name: records(LABELS[i], IMAGES[i]) for i, name in enumerate([*cifar.TRAIN, *cifar.TEST])}
WHOLE = archive(FILES)


class Server(BaseHTTPRequestHandler):
    """Sends at most `most` bytes an answer, then closes; without `ranges` from the start. Keeps the Range words."""

    def __init__(self, *args, content, most, ranges, asked, **kwargs):
        self.content, self.most, self.ranges, self.asked = content, most, ranges, asked
        super().__init__(*args, **kwargs)

    def do_GET(self):
        word = self.headers.get("Range")
        self.asked.append(word)
        start = int(re.fullmatch(r"bytes=(\d+)-", word)[1]) if word and self.ranges else 0
        if start >= len(self.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.most])

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Serve a content, and make it the public archive; returns the list of Range words that were asked for."""
    servers = []

    def start(content=WHOLE, most=None, ranges=True, expected=WHOLE):
        asked = []
        handler = partial(Server, content=content, most=most or len(content), ranges=ranges, asked=asked)
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setattr(cifar, "URL", f"http://127.0.0.1:{servers[-1].server_port}/cifar-10-binary.tar.gz")
        monkeypatch.setattr(cifar, "SHA256", hashlib.sha256(expected).hexdigest())
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def local(tmp_path, monkeypatch):
    """The small archive as a file."""
    monkeypatch.setattr(cifar, "SHA256", hashlib.sha256(WHOLE).hexdigest())
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(WHOLE)
    return path


def test_images_and_labels_are_where_they_belong(local):
    d = data.cifar10(local)
    x, y = (np.concatenate(parts) for parts in zip(d.train, d.validation, strict=True))
    assert (d.train[0].shape, d.validation[0].shape, d.test[0].shape) == (
        (90, 32, 32, 3),
        (10, 32, 32, 3),
        (20, 32, 32, 3),
    )
    raw = np.rint(x * np.asarray(d.scale) + np.asarray(d.mean)).astype(int)
    found = {image.tobytes(): label for image, label in zip(raw, y, strict=True)}
    rest = zip(IMAGES[:5].reshape(-1, 32, 32, 3), LABELS[:5].ravel(), strict=True)
    assert found == {image.tobytes(): label for image, label in rest}
    assert_allclose(d.test[0] * d.scale + d.mean, IMAGES[5], atol=1e-3)
    assert_array_equal(d.test[1], LABELS[5])


def test_each_channel_has_the_training_parts_unit(local):
    x, _ = data.cifar10(local, seed=3).train
    assert x.dtype == np.float32
    assert_allclose(np.mean(x, (0, 1, 2), dtype=float), 0, atol=1e-5)
    assert_allclose(np.std(x, (0, 1, 2), dtype=float), 1, atol=1e-5)


def test_a_download_is_kept(serve, tmp_path):
    asked = serve()
    for _ in range(2):
        data.cifar10(cache=tmp_path)
    assert asked == [None]
    assert [p.name for p in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_a_broken_download_goes_on_where_it_stopped(serve, tmp_path):
    piece = len(WHOLE) // 3 + 1
    asked = serve(most=piece)
    assert data.cifar10(cache=tmp_path).test[0].shape == (20, 32, 32, 3)
    assert asked == [None, f"bytes={piece}-", f"bytes={2 * piece}-"]


def test_what_came_is_kept_when_no_try_gets_through(serve, tmp_path, monkeypatch):
    serve(most=100)
    with pytest.raises(cifar.DataError, match=r"500 bytes are kept in .*call again to go on.*cifar10\(path\)"):
        data.cifar10(cache=tmp_path)
    assert (tmp_path / "cifar-10-binary.tar.gz.part").read_bytes() == WHOLE[:500]
    asked = serve()
    data.cifar10(cache=tmp_path)
    assert asked == ["bytes=500-"]


def test_a_server_without_ranges_starts_anew(serve, tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz.part").write_bytes(b"something old")
    serve(ranges=False)
    assert data.cifar10(cache=tmp_path).train[0].shape == (90, 32, 32, 3)


def test_another_file_is_not_read_and_not_kept(serve, tmp_path):
    serve(content=WHOLE[:-1] + b"?")
    with pytest.raises(cifar.DataError, match="is not the archive of"):
        data.cifar10(cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_too_long_is_thrown_away(serve, tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz.part").write_bytes(WHOLE + b"more")
    serve()
    with pytest.raises(cifar.DataError, match="SHA-256"):
        data.cifar10(cache=tmp_path)
    assert data.cifar10(cache=tmp_path).test[1].shape == (20,)


def test_no_server_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    with pytest.raises(cifar.DataError, match=r"could not be downloaded.*fetch the file by other means"):
        data.cifar10(cache=tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        {"test_batch.bin": FILES["test_batch.bin"][:-1]},
        {"test_batch.bin": None},
    ],
    ids=["short", "missing"],
)
def test_records_of_another_form_are_refused(tmp_path, monkeypatch, spoil):
    bad = archive({name: content for name, content in {**FILES, **spoil}.items() if content is not None})
    monkeypatch.setattr(cifar, "SHA256", hashlib.sha256(bad).hexdigest())
    (tmp_path / "bad.tar.gz").write_bytes(bad)
    with pytest.raises(cifar.DataError, match="has not the records"):
        data.cifar10(tmp_path / "bad.tar.gz")


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.cifar10(tmp_path / "nowhere.tar.gz")
