"""Every example means what its paper says: compared in float64 with a loop written by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, einsum
from torch.nn.functional import logsigmoid, silu, softplus

from seqgen.passes.lower import lower
from seqgen.reference.interpreter import run
from seqgen.spec.loader import load_spec

PATHS = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
B, T, H, K, V = 2, 7, 2, 4, 3

LOOPS = {}


def loop(function):
    LOOPS[function.__name__] = function
    return function


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def outer(k: Tensor, v: Tensor) -> Tensor:
    return einsum("bhk,bhv->bhkv", k, v)


def read(q: Tensor, S: Tensor) -> Tensor:
    return einsum("bhk,bhkv->bhv", q, S)


def matrix_scan(step, *inputs: Tensor):
    """``S, o = step(S, *inputs at t)`` over time, from zero."""
    S = torch.zeros(B, H, K, V, dtype=torch.float64)
    rows = []
    for t in range(T):
        S, o = step(S, *(x[:, t] for x in inputs))
        rows.append(o)
    return torch.stack(rows, 1), S


def decayed(q, k, v, g):
    """Linear attention whose state decays by ``exp(g)``; g is [B, T, H, K], or 1 for K."""

    def step(S, q, k, v, g):
        S = g.exp()[..., None] * S + outer(k, v)
        return S, read(q * K**-0.5, S)

    return matrix_scan(step, q, k, v, g)


@loop
def linear_attention(q, k, v):
    return decayed(q, k, v, torch.zeros_like(k))


@loop
def linear_attention_normalised(q, k, v):
    o, S = linear_attention(q, k, v)
    z = k.cumsum(1)
    total = (q * z).sum(-1, keepdim=True) * K**-0.5
    return o / (total + 1e-10), S, z[:, -1]


@loop
def retnet(q, k, v):
    gamma = 1 - 2.0 ** (-5 - torch.arange(H, dtype=torch.float64))
    return decayed(q, k, v, gamma.log()[:, None].expand(B, T, H, 1))


@loop
def simple_gla(q, k, v, g):
    return decayed(q, k, v, g[..., None])


@loop
def gla(q, k, v, g):
    return decayed(q, k, v, g)


@loop
def hgrn2(q, g, v):
    return decayed(q, 1 - g.exp(), v, g)


@loop
def surprise_gated_retention(q, k, v, p, a):
    surprise = (1 - (norm(k) * norm(p)).sum(-1)) / 2
    g = -softplus(a) * surprise
    return decayed(norm(q), surprise[..., None] * norm(k), v, g[..., None])


@loop
def hgrn(x, g):
    h, rows = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        h = g[:, t].exp() * h + x[:, t]
        rows.append(h)
    return torch.stack(rows, 1), h


@loop
def rwkv6(r, k, v, w, u):
    def step(S, r, k, v, w):
        o = read(r * K**-0.5, S + u[..., None] * outer(k, v))
        return w.exp()[..., None] * S + outer(k, v), o

    return matrix_scan(step, r, k, v, w)


@loop
def rwkv7(r, w, k, v, kk, a):
    def step(S, r, w, k, v, kk, a):
        transition = torch.diag_embed(w.exp()) - outer(kk * a, kk)
        S = einsum("bhij,bhjv->bhiv", transition, S) + outer(k, v)
        return S, read(r, S)

    return matrix_scan(step, r, w, k, v, kk, a)


def delta_step(S, q, k, v, g, beta):
    """(I - beta k kᵀ) exp(g) S + beta k vᵀ."""
    transition = torch.eye(K, dtype=torch.float64) - beta[..., None, None] * outer(k, k)
    S = einsum("bhij,bhjv->bhiv", transition, g.exp()[..., None, None] * S)
    S = S + beta[..., None, None] * outer(k, v)
    return S, read(q * K**-0.5, S)


@loop
def delta_rule(q, k, v, beta):
    return matrix_scan(delta_step, norm(q), norm(k), v, torch.zeros_like(beta), beta)


@loop
def gated_delta_rule(q, k, v, g, beta):
    group = v.shape[2] // q.shape[2]
    q, k = (x.repeat_interleave(group, 2) for x in (norm(q), norm(k)))
    return matrix_scan(delta_step, q, k, v, g, beta)


@loop
def saturating_memory(q, k, v, g, beta):
    def step(S, q, k, v, g, beta):
        u = beta[..., None] * (v - read(k, S))
        S = torch.tanh(g.exp()[..., None, None] * S + outer(k, u))
        return S, read(q * K**-0.5, S)

    return matrix_scan(step, norm(q), norm(k), v, g, beta)


@loop
def mamba2_ssd(x, dt, B, C, A, z=None, D=None, dt_bias=None):
    group = x.shape[2] // B.shape[2]
    B, C = (y.repeat_interleave(group, 2) for y in (B, C))
    dt = softplus(dt + (dt_bias if dt_bias is not None else 0))
    h, rows = torch.zeros(*x[:, 0].shape, B.shape[-1], dtype=x.dtype), []
    for t in range(T):
        h = (dt[:, t] * A).exp()[..., None, None] * h
        h = h + einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], B[:, t])
        rows.append(einsum("bhpn,bhn->bhp", h, C[:, t]))
    y = torch.stack(rows, 1) + (D[:, None] * x if D is not None else 0)
    return y * silu(z) if z is not None else y, h


@loop
def selective_scan(u, delta, B, C, A, skip, delta_bias, z=None):
    group = u.shape[2] // B.shape[2]
    B, C = (y.repeat_interleave(group, 2) for y in (B, C))
    dt = softplus(delta + delta_bias)
    h, rows = torch.zeros(*u[:, 0].shape, B.shape[-1], dtype=u.dtype), []
    for t in range(T):
        now = dt[:, t, :, None]
        h = (now * A).exp() * h + now * u[:, t, :, None] * B[:, t]
        rows.append((h * C[:, t]).sum(-1) + skip * u[:, t])
    y = torch.stack(rows, 1)
    return y * silu(z) if z is not None else y, h


SIZES = {"H": H, "K": K, "V": V, "HV": H, "P": 3, "N": 4, "D": 4, "G": 2}
GROUPED = {"gated_delta_rule": {"H": 1}, "mamba2_ssd": {"H": 4}}


def draw(recurrence, absent):
    generator = torch.Generator().manual_seed(3)
    sizes = SIZES | GROUPED.get(recurrence.name, {})
    for tensor in recurrence.tensors:
        shape = [B, T] * (tensor.kind == "input") + [sizes[axis] for axis in tensor.axes]
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        if tensor.range == (0.0, math.inf):
            value = value.exp()
        elif tensor.range is not None:
            assert tensor.range == (-math.inf, 0.0)
            value = logsigmoid(value)
        if tensor.name not in absent:
            yield tensor.name, value


def test_every_example_has_a_loop():
    assert {path.stem for path in PATHS} == set(LOOPS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_form(path):
    lines = path.read_text().splitlines()
    spec = load_spec(path)
    assert spec.operator == path.stem
    assert len(lines) <= 25 and max(map(len, lines)) <= 100
    assert ("arXiv" in spec.about) != ("No paper, ours." in spec.about)


@pytest.mark.parametrize("complete", [True, False], ids=["all", "required"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_values(path, complete):
    recurrence = lower(load_spec(path))
    optional = {tensor.name for tensor in recurrence.tensors if not tensor.required}
    tensors = dict(draw(recurrence, set() if complete else optional))
    outputs, finals = run(recurrence, tensors)
    expected = LOOPS[path.stem](**tensors)
    actual = (*outputs.values(), *finals.values())
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
