"""Segments in parallel give what the float64 interpreter gives token after token, in fp32."""

import dataclasses

import pytest
import torch

from seqgen.plan.scan import plan_scan
from tests.interpreted.operators import build, call, compare
from tests.interpreted.test_recurrent import SMALL, sizes_of
from tests.passes.operator_table import from_text, recurrence
from tests.reference.samples import draw, draw_states

AFFINE = ["hgrn", "mamba1", "retnet", "key_value_decay"]
LEVELS = ["mlstm", "abc", "mamba3", "slstm"]
"""States that take others: these come first."""


def module_of(op, folder):
    module = build(op, plan_scan(op), folder, **SMALL)
    module._SHORTEST = 4
    return module


def check(op, folder, length=11, batch=2, initial=True, seeds=None, borders=None, tensors=None):
    sizes = sizes_of(op)
    tensors = tensors or draw(op, batch, length, sizes=sizes)
    count = batch if borders is None else len(borders) - 1
    states = draw_states(op, count, sizes=sizes) if initial else {}
    cu_seqlens = None if borders is None else torch.tensor(borders, dtype=torch.int32)
    return compare(module_of(op, folder), op, tensors, states, cu_seqlens, seeds, 1e-5)


@pytest.mark.parametrize("name", AFFINE + LEVELS)
@pytest.mark.parametrize("length", [8, 11])
def test_whole_and_cut_segments(name, length, tmp_path):
    check(recurrence(name), tmp_path, length)


@pytest.mark.parametrize("name", AFFINE + LEVELS)
def test_packed_and_reversed(name, tmp_path):
    op = dataclasses.replace(recurrence(name), reverse=True)
    check(op, tmp_path, 16, 1, borders=[0, 5, 5, 14, 16])


@pytest.mark.parametrize("name", ["hgrn", "mlstm"])
def test_no_initial_state_and_single_seeds(name, tmp_path):
    op = recurrence(name)
    check(op, tmp_path, initial=False, seeds=[op.outputs[0].name])
    check(op, tmp_path, seeds=[f"{op.states[0].name}_final"])


def test_sequences_that_are_enough_have_no_segments(tmp_path):
    op = recurrence("hgrn")
    module = module_of(op, tmp_path)
    sizes = {"B": 8, "T": 4096, "D": 2**19, "sequences": 8}
    assert module._segments(torch.zeros(1), None, sizes, sizes["D"]) is None
    assert module._segments(torch.zeros(1), None, {**sizes, "T": 4, "D": 4}, 4) is None
    assert module._segments(torch.zeros(1), None, {**sizes, "sequences": 0}, 4) is None


RESET = """
    operator: reset
    axes: {D: 5}
    inputs: {x: [D], a: [D], r: [D]}
    state: {h: [D]}
    update: ["h = where(r > 0, 0, a) * h + x", "h = h / (1 + r * r)"]
    output: {o: h * r}
"""


def test_any_factor(tmp_path):
    """Decays above 1, negative, exactly 0; several steps of one token."""
    op = from_text(RESET)
    tensors = draw(op, 2, 13, sizes={"D": 5})
    tensors["a"] = 3.0 * tensors["a"]
    check(op, tmp_path, tensors=tensors)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_a_decay_that_overflows_leaves_zero_alone(tmp_path):
    """Over a segment exp(30) to the 4th is infinite in fp32; what it multiplies is zero."""
    op = recurrence("hgrn")
    tensors = draw(op, 1, 8, sizes={"D": 5})
    tensors["g"] = torch.full_like(tensors["g"], 30.0)
    tensors["x"][:, :6] = 0.0
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    outputs, finals = call(module_of(op, tmp_path), op, tensors, {})
    assert torch.isfinite(outputs["o"]).all() and torch.isfinite(finals["h"]).all()


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("low", [-float("inf"), -100.0])
def test_states_that_are_gone(low, tmp_path):
    """Single gates of -inf; logits of -inf before the first token that counts."""
    for name, gate in (("hgrn", "g"), ("abc", "s")):
        op = recurrence(name)
        tensors = draw(op, 1, 12, sizes=sizes_of(op))
        tensors[gate][:, [1, 2, 7]] = low
        found = check(op, tmp_path, 12, 1, tensors=tensors, initial=name == "hgrn")
        assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("name", ["s4d", "gated_deltanet", "ttt"])
def test_states_that_do_not_pass_like_that(name):
    """Coupled entries, an erase, a nonlinear update: no segments."""
    assert plan_scan(recurrence(name)) is None
