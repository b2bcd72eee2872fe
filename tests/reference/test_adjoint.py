"""The symbolic adjoint, run token by token, equals autograd through the forward interpreter."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_table import SPECS, from_text, recurrence
from samples import draw, draw_states
from strategies import recurrence_of, specs

from seqgen.reference import adjoint, interpreter


def assert_same_gradients(op, tensors, states, tolerance=1e-10):
    """Both ways to the gradients of a random functional of all results."""
    for value in (*tensors.values(), *states.values()):
        value.requires_grad_(True)
    outputs, finals = interpreter.run(op, tensors, states)
    finals = {n: f for n, f in finals.items() if n != "position"}
    generator = torch.Generator().manual_seed(7)
    results = [*outputs.items(), *finals.items()]
    assert all(torch.isfinite(value).all() for _, value in results)
    cotangents = [torch.randn(v.shape, generator=generator, dtype=v.dtype) for _, v in results]
    given = [*tensors.values(), *states.values()]
    functional = sum((value * d).sum() for (_, value), d in zip(results, cotangents, strict=True))
    wanted = torch.autograd.grad(functional, given, allow_unused=True)
    wanted = [torch.zeros_like(x) if w is None else w for w, x in zip(wanted, given, strict=True)]

    d_outputs = dict(zip(outputs, cotangents[: len(outputs)], strict=True))
    d_finals = dict(zip(finals, cotangents[len(outputs) :], strict=True))
    with torch.no_grad():
        found, d_initial = adjoint.gradients(op, tensors, d_outputs, d_finals, states)
    names = [*tensors, *states]
    values = [*(found[n] for n in tensors), *(d_initial[n] for n in states)]
    for name, value, right in zip(names, values, wanted, strict=True):
        scale = max(float(right.abs().max()), 1.0)
        error = float((value - right).abs().max()) / scale
        assert error < tolerance, f"gradient of {name}: {error:.1e}"


@pytest.mark.parametrize("name", SPECS)
def test_gradients_of_the_table(name):
    op = recurrence(name)
    assert_same_gradients(op, draw(op), draw_states(op))


def test_an_absent_optional_tensor_is_never_read():
    op = recurrence("mamba1")
    assert_same_gradients(op, draw(op, absent=["z"]), draw_states(op))


def test_reverse_and_delays():
    op = from_text("""
        operator: taps
        axes: {D: 4}
        inputs: {x: [D], w: [D], g: [D]}
        state: {h: [D]}
        let: {x: silu(x)}
        update: ["h = exp(g) * h + prev(x) * w + prev(prev(x))"]
        output: {o: h + x, p: prev(h) * prev(w)}
        scan: {order: reverse}
        """)
    assert_same_gradients(op, draw(op), draw_states(op))


def test_ties_are_split_as_torch_does():
    op = from_text("""
        operator: ties
        axes: {D: 4}
        inputs: {x: [D], y: [D]}
        state: {h: [D]}
        update: ["h = h + max(x, y) * clamp(x, 0, 1)"]
        output: {o: "amax(x, D) * amax(max(x, y), D) + min(h, y)"}
        """)
    tensors = {"x": torch.ones(1, 2, 3), "y": torch.ones(1, 2, 3)}
    tensors["y"][0, 1] = 2.0
    tensors = {name: value.double() for name, value in tensors.items()}
    assert_same_gradients(op, tensors, {"h": torch.ones(1, 3, dtype=torch.float64)})


def test_a_zero_decay_has_gradient_zero():
    op = recurrence("gla")
    tensors = draw(op)
    tensors["g"][:, 2] = -torch.inf
    d_o = torch.randn_like(tensors["v"])
    found, _ = adjoint.gradients(op, tensors, {"o": d_o}, {})
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    assert (found["g"][:, 2] == 0).all()


def test_the_untaken_branch_may_overflow():
    op = from_text("""
        operator: guarded
        axes: {D: 4}
        inputs: {x: [D], y: [D]}
        state: {h: [D]}
        update: ["h = h + where(x > 5, y, y * exp(x) / (1 + exp(-x)))"]
        output: {o: h}
        """)
    x = torch.tensor([[[1e4, 1.0, -1e4, 6.0]]], dtype=torch.float64)
    tensors = {"x": x, "y": torch.full_like(x, 2.0)}
    found, _ = adjoint.gradients(op, tensors, {"o": torch.ones_like(x)}, {})
    s = torch.sigmoid(torch.tensor(1.0, dtype=torch.float64))
    e = torch.e
    slope = 2.0 * (e * s + e * s * (1 - s))
    assert torch.isfinite(found["x"]).all()
    assert found["x"][0, 0].tolist() == pytest.approx([0.0, float(slope), 0.0, 0.0])
    assert found["y"][0, 0].tolist() == pytest.approx([1.0, float(e * s), 0.0, 1.0])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs(), st.booleans())
def test_gradients_of_random_specs(text, absent):
    op = recurrence_of(text)
    sizes = {axis.name: axis.size for axis in op.axes}
    tensors = draw(op, batch=1, length=3, sizes=sizes, absent=["zh", "zv"] if absent else [])
    assert_same_gradients(op, tensors, draw_states(op, 1, sizes=sizes), tolerance=1e-8)


@pytest.mark.parametrize("name", ["abc", "rwkv4", "mlstm", "mamba3", "ttt_minibatch"])
def test_gradients_from_the_states_of_a_fresh_sequence(name):
    op = recurrence(name)  # some of these start at -inf
    assert_same_gradients(op, draw(op), {})
