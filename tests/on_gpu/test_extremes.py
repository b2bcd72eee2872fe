"""Sizes, lengths and memory at the edges; the same bits in every run."""

from dataclasses import replace

import pytest
import torch

from tests.operator.operators import assert_close, assert_equal, gradients, make

DEVICE = "cuda"
GIB = 2**30


def against_float64(case, result=0.005, gradient=0.02):
    """Results and all gradients of a bf16 case."""
    exact = case.cpu().to(torch.float64)  # token after token, in operators too small for a GPU
    found, wanted = case(), exact.reference()
    assert_close([r.cpu() for r in found], wanted, result)
    grads = [g.cpu() for g in gradients(found, case.tensors)]
    assert_close(grads, gradients(wanted, exact.tensors), gradient)


def bf16(module, **options):
    return make(module, dtype=torch.bfloat16, device=DEVICE, **options)


@pytest.mark.parametrize("length", [1, 16, 63, 64, 65, 127, 129, 257, 1000])
def test_lengths(module, length):
    against_float64(bf16(module, length=length, sizes={"K": 64, "V": 64, "P": 64, "N": 64}))


@pytest.mark.parametrize(
    "borders", [[0, 0, 1, 64, 64, 129, 200], [0, 200], [0, 127, 128, 200, 200]]
)
def test_packs(module, borders):
    sizes = {"K": 64, "V": 64, "P": 64, "N": 64}
    against_float64(bf16(module, batch=1, length=200, borders=borders, sizes=sizes))


def test_no_tokens(module):
    case = bf16(module, length=0)
    results, outputs = case(), len(module.SPEC["outputs"])
    assert all(r.numel() == 0 for r in results[:outputs])
    assert_equal(results[outputs:], [s.detach() for s in case.states])
    found = gradients(results, case.tensors)
    assert all(torch.isfinite(g).all() for g in found)
    for batch, borders in ((0, None), (1, [0])):
        empty = bf16(module, batch=batch, length=0 if borders else 5, borders=borders)
        assert all(r.numel() == 0 for r in empty())
        assert all(not g.any() for g in gradients(empty(), empty.tensors))


@pytest.mark.parametrize(
    "name",
    [
        *("simple_gla", "mamba2_ssd", "gla", "value_decay", "key_value_decay", "rwkv6"),
        *("gated_delta_rule", "kda", "rwkv7", "gated_oja"),
    ],
)
@pytest.mark.parametrize(
    ("keys", "values"),
    [
        (1, 3),
        (16, 32),
        (17, 33),
        (65, 65),
        (99, 101),
        (128, 16),
        (128, 64),
        (60, 100),
        (100, 60),
        (256, 256),
        (320, 64),
        (64, 320),
        (512, 64),
        (64, 512),
    ],
)
def test_head_dimensions(load, name, keys, values):
    """Right, or refused before anything runs with the sizes that do not fit."""
    # Several heads: the gradient of a parameter per head is one sum, which may be any small number.
    sizes = {"K": keys, "V": values, "N": keys, "P": values, "H": 4, "HV": 4, "G": 1}
    case = bf16(load(name), length=150, batch=1, sizes=sizes)
    if name == "rwkv7":  # it erases along unit keys; along longer ones its state would grow
        kk = case.arguments["kk"].detach()
        kk = (kk / kk.norm(dim=-1, keepdim=True)).requires_grad_()
        case = replace(case, arguments={**case.arguments, "kk": kk})
    try:
        case()
    except ValueError as error:
        assert str(error).startswith(f"{name}: ") and str(max(keys, values)) in str(error)
        return
    against_float64(case)


def test_the_same_bits_in_every_run(module):
    case = bf16(module, batch=3, length=300, sizes={"K": 64, "V": 64, "P": 64, "N": 64})
    results, found = case(), gradients(case(), case.tensors)
    for _ in range(20):
        assert_equal(case(), results)
        assert_equal(gradients(case(), case.tensors), found)


@pytest.mark.parametrize("packed", [False, True])
def test_no_result_depends_on_uninitialised_memory(module, packed, monkeypatch):
    borders = [0, 40, 40, 300] if packed else None
    case = bf16(module, batch=1 if packed else 2, length=300, borders=borders)
    wanted = [*case(), *gradients(case(), case.tensors)]

    def poisoned(make):
        def run(*sizes, **options):
            tensor = make(*sizes, **options)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return run

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    assert_equal([*case(), *gradients(case(), case.tensors)], wanted)


def test_more_sequences_than_a_grid_axis_holds(module):
    count = 65537 + 3
    lengths = torch.arange(count) % 3
    borders = [0, *lengths.cumsum(0).tolist()]
    sizes = {"K": 16, "V": 16, "P": 16, "N": 16, "H": 1, "HV": 1, "D": 16}
    case = bf16(module, batch=1, length=borders[-1], borders=borders, sizes=sizes)
    results = case()
    found = gradients(results, case.tensors)
    # The last sequences alone: the same results.
    first = borders[-5]
    known = module.SPEC["arguments"]
    tail = {
        n: t.detach()[:, first:].clone().requires_grad_() if known[n]["kind"] == "input" else t
        for n, t in case.arguments.items()
    }
    packing = torch.tensor([b - first for b in borders[-5:]], device=DEVICE, dtype=torch.int32)
    part = type(case)(module, tail, tuple(s[-4:] for s in case.states), packing)()
    outputs = len(module.SPEC["outputs"])
    assert_close([r[:, first:] for r in results[:outputs]], part[:outputs], 0.005)
    assert_close([r[-4:] for r in results[outputs:]], part[outputs:], 0.005)
    assert all(torch.isfinite(gradient).all() for gradient in found)


@pytest.mark.parametrize("name", ["simple_gla", "gated_delta_rule", "gla"])
def test_more_than_2_to_the_31_elements(load, name):
    """Offsets of 64 bits: the last tokens agree with a call on a slice from the state there."""
    module = load(name)
    if torch.cuda.mem_get_info()[0] < 100 * GIB:
        pytest.skip("needs 100 GiB of free memory")
    length, cut = 2**21 + 3, 2**21 - 100
    generator = torch.Generator(DEVICE).manual_seed(5)
    sizes = {"H": 16, "HV": 16, "K": 64, "V": 64}

    def tensor(axes, gate):
        shape = (1, length, *(sizes[a] for a in axes))
        value = torch.empty(shape, device=DEVICE, dtype=torch.float32 if gate else torch.bfloat16)
        value.normal_(generator=generator)
        return value.abs_().mul_(-0.1) if gate else value.mul_(0.5)

    spec = module.SPEC["arguments"]
    arguments = {n: tensor(t["axes"], t["range"] is not None) for n, t in spec.items()}
    assert max(t.numel() for t in arguments.values()) > 2**31
    operator = getattr(module, name)

    def split(start, stop, state):
        part = {n: t[:, start:stop] for n, t in arguments.items()}
        return operator(**part, initial_state=state, output_final_state=True)

    with torch.no_grad():
        whole, final = operator(**arguments, output_final_state=True)
        middle = split(0, cut, None)[1]
        tail, last = split(cut, length, middle)
        assert_close([whole[:, cut:], final], [tail, last], 0.01)
        del whole, final
    # Gradients of a loss on the tail reach the tail's tokens only through their own offsets.
    leaves = [t.requires_grad_() for t in arguments.values()]
    result = operator(**arguments)[0]
    weight = torch.zeros_like(result)
    weight[:, cut:].normal_(generator=generator)
    found = torch.autograd.grad(result, leaves, weight)
    del result
    slices = {n: t.detach()[:, cut:].clone().requires_grad_() for n, t in arguments.items()}
    result = operator(**slices, initial_state=middle)[0]
    wanted = torch.autograd.grad(result, list(slices.values()), weight[:, cut:].contiguous())
    assert_close([g[:, cut:] for g in found], wanted, 0.02)
