"""The public archive of CIFAR-10 (Krizhevsky 2009), binary version: downloaded, verified, read.

Its SHA-256 is compared before anything is read, and it is read as it is: nothing is unpacked to disk or unpickled.
"""

import hashlib
import http
import http.client
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FOLDER = "cifar-10-batches-bin"
TRAIN, TEST = [f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, CHANNELS = 32, 3
RECORD = 1 + SIDE * SIDE * CHANNELS  # bytes: the label, then red, green and blue, each row by row
TRIES = 5
PIECE = 1 << 20  # bytes


class DataError(OSError):
    """Data that cannot be had or is not what it should be; the message says what to do."""


def images(archive: Path) -> tuple[Arrays, Arrays]:
    """(training, test) of a verified archive: x: (n, 32, 32, 3) uint8, y: (n,) uint8. DataError for another file."""
    verify(archive)
    return read(archive, TRAIN), read(archive, TEST)


def verify(archive: Path) -> None:
    """DataError unless the file has the public archive's SHA-256."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise DataError(f"{archive} is not the archive of {URL}: its SHA-256 is {found}, not {SHA256}")


def read(archive: Path, names: list[str]) -> Arrays:
    """(x: (n, 32, 32, 3) uint8, y: (n,) uint8) of these members, one after the other."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            data = b"".join(tar.extractfile(f"{FOLDER}/{name}").read() for name in names)  # type: ignore[union-attr]
        records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise DataError(f"{archive} has not the records of CIFAR-10's binary version: {error}") from error
    return records[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1), records[:, 0]


def downloaded(folder: Path) -> Path:
    """The archive in this folder; downloaded where it is not there, and there under its name only when it is whole."""
    archive, part = folder / URL.rpartition("/")[2], folder / (URL.rpartition("/")[2] + ".part")
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    print(f"CIFAR-10: {URL} to {archive} (170 MB, once)", flush=True)
    fetch(part)
    try:
        verify(part)
    except DataError:
        part.unlink()  # going on with it would never end well
        raise
    part.replace(archive)
    return archive


def fetch(part: Path) -> None:
    """The rest of the file after what `part` already has, in TRIES tries at most. DataError where they were too few."""
    for left in reversed(range(TRIES)):
        try:
            return go_on(part)
        except (OSError, http.client.HTTPException) as error:
            if not left:
                have = part.stat().st_size if part.exists() else 0
                raise DataError(
                    f"{URL} could not be downloaded: {error}. {have:,} bytes are kept in {part}: call again to go on "
                    "from there, or fetch the file by other means and give its path: cifar10(path)"
                ) from error


def go_on(part: Path) -> None:
    """One try. A server that sends the whole file anyway starts it anew."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(URL, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if (
            error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        ):  # nothing is left: it was whole, or never ours
            return
        raise
    with answer, part.open("ab" if answer.status == http.HTTPStatus.PARTIAL_CONTENT else "wb") as file:
        wanted = int(answer.headers["Content-Length"]) + file.tell()
        while piece := answer.read(PIECE):
            file.write(piece)
        if file.tell() < wanted:  # read() ends without an error where the connection does
            raise ConnectionError(f"the connection ended after {file.tell():,} of {wanted:,} bytes")
