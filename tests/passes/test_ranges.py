"""Bounds: what must be provable, and that no value ever leaves its bounds."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from operator_table import from_text, recurrence
from samples import draw, draw_states
from strategies import recurrence_of, specs

from seqgen.ir.expr import Ref
from seqgen.passes.ranges import bounds
from seqgen.reference.interpreter import start

INF = math.inf


def let(definition, declared=""):
    op = from_text(f"""
        operator: one
        axes: {{H: 2}}
        inputs: {{x: {declared or "[H]"}}}
        parameters: {{A: [H], lb: {{axes: [], range: [-5, 0]}}}}
        state: {{h: [H]}}
        let: {{g: "{definition}", used: x + A + lb}}
        update: ["h = h + g * used"]
        output: {{o: h}}
        """)
    return bounds(Ref("g", ("H",)), op)


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("-exp(A) * softplus(x)", (-INF, 0.0)),
        ("logsigmoid(x)", (-INF, 0.0)),
        ("logsigmoid(x) / 16", (-INF, 0.0)),
        ("x - max(x, A)", (-INF, 0.0)),
        ("x - logaddexp(A, x)", (-INF, 0.0)),
        ("A + x - max(A, x + A)", (-INF, 0.0)),
        ("min(x, A) - x", (-INF, 0.0)),
        ("max(x, A) - x", (0.0, INF)),
        ("x - max(max(A, x), 3)", (-INF, 0.0)),
        ("sigmoid(x)", (0.0, 1.0)),
        ("2 * sigmoid(x)", (0.0, 2.0)),
        ("lb * sigmoid(exp(A) * (x + A))", (-5.0, 0.0)),
        ("log1p(-2 ** (-5 - index(H)))", (math.log1p(-(2**-5)), 0.0)),
        ("-8 / H * index(H)", (-INF, 0.0)),
        ("1 - sigmoid(x)", (0.0, 1.0)),
        ("x * x", (0.0, INF)),
        ("x * A", (-INF, INF)),
        ("clamp(x, -5, 0)", (-5.0, 0.0)),
        ("where(x > 0, -1, lb)", (-5.0, 0.0)),
        ("tanh(x) - 1", (-2.0, 0.0)),
        ("l2norm(x, H)", (-1.0, 1.0)),
        ("softmax(x, H)", (0.0, 1.0)),
        ("abs(lb)", (0.0, 5.0)),
        ("x", (-INF, INF)),
    ],
)
def test_what_can_be_proved(definition, expected):
    assert let(definition) == pytest.approx(expected)


def test_declared_ranges_and_delays():
    assert let("x + 1", "{axes: [H], range: [-2, -1]}") == (-1.0, 0.0)
    assert let("prev(x)", "{axes: [H], range: [-2, -1]}") == (-2.0, 0.0)


def test_decays_that_depend_on_states():
    op = recurrence("mlstm")
    decay = next(a for a in op.update if a.name == "fs").value
    assert bounds(decay, op) == (0.0, 1.0)
    op = recurrence("abc")
    decay = next(a for a in op.update if a.name == "g").value
    assert bounds(decay, op) == (-INF, 0.0)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs())
def test_no_value_leaves_its_bounds(text):
    op = recurrence_of(text)
    sizes = {axis.name: axis.size for axis in op.axes}
    tensors, states = draw(op, 2, 1, sizes=sizes), draw_states(op, 2, sizes=sizes)
    evaluate, inputs, parameters, before = start(op, tensors, states)
    values = parameters | {name: value[:, 0] for name, value in inputs.items()} | before
    evaluate.run(op.assignments, values)
    for assignment in op.assignments:
        low, high = bounds(assignment.value, op)
        value = values[assignment.name]
        assert torch.isnan(value).logical_or(value >= low - 1e-9).all(), assignment.equation
        assert torch.isnan(value).logical_or(value <= high + 1e-9).all(), assignment.equation
