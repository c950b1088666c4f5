"""The notebooks as they are stored."""

import nbformat
import pytest

from tools import notebooks


@pytest.fixture(scope="session")
def read():
    """Read a notebook once a session."""
    cache = {}

    def read_once(path):
        if path not in cache:
            cache[path] = nbformat.read(path, as_version=4)
        return cache[path]

    return read_once


def pytest_generate_tests(metafunc):
    """`lecture` and `exercise` are sources: a test that takes one runs for each."""
    for name, sources in (("lecture", notebooks.lectures()), ("exercise", notebooks.exercises())):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, sources, ids=lambda source: source.stem)
