"""The library beside other people's: float64 in torch too, and nothing collected where torch is not installed.

`make test-peers` makes the environment and runs this folder. jax's float64 is set in tests/conftest.py.
"""

import importlib.util
import warnings
from pathlib import Path

import pytest

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import torch

    torch.set_default_dtype(torch.float64)
    with warnings.catch_warnings():  # what the peers' own imports deprecate is not ours to mend
        warnings.simplefilter("ignore")
        import curvlinops  # noqa: F401
        import nngeometry  # noqa: F401


def pytest_collection_modifyitems(items):
    """Nor what torch has to say of how they use it. All other warnings are errors here too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:::torch"))
