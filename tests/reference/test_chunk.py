"""The chunk form and its hand-derived adjoint against the recurrence and autograd, float64."""

import math

import pytest
import torch

from seqgen.reference import chunk
from seqgen.reference.chunk import Column, Roles, Row
from seqgen.reference.compare import relative_error, rms

H, T, K, V, C = 2, 19, 4, 3, 8


def token_by_token(roles, state):
    """The recurrence as its docstring has it."""
    key, value = state.shape[-2:]
    length = roles.columns[0].key.shape[-2]
    results = [[] for _ in roles.reads]
    for t in range(length):
        g_key = torch.zeros(key).double() if roles.g_key is None else roles.g_key[..., t, :]
        g_value = torch.zeros(value).double() if roles.g_value is None else roles.g_value[..., t, :]
        decayed = g_key.exp().unsqueeze(-1) * g_value.exp().unsqueeze(-2) * state
        seen = {"old": state, "decayed": decayed}

        def read(row, t=t, seen=seen):
            side = "k" if row.axis == "key" else "v"
            return torch.einsum(f"...kv,...{side}->...{'kv'.replace(side, '')}",
                                seen[row.sees], row.weight[..., t, :])  # fmt: skip

        new = decayed
        for column in roles.columns:
            w = 0.0 if column.base is None else column.base[..., t, :]
            if column.row is not None:
                w = w + column.sign * read(column.row)
            new = new + column.key[..., t, :].unsqueeze(-1) * w.unsqueeze(-2)
        seen["new"] = state = new
        for n, row in enumerate(roles.reads):
            results[n].append(read(row))
    return [torch.stack(r, -2) for r in results], state


def random(*shape, scale=1.0):
    return scale * torch.randn(shape, dtype=torch.float64)


GATES = {
    "none": lambda shape: None,
    "zero": lambda shape: torch.zeros(shape, dtype=torch.float64),
    "weak": lambda shape: -0.1 * torch.rand(shape, dtype=torch.float64),
    "strong": lambda shape: -5.0 * torch.rand(shape, dtype=torch.float64),
    "-20": lambda shape: torch.full(shape, -20.0, dtype=torch.float64),
    "-100": lambda shape: torch.full(shape, -100.0, dtype=torch.float64),
    "one -20": lambda shape: spiked(shape, -20.0),
    "one -100": lambda shape: spiked(shape, -100.0),
    "one -inf": lambda shape: spiked(shape, -math.inf),
    "-inf": lambda shape: torch.full(shape, -math.inf, dtype=torch.float64),
}


def spiked(shape, value):
    gates = GATES["weak"](shape)
    gates[..., 5, :] = value
    gates[0, 11, 0] = value
    return gates


def make(family, inner="decayed", reads=("new",), key="none", value="none", gate="weak"):
    """Random roles; keys of unit length, so that states stay bounded."""
    torch.manual_seed(3)
    unit = lambda: torch.nn.functional.normalize(random(H, T, K), dim=-1)
    g_key = g_value = None
    if key != "none":
        g_key = GATES[gate]((H, T, 1 if key == "scalar" else K))
    if value != "none":
        g_value = GATES[gate]((H, T, 1 if value == "scalar" else V))
    write = Column(unit(), random(H, T, V))
    if family == "linear":
        columns = (write, Column(unit(), random(H, T, V)))
    elif family == "delta":
        k, beta = unit(), torch.rand(H, T, 1, dtype=torch.float64)
        columns = (Column(k, beta * random(H, T, V), Row(beta * k, inner), -1.0),)
    else:
        columns = (
            Column(-unit(), None, Row(unit(), inner)),
            Column(unit(), None, Row(0.5 * unit(), inner)),
            write,
        )
    rows = []
    for name in reads:
        size, axis = (V, "value") if name.startswith("value") else (K, "key")
        rows.append(Row(random(H, T, size), name.removeprefix("value "), axis))
    return Roles(columns, tuple(rows), g_key, g_value)


def leaves(roles):
    found = {}
    for i, column in enumerate(roles.columns):
        found[f"key {i}"] = column.key
        if column.base is not None:
            found[f"base {i}"] = column.base
        if column.row is not None:
            found[f"row {i}"] = column.row.weight
    for i, row in enumerate(roles.reads):
        found[f"read {i}"] = row.weight
    found |= {"g_key": roles.g_key, "g_value": roles.g_value}
    return {name: leaf for name, leaf in found.items() if leaf is not None}


def assert_same(roles, chunk_size=C, limit=1e-11):
    """Results, final state and all gradients."""
    initial = random(H, K, V).requires_grad_(True)
    given = leaves(roles)
    for leaf in given.values():
        leaf.requires_grad_(True)
    wanted, wanted_final = token_by_token(roles, initial)
    d_results, d_final = [torch.randn_like(w) for w in wanted], torch.randn_like(wanted_final)
    functional = (wanted_final * d_final).sum()
    functional = functional + sum((w * d).sum() for w, d in zip(wanted, d_results, strict=True))
    right = torch.autograd.grad(functional, [*given.values(), initial])
    with torch.no_grad():
        results, final, borders = chunk.forward(roles, initial, chunk_size)
        found = chunk.backward(roles, borders, d_results, d_final, chunk_size)
    for n, result in enumerate(results):
        assert relative_error(result, wanted[n]) < limit, f"read {n}"
    assert relative_error(final, wanted_final) < limit, "final state"
    harmless = rms(initial)
    for (name, leaf), gradient in zip(given.items(), right, strict=False):
        value = gradient_of(found, name)
        if value.shape != leaf.shape:
            value = value.sum(-1, keepdim=True)
        assert torch.isfinite(value).all(), name
        error = relative_error(value, gradient, floor=harmless * 2.0**-40)
        assert error < limit, f"gradient of {name}: {error:.1e}"
    assert relative_error(found.initial, right[-1], floor=harmless * 2.0**-40) < limit


def gradient_of(found, name):
    kind, _, index = name.partition(" ")
    if not index:
        return getattr(found, kind)
    return {"key": found.keys, "base": found.bases, "row": found.rows, "read": found.reads}[kind][
        int(index)
    ]


DECAYS = [("none", "none"), ("scalar", "none"), ("vector", "none"), ("none", "vector"),
          ("vector", "vector")]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), DECAYS)
@pytest.mark.parametrize("reads", [("new",), ("old",), ("value new",), ("new", "old", "value old")])
@pytest.mark.parametrize(
    ("family", "inner"),
    [("linear", "decayed"), ("delta", "decayed"), ("delta", "old"), ("dplr", "decayed"),
     ("dplr", "old")],
)  # fmt: skip
def test_every_family_decay_and_read(family, inner, reads, key, value):
    assert_same(make(family, inner, reads, key, value))


@pytest.mark.parametrize("gate", [g for g in GATES if g != "none"])
@pytest.mark.parametrize(("family", "inner"), [("linear", "decayed"), ("delta", "decayed"),
                                               ("dplr", "old")])  # fmt: skip
def test_every_gate(family, inner, gate):
    assert_same(make(family, inner, ("new", "old"), "vector", "none", gate))
    assert_same(make(family, inner, ("new",), "scalar", "none", gate))
    if inner == "decayed":
        assert_same(make(family, inner, ("new",), "vector", "vector", gate))


@pytest.mark.parametrize("size", [1, 2, 7, 16, 19, 64])
def test_every_chunk_length(size):
    assert_same(make("delta", "decayed", ("new",), "vector"), size)


def test_single_precision_keeps_gates_after_a_closed_one():
    """What anchoring is for: no digits are lost where huge and weak gates meet."""
    roles = make("linear", gate="one -inf", key="vector")
    initial = random(H, K, V)
    wanted, _ = token_by_token(roles, initial)
    single = Roles(
        tuple(Column(c.key.float(), c.base.float()) for c in roles.columns),
        tuple(Row(r.weight.float(), r.sees) for r in roles.reads),
        roles.g_key.float(),
    )
    results, _, _ = chunk.forward(single, initial.float(), C)
    assert relative_error(results[0], wanted[0]) < 5e-7
