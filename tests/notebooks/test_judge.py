"""The judge outside: what it does with the values that a hidden cell emitted, honest or forged."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nbformat.v4 import new_code_cell, new_output

from course_lib import checks
from course_lib.checks.unit_01 import kl_and_quadratic, nll_normal
from grader.judge import verdict

NAME = "01.nll_normal"


def cell(*outputs):
    metadata = {"nbgrader": {"grade_id": "hidden-nll_normal"}}
    return new_code_cell(f'probe(nll_normal, "{NAME}")', metadata=metadata, outputs=list(outputs))


def emitted(data):
    return new_output("display_data", {checks.PROBE_MIME: data})


def test_right_values_have_no_fault():
    assert verdict(cell(emitted(checks.probe_data(nll_normal, NAME)))) == ""


def test_a_warning_beside_right_values_costs_nothing():
    warning = new_output("stream", name="stderr", text="careful")
    assert verdict(cell(warning, emitted(checks.probe_data(nll_normal, NAME)))) == ""


def test_a_wrong_value_is_named():
    data = checks.probe_data(lambda z, y, scale: -nll_normal(z, y, scale), NAME)
    assert "this is the log-likelihood" in verdict(cell(emitted(data)))


def test_the_values_of_another_class_seed_are_wrong(monkeypatch):
    data = checks.probe_data(nll_normal, NAME)
    monkeypatch.setenv(checks.SEED_VARIABLE, "a secret")
    assert verdict(cell(emitted(data)))
    assert verdict(cell(emitted(checks.probe_data(nll_normal, NAME)))) == ""


def test_an_error_none_and_two_are_faults():
    good = emitted(checks.probe_data(nll_normal, NAME))
    assert "ValueError: no" in verdict(cell(new_output("error", ename="ValueError", evalue="no", traceback=[])))
    assert "0 sets" in verdict(cell())
    assert "2 sets" in verdict(cell(good, good))


@pytest.mark.parametrize(
    "forged",
    [
        "text",
        [],
        {},
        {"name": "01.score", "values": []},
        {"name": NAME},
        {"name": NAME, "values": 3},
        {"name": NAME, "values": [3]},
        {"name": NAME, "values": [["x"]]},
        {"name": NAME, "values": [[{"shape": [2], "dtype": "float64", "data": ["1"]}]]},
        {"name": NAME, "values": [[{"shape": [], "dtype": "object", "data": ["1"]}]]},
        {"name": NAME, "values": [[{"shape": [], "dtype": "nonsense", "data": ["1"]}]]},
        {"name": NAME, "values": [[{"shape": [], "dtype": "int8", "data": ["1e999"]}]]},
        {"name": "__import__('os').hidden.nll_normal", "values": []},
    ],
)
def test_what_is_no_probe_is_a_fault_and_no_crash(forged):
    assert "not its values" in verdict(cell(emitted(forged)))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    hnp.arrays(st.sampled_from([np.float64, np.float32, np.int32, np.bool_]), hnp.array_shapes(min_dims=0, max_dims=3))
)
def test_arrays_survive_the_trip(array):
    back = checks.from_json(checks.to_json(array))
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


def test_a_hidden_cell_without_a_probe_is_the_instructors_error():
    empty = cell(emitted({}))
    empty.source = "pass"
    with pytest.raises(ValueError, match="calls no probe"):
        verdict(empty)


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match="returns numbers"):
        checks.to_json(np.array("text"))


def test_check_says_so_where_there_is_no_answer_yet(capsys):
    def stub(z, y, scale):
        raise NotImplementedError

    checks.check(stub, NAME)
    assert "no answer yet" in capsys.readouterr().out


def test_check_names_the_mistake_and_shows_no_traceback():
    with pytest.raises(checks.CheckFailed, match="this is the log-likelihood") as caught:
        checks.check(lambda z, y, scale: -nll_normal(z, y, scale), NAME)
    assert caught.value._render_traceback_() == [f"✗ {caught.value}"]


def test_check_shows_both_values_where_it_knows_no_name_for_the_mistake():
    with pytest.raises(
        checks.CheckFailed, match=r"your value is wrong on the input z = \[.*it is\n0\.25\nand the right one"
    ):
        checks.check(lambda z, y, scale: jnp.array(0.25), NAME)
    with pytest.raises(checks.CheckFailed, match=r"shape \(1,\), and \(\) is asked for"):
        checks.check(lambda z, y, scale: jnp.ones(1), NAME)
    with pytest.raises(checks.CheckFailed, match=r"returns 2 value\(s\), and one value is asked for"):
        checks.check(lambda z, y, scale: (jnp.ones(()), jnp.ones(())), NAME)


def test_check_says_what_a_dictionary_and_too_few_digits_are():
    with pytest.raises(checks.CheckFailed, match="returns a dictionary, with nll"):
        checks.check(lambda z, y, scale: {"nll": nll_normal(z, y, scale)}, NAME)
    with pytest.raises(checks.CheckFailed, match=r"(?s)differs from the right one by .*e-\d\d.*difference quotient"):
        checks.check(lambda z, y, scale: nll_normal(z, y, scale) * (1 + 1e-7), NAME)


def test_a_list_of_several_values_is_as_good_as_a_tuple(capsys):
    checks.check(lambda *a: list(kl_and_quadratic(*a)), "01.kl_and_quadratic")
    assert "✓" in capsys.readouterr().out
    with pytest.raises(checks.CheckFailed, match="returns a list that is no array"):
        checks.check(lambda *a: [jnp.ones(2), jnp.ones(3)], NAME)


def test_the_value_that_is_wrong_is_named():
    with pytest.raises(
        checks.CheckFailed, match="the second value, the quadratic, is wrong on the input log_prob = a f"
    ):
        checks.check(lambda *a: (kl_and_quadratic(*a)[0], jnp.array(7.0)), "01.kl_and_quadratic")


def test_an_error_of_the_students_function_says_where_and_on_which_input():
    with pytest.raises(checks.CheckFailed, match=r"raised ZeroDivisionError: division by zero\non the input z = \["):
        checks.check(lambda z, y, scale: 1 / 0, NAME)


def test_the_line_of_a_notebooks_cell_is_quoted():
    source = "def f(z, y, scale):\n    half = 2\n    return half / 0\n"
    names: dict = {}
    exec(compile(source, "/tmp/ipykernel_1/2.py", "exec"), names)
    with pytest.raises(checks.CheckFailed, match="in line 3"):
        checks.check(names["f"], NAME)


def test_a_forgotten_return_is_named():
    with pytest.raises(checks.CheckFailed, match="returns nothing"):
        checks.check(lambda z, y, scale: None, NAME)


def test_an_exercise_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="no exercise 'nll'; it has nll_normal"):
        checks.check(nll_normal, "01.nll")
    with pytest.raises(ValueError, match=r'such as "01.score"; got \'nll_normal\''):
        checks.check(nll_normal, "nll_normal")
