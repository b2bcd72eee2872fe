"""The truth of the benchmarks against plain token loops written from the equations."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.operators import OPERATORS
from benchmarks.references import l2norm, relative_error
from benchmarks.shapes import Shape

T = 70  # two whole chunks and a rest


def states(inputs, names, update, state):
    """Yields the state before and after each token and the token's inputs."""
    for t in range(T):
        now = {name: inputs[name][:, t] for name in names}
        before, state = state, update(state, now)
        yield before, state, now


def matrix_state(inputs, values):
    return torch.zeros(*inputs[values][:, 0].shape[:2], 16, 16, dtype=torch.float64)


def outer(k, v):
    return k.unsqueeze(-1) * v.unsqueeze(-2)


def read(q, state):
    return (q.unsqueeze(-1) * state).sum(-2)


def linear_loop(i, decay):
    def update(state, now):
        return decay(now) * state + outer(now["k"], now["v"])

    names = [name for name in ("q", "k", "v", "g") if name in i]
    steps = states(i, names, update, matrix_state(i, "v"))
    return torch.stack([read(now["q"] / 4, state) for _, state, now in steps], 1)


def delta_loop(i, decay):
    def update(state, now):
        state = decay(now) * state
        k = l2norm(now["k"])
        return state + outer(now["beta"].unsqueeze(-1) * k, now["v"] - read(k, state))

    names = [name for name in ("q", "k", "v", "g", "beta") if name in i]
    steps = states(i, names, update, matrix_state(i, "v"))
    return torch.stack([read(l2norm(now["q"]) / 4, state) for _, state, now in steps], 1)


def product_loop(i):
    def update(state, now):
        state = head_decay(now) * state
        for step in range(now["k"].shape[1]):
            k, v, beta = l2norm(now["k"][:, step]), now["v"][:, step], now["beta"][:, step]
            state = state + outer(beta.unsqueeze(-1) * k, v - read(k, state))
        return state

    start = torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    steps = states(i, ["q", "k", "v", "g", "beta"], update, start)
    return torch.stack([read(l2norm(now["q"]) / 4, state) for _, state, now in steps], 1)


def comba_loop(i):
    def update(state, now):
        state = head_decay(now) * state
        error = now["v"] - read(l2norm(now["p"]), state)
        return state + outer(now["beta"].unsqueeze(-1) * l2norm(now["k"]), error)

    steps = states(i, ["q", "k", "v", "p", "g", "beta"], update, matrix_state(i, "v"))
    return torch.stack([read(l2norm(now["q"]) / 4, state) for _, state, now in steps], 1)


def gdn2_loop(i):
    def update(state, now):
        state = now["g"].exp().unsqueeze(-1) * state
        k = l2norm(now["k"])
        return state + outer(k, now["w"] * now["v"] - read(now["b"] * k, state))

    steps = states(i, ["q", "k", "v", "g", "b", "w"], update, matrix_state(i, "v"))
    return torch.stack([read(l2norm(now["q"]) / 4, state) for _, state, now in steps], 1)


def gsa_loop(i):
    def keys(state, now):
        return now["g"].exp().unsqueeze(-2) * state + outer(now["k"], now["s"])

    def values(state, now):
        return now["g"].exp().unsqueeze(-1) * state + outer(now["s"], now["v"])

    start = torch.zeros(2, 3, 16, 64, dtype=torch.float64)
    first = states(i, ["q", "k", "s", "g"], keys, start)
    second = states(i, ["s", "v", "g"], values, start.transpose(2, 3))
    slots = [read(now["q"] / 4, state).softmax(-1) for _, state, now in first]
    return torch.stack([read(p, s) for p, (_, s, _) in zip(slots, second, strict=True)], 1)


def hgrn2_loop(i):
    return LOOPS["gla"]({**i, "k": -i["g"].expm1()})


def rwkv6_loop(i):
    def update(state, now):
        return now["w"].exp().unsqueeze(-1) * state + outer(now["k"], now["v"])

    outputs = []
    for before, _, now in states(i, ["r", "k", "v", "w"], update, matrix_state(i, "v")):
        here = before + outer(i["u"] * now["k"], now["v"])
        outputs.append(read(now["r"] / 4, here))
    return torch.stack(outputs, 1)


def rwkv7_loop(i):
    def update(state, now):
        erased = outer(now["kk"] * now["a"], read(now["kk"], state))
        return now["w"].exp().unsqueeze(-1) * state - erased + outer(now["k"], now["v"])

    steps = states(i, ["r", "w", "k", "v", "kk", "a"], update, matrix_state(i, "v"))
    return torch.stack([read(now["r"], state) for _, state, now in steps], 1)


def mamba2_loop(i):
    state = torch.zeros(2, 3, 16, 128, dtype=torch.float64)
    outputs = []
    for t in range(T):
        dt = F.softplus(i["dt"][:, t] + i["dt_bias"])[..., None, None]
        write = dt * i["x"][:, t].unsqueeze(-1) * i["B"][:, t, :, None]
        state = (dt * i["A"][:, None, None]).exp() * state + write
        y = (state * i["C"][:, t, :, None]).sum(-1)
        outputs.append(y + i["D"][:, None] * i["x"][:, t])
    return torch.stack(outputs, 1)


def hgrn_loop(i):
    def update(state, now):
        return now["g"].exp() * state + now["x"]

    start = torch.zeros_like(i["x"][:, 0])
    return torch.stack([state for _, state, _ in states(i, ["x", "g"], update, start)], 1)


def kda_loop(i):
    gate = -i["A_log"].exp()[:, None] * F.softplus(i["a"] + i["dt_bias"])
    return delta_loop({**i, "g": gate}, lambda now: now["g"].exp().unsqueeze(-1))


def head_decay(now):
    return now["g"].exp()[..., None, None]


RETNET = (1 - 2.0 ** (-5 - torch.arange(3, dtype=torch.float64)))[:, None, None]
LOOPS = {
    "simple_gla": lambda i: linear_loop(i, head_decay),
    "linear_attention": lambda i: linear_loop(i, lambda now: 1.0),
    "retnet": lambda i: linear_loop(i, lambda now: RETNET),
    "gla": lambda i: linear_loop(i, lambda now: now["g"].exp().unsqueeze(-1)),
    "delta_rule": lambda i: delta_loop(i, lambda now: 1.0),
    "gated_delta_rule": lambda i: delta_loop(i, head_decay),
    "gated_delta_product": product_loop,
    "comba": comba_loop,
    "gdn2": gdn2_loop,
    "gsa": gsa_loop,
    "hgrn2": hgrn2_loop,
    "kda": kda_loop,
    "rwkv6": rwkv6_loop,
    "rwkv7": rwkv7_loop,
    "mamba2_ssd": mamba2_loop,
    "hgrn": hgrn_loop,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_truth_equals_the_token_loop_with_gradients(name):
    made = OPERATORS[name].inputs(Shape(2, T, 3, 16), torch.float32, "cpu", seed=5)
    inputs = {key: x.detach().double().requires_grad_() for key, x in made.items()}
    found, wanted = OPERATORS[name].truth(inputs), LOOPS[name](inputs)
    do = torch.randn_like(found)
    assert relative_error(found, wanted) < 1e-12
    leaves = list(inputs.values())
    pairs = zip(
        torch.autograd.grad(found, leaves, do), torch.autograd.grad(wanted, leaves, do), strict=True
    )
    assert max(relative_error(mine, other) for mine, other in pairs) < 1e-10


def test_relative_error_of_nan_is_nan():
    value = torch.tensor([1.0, float("nan")])
    assert not relative_error(value, torch.ones(2)) < float("inf")


def test_inputs_are_the_same_for_the_same_seed_only():
    make = OPERATORS["simple_gla"].inputs
    shape = Shape(1, 4, 1, 8)
    first, again, other = (make(shape, torch.bfloat16, "cpu", seed)["q"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
