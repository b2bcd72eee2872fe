"""Lengths, packing, decode, and direction of generated operators on the CPU."""

from itertools import pairwise

import pytest
import torch

from tests.operator.operators import NAMES, assert_close, assert_equal, gradients, make

FORWARD = [name for name in NAMES if not name.endswith("_backward")]


def part(case, index, start, stop):
    """One sequence of a pack, as a call of its own."""
    known = case.module.SPEC["arguments"]
    cut = {
        name: t if known[name]["kind"] == "parameter" else t[:, start:stop]
        for name, t in case.arguments.items()
    }
    return type(case)(case.module, cut, tuple(s[index : index + 1] for s in case.states))


def test_packed_sequences_are_separate_calls(module):
    borders = [0, 3, 3, 4, 9]
    case = make(module, batch=1, length=9, borders=borders)
    results, outputs = case(), len(module.SPEC["outputs"])
    pairs = list(pairwise(borders))
    parts = [part(case, i, a, b)() for i, (a, b) in enumerate(pairs)]
    joined = [torch.cat([p[i] for p in parts], int(i < outputs)) for i in range(len(results))]
    assert_equal(results, joined)
    assert_close(gradients(results, case.tensors), gradients(joined, case.tensors), 1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_borders_of_either_dtype(module, dtype):
    case = make(module, batch=1, length=6, borders=[0, 2, 6])
    wide = type(case)(module, case.arguments, case.states, case.cu_seqlens.to(dtype))
    assert_equal(case(), wide())


def test_no_tokens_copies_the_state(module):
    case = make(module, length=0)
    results, outputs = case(), len(module.SPEC["outputs"])
    assert all(r.numel() == 0 and r.shape[:2] == (2, 0) for r in results[:outputs])
    for final, state in zip(results[outputs:], case.states, strict=True):
        assert torch.equal(final, state) and final.data_ptr() != state.data_ptr()
    weights = [torch.randn_like(r) for r in results]
    loss = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
    found = torch.autograd.grad(loss, case.tensors, allow_unused=True)
    given = len(case.tensors) - len(case.states)
    for gradient, tensor in zip(found[:given], case.tensors, strict=False):
        assert gradient is None or torch.equal(gradient, torch.zeros_like(tensor))
    names = module.SPEC["states"]
    for gradient, weight, name in zip(found[given:], weights[outputs:], names, strict=True):
        wanted = torch.zeros_like(weight) if name == "position" else weight
        assert torch.equal(gradient, wanted)


def test_no_tokens_without_a_state(module):
    case = make(module, length=0, states=False)
    results = case()
    assert all(torch.equal(r, torch.zeros_like(r)) for r in results)
    for gradient in gradients(results, case.tensors):
        assert not gradient.any()


@pytest.mark.parametrize("borders", [None, [0]])
def test_no_sequences(module, borders):
    case = make(
        module,
        batch=0 if borders is None else 1,
        length=5 if borders is None else 0,
        borders=borders,
    )
    results = case()
    assert all(r.numel() == 0 for r in results)
    for gradient in gradients(results, case.tensors):
        assert not gradient.any()


def test_a_call_in_two_halves(module):
    """The final state of one call is the initial state of the next, in scan order."""
    if case_is_reverse(module):
        return
    case = make(module, length=8)
    whole, outputs = case(), len(module.SPEC["outputs"])
    known = module.SPEC["arguments"]
    halves = [
        {n: t[:, h] if known[n]["kind"] == "input" else t for n, t in case.arguments.items()}
        for h in (slice(0, 3), slice(3, 8))
    ]
    first = type(case)(module, halves[0], case.states)()
    second = type(case)(module, halves[1], tuple(first[outputs:]))()
    joined = [torch.cat([first[i], second[i]], 1) for i in range(outputs)]
    assert_equal(whole, [*joined, *second[outputs:]])


def case_is_reverse(module):
    return not hasattr(module, module.SPEC["operator"] + "_step")


def test_reverse_is_the_flipped_operator(load):
    case = make(load("two_memories_backward"))
    known = case.module.SPEC["arguments"]
    flipped = {
        n: t.flip(1) if known[n]["kind"] == "input" else t for n, t in case.arguments.items()
    }
    other = type(case)(load("two_memories"), flipped, case.states)()
    assert_equal(case(), [other[0].flip(1), other[1].flip(1), *other[2:]])
    assert not hasattr(case.module, "two_memories_backward_step")


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_the_full_operator(load, name, dtype):
    module = load(name)
    case = make(module, length=5, dtype=dtype, grad=False)
    whole, outputs = case(), len(module.SPEC["outputs"])
    states = tuple(s.clone() for s in case.states)
    state = states if len(states) > 1 else states[0]
    known, step = module.SPEC["arguments"], getattr(module, f"{name}_step")
    rows = []
    for token in range(5):
        now = {
            n: t[:, token] if known[n]["kind"] == "input" else t for n, t in case.arguments.items()
        }
        one = type(case)(module, now, states)
        *row, returned = step(*one.required, state, **one.optional)
        assert returned is state
        rows.append(row)
    steps = [torch.stack([row[i] for row in rows], 1) for i in range(outputs)]
    assert_close(steps, whole[:outputs], 1e-6)
    assert_close(states, whole[outputs:], 1e-6)


@pytest.mark.parametrize("name", FORWARD)
def test_a_step_counts_as_a_change_of_the_state(load, name):
    module = load(name)
    case, step = one_token(module)
    versions = [s._version for s in case.states]
    step()
    assert all(s._version > v for s, v in zip(case.states, versions, strict=True))


def one_token(module):
    """Arguments of a step, and the call."""
    case = make(module, length=1, grad=False)
    known = module.SPEC["arguments"]
    now = {n: t[:, 0] if known[n]["kind"] == "input" else t for n, t in case.arguments.items()}
    case = type(case)(module, now, case.states)
    state = case.states if len(case.states) > 1 else case.states[0]
    step = getattr(module, f"{case.name}_step")
    return case, lambda: step(*case.required, state, **case.optional)


@pytest.mark.parametrize("name", FORWARD)
def test_a_step_refuses_gradients(load, name):
    case, step = one_token(load(name))
    before = case.states[0].detach().clone()
    state = "state" if len(case.states) == 1 else f"state.{next(iter(case.module.SPEC['states']))}"
    for label, tensor in {**case.arguments, state: case.states[0]}.items():
        tensor.requires_grad_()
        with pytest.raises(RuntimeError) as caught:
            step()
        assert str(caught.value) == (
            f"{name}_step: '{label}' requires a gradient; a step has none. "
            "Call it under torch.no_grad()."
        )
        assert torch.equal(case.states[0].detach(), before)
        tensor.requires_grad_(False)
    case.states[0].requires_grad_()
    with torch.no_grad():
        step()
    assert not torch.equal(case.states[0].detach(), before)
