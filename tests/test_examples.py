"""Every example means what its paper says: compared in float64 with a loop written by hand."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, einsum
from torch.nn.functional import layer_norm, logsigmoid, silu, softplus

from seqgen.build import analyse_spec
from seqgen.passes.lower import lower
from seqgen.reference.interpreter import run
from seqgen.spec.loader import load_spec

EXAMPLES = Path(__file__).parents[1] / "examples"
PATHS = sorted(EXAMPLES.glob("*.yaml"))
B, T, H, K, V, M, R, P = 2, 7, 2, 4, 3, 5, 2, 3

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


def decayed(q, k, v, g, gv=None):
    """Linear attention whose state decays by ``exp(g)``; g is [B, T, H, K], or 1 for K."""

    def step(S, q, k, v, g, gv):
        S = outer(g.exp(), gv.exp()) * S + outer(k, v)
        return S, read(q * K**-0.5, S)

    return matrix_scan(step, q, k, v, g, torch.zeros_like(v) if gv is None else gv)


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
def lightning_attention(q, k, v, depth):
    slope = 8 / H * (1 - depth) * torch.arange(H)
    return decayed(q, k, v, -slope[:, None].expand(B, T, H, 1))


@loop
def gla(q, k, v, g):
    return decayed(q, k, v, g)


@loop
def value_decay(q, k, v, g):
    return decayed(q, k, v, torch.zeros_like(k), g)


@loop
def key_value_decay(q, k, v, gk, gv):
    return decayed(q, k, v, gk, gv)


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


@loop
def dplr(q, k, v, a, b, g):
    def step(S, q, k, v, a, b, g):
        transition = torch.diag_embed(g.exp()) + outer(b, a)
        S = einsum("bhij,bhjv->bhiv", transition, S) + outer(k, v)
        return S, read(q * K**-0.5, S)

    return matrix_scan(step, q, k, v, a, b, g)


@loop
def iplr(q, k, v, a, b):
    return dplr(q, k, v, a, b, torch.zeros_like(k))


def transition(S, x, r, decay):
    """(I - x rᵀ) diag(decay) S; decay is [B, H, K], or 1 for K."""
    matrix = torch.eye(S.shape[2], dtype=torch.float64) - outer(x, r)
    return einsum("bhij,bhjv->bhiv", matrix, decay[..., None] * S)


def delta(q, k, v, beta, g=None, r=None):
    """(I - beta k rᵀ) diag(exp(g)) S + beta k vᵀ; r is k if not given, g as in ``decayed``."""

    def step(S, q, k, v, beta, g, r):
        x = beta[..., None] * k
        S = transition(S, x, r, g.exp()) + outer(x, v)
        return S, read(q * K**-0.5, S)

    g = torch.zeros_like(k) if g is None else g
    return matrix_scan(step, q, k, v, beta, g, k if r is None else r)


def shared(v, *heads):
    """Each of q, k ... [B, T, H, K] once per head of v."""
    return (x.repeat_interleave(v.shape[2] // x.shape[2], 2) for x in heads)


@loop
def delta_rule(q, k, v, beta):
    return delta(norm(q), norm(k), v, beta)


@loop
def gated_delta_rule(q, k, v, g, beta):
    return delta(*shared(v, norm(q), norm(k)), v, beta, g[..., None])


@loop
def gated_delta_net(q, k, v, a, b, A_log, dt_bias):
    g = -A_log.exp() * softplus(a + dt_bias)
    return gated_delta_rule(q, k, v, g, 2 / (1 + (-b).exp()))


@loop
def kda(q, k, v, a, beta, A_log, dt_bias):
    g = -A_log.exp()[:, None] * softplus(a + dt_bias)
    return delta(*shared(v, norm(q), norm(k)), v, beta, g)


@loop
def gdn2(q, k, v, g, b, w):
    k = norm(k)
    return delta(norm(q), k, w * v, torch.ones(B, T, H, dtype=v.dtype), g, b * k)


@loop
def comba(q, k, v, p, g, beta):
    return delta(norm(q), norm(k), v, beta, g[..., None], norm(p))


@loop
def gated_oja(q, k, v, g, beta):
    v = norm(v)
    rows, S = [], torch.zeros(B, H, V, K, dtype=v.dtype)  # the value axis is the key axis here
    for t in range(T):
        x = beta[:, t, :, None] * v[:, t]
        S = transition(S, x, v[:, t], g[:, t].exp()) + outer(x, k[:, t])
        rows.append(einsum("bhk,bhvk->bhv", norm(q[:, t]) * K**-0.5, S))
    return torch.stack(rows, 1), S.mT


@loop
def gated_delta_product(q, k, v, g, beta):
    def step(S, q, k, v, g, beta):
        decay = g.exp()[..., None]
        for j in range(k.shape[1]):
            x = beta[:, j, :, None] * k[:, j]
            S = transition(S, x, k[:, j], decay) + outer(x, v[:, j])
            decay = torch.ones_like(decay)
        return S, read(q * K**-0.5, S)

    return matrix_scan(step, norm(q), norm(k), v, g, beta)


@loop
def delta_per_value(q, k, v, beta):
    parts = [
        delta(norm(q), norm(k), v[..., [j]].expand_as(v), beta[..., j])  # each column by itself
        for j in range(V)
    ]
    return tuple(torch.cat([part[n][..., [0]] for part in parts], -1) for n in range(2))


@loop
def preconditioned_delta(q, k, v, g, beta, g_a, beta_a, center):
    k = norm(k)
    A, rows = torch.zeros_like(k[:, 0]), []
    for t in range(T):
        A = g_a[:, t].exp()[..., None] * A + beta_a[:, t, :, None] * k[:, t] ** 2
        excess = (A + 1e-6).log() - center[:, None]
        rows.append(k[:, t] * 1.5 ** (-excess / (1 + excess.abs())))
    q, k, kp = shared(v, norm(q), k, torch.stack(rows, 1))
    o, S = delta(q, kp, v, beta, g[..., None], k)
    return o, A, S


@loop
def gsa(q, k, v, s, g):
    Hk = torch.zeros(B, H, K, M, dtype=q.dtype)
    Hv, rows = torch.zeros(B, H, M, V, dtype=q.dtype), []
    for t in range(T):
        keep = g[:, t].exp()
        Hk = Hk * keep[:, :, None] + outer(k[:, t], s[:, t])
        Hv = Hv * keep[..., None] + outer(s[:, t], v[:, t])
        rows.append(read(read(q[:, t] * K**-0.5, Hk).softmax(-1), Hv))
    return torch.stack(rows, 1), Hk, Hv


@loop
def abc(q, k, v, s):
    """Not a recurrence: at every token the slots hold means of all keys and values so far."""
    rows = []
    for t in range(T):
        share = s[:, : t + 1].softmax(1)
        Hk = einsum("bthk,bthm->bhkm", k[:, : t + 1], share)
        Hv = einsum("bthm,bthv->bhmv", share, v[:, : t + 1])
        rows.append(read(read(q[:, t] * K**-0.5, Hk).softmax(-1), Hv))
    return torch.stack(rows, 1), s.logsumexp(1), Hk, Hv


@loop
def mlstm(q, k, v, i, f):
    """Gates as they are, not relative to the largest: C and n are exp(m) times the spec's."""
    C, n = torch.zeros(B, H, K, V, dtype=q.dtype), torch.zeros(B, H, K, dtype=q.dtype)
    m, rows = torch.zeros(B, H, dtype=q.dtype), []
    for t in range(T):
        now, keep = i[:, t].exp()[..., None], f[:, t].sigmoid()[..., None]
        C = keep[..., None] * C + outer(now * k[:, t], v[:, t])
        n = keep * n + now * k[:, t]
        m = torch.maximum(logsigmoid(f[:, t]) + m, i[:, t])
        query = q[:, t] * K**-0.5
        size = (query * n).sum(-1).abs().clamp(min=1) + 1e-6 * m.exp()
        rows.append(read(query, C) / size[..., None])
    scale = (-m).exp()[..., None]
    return torch.stack(rows, 1), scale[..., None] * C, scale * n, m


@loop
def ttt_linear(q, k, v, eta, w, bias):
    """Steps of gradient descent, their gradients by autograd."""
    W = torch.zeros(B, H, K, K, dtype=q.dtype)
    b, rows = torch.zeros(B, H, K, dtype=q.dtype), []
    for t in range(T):

        def loss(W, b, k=k[:, t], v=v[:, t]):
            guess = layer_norm(read(k, W) + b, [K], eps=1e-6) * w + bias
            return (guess - (v - k)).square().sum() / 2

        dW, db = torch.func.grad(loss, argnums=(0, 1))(W, b)
        step = eta[:, t, :, None]
        W, b = W - step[..., None] * dW, b - step * db
        rows.append(read(q[:, t], W) + b)
    return torch.stack(rows, 1), W, b


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


@loop
def mamba3(C, B, x, dt, a, lam, angle, C_bias, B_bias):
    """Pairs as complex numbers, turned by multiplication."""
    turned = lambda y, th: torch.view_as_complex(y.unflatten(-1, (-1, 2))) * torch.exp(1j * th)
    C, B = C + C_bias, B + B_bias
    th, Bs = torch.zeros_like(angle[:, 0]), torch.zeros_like(B[:, 0])
    h = torch.zeros(*Bs.shape[:2], R, P, dtype=torch.complex128)
    xs, rows = torch.zeros_like(x[:, 0]), []
    for t in range(T):
        now = dt[:, t, :, None]
        before = turned(Bs, th)
        th = th + math.pi * angle[:, t].tanh() * now
        Bs = B[:, t]
        weight, keep = lam[:, t, :, None], a[:, t].exp()[..., None]
        h = keep[..., None] * h + outer((1 - weight) * now * keep * before, xs + 0j)
        h = h + outer(weight * now * turned(Bs, th), x[:, t] + 0j)
        xs = x[:, t]
        rows.append(read(turned(C[:, t], th).conj(), h).real)
    return torch.stack(rows, 1), th, torch.view_as_real(h.mT).flatten(-2).mT, Bs, xs


SIZES = {"H": H, "K": K, "V": V, "M": M, "R": R, "HV": H, "P": P, "N": 4, "D": 4, "G": 2}
OTHERS = {
    "gated_delta_rule": {"H": 1},
    "gated_delta_net": {"H": 1},
    "kda": {"H": 1},
    "preconditioned_delta": {"H": 1},
    "mamba2_ssd": {"H": 4},
    "ttt_linear": {"V": K},
}


def draw(recurrence, absent):
    generator = torch.Generator().manual_seed(3)
    sizes = SIZES | OTHERS.get(recurrence.name, {})
    for tensor in recurrence.tensors:
        shape = [B, T] * (tensor.kind == "input") + [sizes[axis] for axis in tensor.axes]
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        if tensor.range == (0.0, math.inf):
            value = value.exp()
        elif tensor.range == (0.0, 1.0):
            value = value.sigmoid()
        elif tensor.range is not None:
            assert tensor.range == (-math.inf, 0.0)
            value = logsigmoid(value)
        if tensor.name not in absent:
            yield tensor.name, value


FAMILIES = {
    "linear": (
        "linear_attention linear_attention_normalised retnet lightning_attention simple_gla gla"
        " value_decay key_value_decay hgrn2 rwkv6 mamba2_ssd mamba3 mlstm gsa abc"
        " surprise_gated_retention"
    ),
    "delta": (
        "delta_rule gated_delta_rule gated_delta_net gated_delta_product kda gdn2 comba gated_oja"
        " preconditioned_delta"
    ),
    "dplr": "dplr iplr rwkv7",
    "scan": "hgrn selective_scan",
    "recurrent": "delta_per_value ttt_linear saturating_memory",
}


def test_every_example_has_a_loop_and_a_family():
    names = {path.stem for path in PATHS}
    assert names == set(LOOPS)
    assert names == set(" ".join(FAMILIES.values()).split())


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family):
    for name in FAMILIES[family].split():
        _, structure = analyse_spec(load_spec(EXAMPLES / f"{name}.yaml"))
        assert structure.family == family, name


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
