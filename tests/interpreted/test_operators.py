"""The PyTorch side of generated operators around real kernels, at the edges."""

import pytest
import torch

from tests.operator.conftest import load, module
from tests.operator.operators import NAMES, assert_close, assert_equal, gradients, make

__all__ = ["load", "module"]

FORWARD = [name for name in NAMES if not name.endswith("_backward")]


def test_the_kernels_run(module):
    assert not module._on_cpu(torch.zeros(1))
    assert module._on_cpu(torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("options", [True, False])
def test_results_and_gradients(module, options):
    case = make(module, length=5, options=options, states=options)
    exact = case.to(torch.float64)
    assert_close(case(), exact.reference())
    found = gradients(case(), case.tensors)
    assert_close(found, gradients(exact.reference(), exact.tensors), 1e-5)


def test_opcheck(module):
    case = make(module, batch=1, length=4, borders=[0, 1, 1, 4])
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(module._forward_op, case.operands(True), test_utils=checks)
    cotangents = [torch.ones_like(result) for result in case()]
    torch.library.opcheck(module._backward_op, case.operands(*cotangents), test_utils=checks)
    bare = make(module, length=3, options=False, states=False, dtype=torch.float16)
    torch.library.opcheck(module._forward_op, bare.operands(False), test_utils=checks)


@pytest.mark.parametrize("name", FORWARD)
def test_opcheck_of_the_step(load, name):
    module = load(name)
    case = make(module, length=1, grad=False)
    known = module.SPEC["arguments"]
    now = [t[:, 0] if known[n]["kind"] == "input" else t for n, t in case.arguments.items()]
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(module._step_op, (*now, *case.states), test_utils=checks)


@pytest.mark.parametrize("states", [True, False])
def test_no_tokens(module, states):
    case = make(module, length=0, states=states)
    results, outputs = case(), len(module.SPEC["outputs"])
    assert all(r.numel() == 0 for r in results[:outputs])
    for name, final, state in zip(
        module.SPEC["states"], results[outputs:], case.states, strict=True
    ):
        wanted = torch.zeros_like(final) if state is None else state
        assert torch.equal(final, wanted), name
    weights = [torch.randn_like(r) for r in results]
    kept = [(r * w).sum() for r, w in zip(results, weights, strict=True)]
    found = torch.autograd.grad(sum(kept), case.tensors, allow_unused=True)
    given = len(case.tensors) - len(case.states) * states
    assert all(g is None or not g.any() for g in found[:given])
    names = module.SPEC["states"]
    for gradient, weight, name in zip(found[given:], weights[outputs:], names, strict=False):
        wanted = torch.zeros_like(weight) if name == "position" else weight
        assert torch.equal(gradient, wanted), name


@pytest.mark.parametrize("borders", [None, [0]])
def test_no_sequences(module, borders):
    batch, length = (0, 5) if borders is None else (1, 0)
    case = make(module, batch=batch, length=length, borders=borders)
    assert all(r.numel() == 0 for r in case())
    assert all(not g.any() for g in gradients(case(), case.tensors))


@pytest.mark.parametrize("packed", [False, True])
def test_no_result_depends_on_uninitialised_memory(module, packed, monkeypatch):
    borders = [0, 2, 2, 6] if packed else None
    case = make(module, batch=1 if packed else 2, length=6, borders=borders)
    wanted = [*case(), *gradients(case(), case.tensors)]

    def poisoned(make):
        def run(*sizes, **options):
            tensor = make(*sizes, **options)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return run

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    found = [*case(), *gradients(case(), case.tensors)]
    monkeypatch.undo()
    assert_equal(found, wanted)


def test_non_contiguous_arguments(module):
    case = make(module, grad=False, length=4)
    dense = case.map(lambda t: t.clone().requires_grad_(t.dim() > 1))
    turned = lambda t: t.transpose(0, -1).contiguous().transpose(0, -1).requires_grad_()
    other = case.map(lambda t: turned(t) if t.dim() > 1 else t)
    assert not all(t.is_contiguous() for t in other.tensors)
    assert_equal(other(), dense())
    assert_equal(gradients(other(), other.tensors), gradients(dense(), dense.tensors))


def test_half_precision_gradients_have_the_dtype_of_the_argument(module):
    case = make(module, length=4, dtype=torch.float16)
    for tensor, gradient in zip(case.tensors, gradients(case(), case.tensors), strict=True):
        assert gradient.dtype == tensor.dtype and torch.isfinite(gradient).all()
