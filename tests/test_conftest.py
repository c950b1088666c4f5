"""The guards of conftest.py do guard."""

import csv
from dataclasses import FrozenInstanceError
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from course_lib.curvature.matrices import fisher, fisher_mc
from course_lib.likelihoods import Categorical, Normal
from course_lib.models import Model

CLAIMS = Path(__file__).parent.parent / "docs" / "CLAIMS.csv"
LINEAR = Model(lambda w, x: x @ w, Normal())


def test_every_marked_claim_is_in_the_list(request):
    known = {row["id"] for row in csv.DictReader(CLAIMS.read_text(encoding="utf-8").splitlines())}
    marked = {id for item in request.session.items for mark in item.iter_markers("claim") for id in mark.args}
    assert marked <= known, f"not in {CLAIMS.name}: {sorted(marked - known)}"


def test_arrays_are_float64():
    assert jnp.ones(1).dtype == jnp.float64


def test_a_key_used_twice_is_an_error():
    key = jax.random.key(0)
    jax.random.normal(key)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.random.normal(key)


def test_a_key_given_to_two_estimates_is_an_error():
    """The matrices are compiled: the guard must see through jit."""
    key = jax.random.key(0)
    fisher_mc(LINEAR, jnp.ones((2, 1)), (jnp.ones((3, 2)), None), key)
    with pytest.raises(jax.errors.KeyReuseError):
        fisher_mc(LINEAR, jnp.ones((2, 1)), (jnp.ones((3, 2)), None), key)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: Categorical().nll(jnp.ones(3), jnp.ones(3, int)), id="a batch for one example"),
        pytest.param(lambda: Categorical().nll(jnp.ones(3), jnp.ones(())), id="a float for an integer"),
        pytest.param(lambda: Normal().nll(jnp.ones(3), jnp.ones(2)), id="two lengths for one k"),
        pytest.param(lambda: Normal().sample(jax.random.split(jax.random.key(0)), jnp.ones(3)), id="two keys for one"),
        pytest.param(lambda: Normal("one"), id="a string in a frozen dataclass"),
        pytest.param(lambda: fisher(LINEAR, jnp.ones((2, 1)), (jnp.ones((3, 2)), None), chunk_size=1.5), id="in jit"),
    ],
)
def test_a_wrong_argument_is_caught(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_a_wrong_result_is_caught():
    """Inside jit too: a likelihood whose Fisher is no square matrix breaks the (P, P) of the signature."""

    class Broken(Normal):
        def nll(self, z, y):
            return z  # not a scalar

    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        Model(lambda w, x: x @ w, Broken()).nll_one(jnp.ones((2, 1)), jnp.ones(2), jnp.ones(1))


def test_right_arguments_pass():
    assert Normal(2) == Normal(2.0)
    assert fisher(LINEAR, jnp.ones((2, 1)), (jnp.ones((3, 2)), None)).shape == (2, 2)


def test_checked_dataclasses_stay_frozen():
    with pytest.raises(FrozenInstanceError):
        Normal().scale = 2.0


def test_the_checks_can_be_turned_off(shapes_unchecked):
    with pytest.raises(ValueError, match="one example"):
        Normal().nll(jnp.ones(3), jnp.ones(2))
