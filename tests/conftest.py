"""What holds in every test: float64, no key used twice, and the array shapes in course_lib's signatures enforced.

pytest loads this file before any test module, so it stands before the first import of course_lib.
"""

import jax
import jaxtyping
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_debug_key_reuse", True)
# An int where a float is asked for is right by PEP 484 and by mypy; beartype refuses it unless told otherwise.
jaxtyping.install_import_hook("course_lib", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# The same examples in every run, and no limit on the time of one: the first call of a shape compiles.
settings.register_profile("course", derandomize=True, deadline=None, max_examples=10)
settings.load_profile("course")


@pytest.fixture
def shapes_unchecked():
    """Signatures off, as for users: what a wrong call meets then are the messages of the library itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
