"""Structure pass and chunk form together mean what the recurrence means."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from operator_table import SPECS, recurrence
from samples import draw, draw_states
from strategies import matrix_specs, recurrence_of, specs

from seqgen.passes.structure import analyse
from seqgen.reference import interpreter, normal


def assert_same(op, tensors, states, tolerance=1e-9, chunk=4):
    structure = analyse(op)
    wanted, wanted_finals = interpreter.run(op, tensors, states)
    found, finals = normal.run(structure, tensors, states, chunk)
    for name, value in found.items():
        assert value.shape == wanted[name].shape
        torch.testing.assert_close(value, wanted[name], rtol=tolerance, atol=tolerance)
    for name, value in finals.items():
        torch.testing.assert_close(value, wanted_finals[name], rtol=tolerance, atol=tolerance)
    return structure, finals


@pytest.mark.parametrize("name", SPECS)
def test_the_table(name):
    op = recurrence(name)
    assert_same(op, draw(op, length=11), draw_states(op))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(matrix_specs())
def test_random_matrix_states(text):
    op = recurrence_of(text)
    sizes = {axis.name: axis.size for axis in op.axes}
    tensors, states = draw(op, 1, 6, sizes=sizes), draw_states(op, 1, sizes=sizes)
    structure, finals = assert_same(op, tensors, states)
    assert "S" in finals, str(structure)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs())
def test_random_specs(text):
    op = recurrence_of(text)
    sizes = {axis.name: axis.size for axis in op.axes}
    assert_same(op, draw(op, 1, 4, sizes=sizes), draw_states(op, 1, sizes=sizes))
