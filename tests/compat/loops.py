"""The recurrences of FLA's functions as plain loops over tokens, written from the papers.

Tensors are [B, T, H, ...], states [B, H, K, V]; every loop returns outputs and the last state.
"""

import torch


def unit(x):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def loop(step, state, *tensors, reverse=False):
    """``step(state, *token)`` gives output and next state, token after token."""
    tokens = range(tensors[0].shape[1])
    outputs = {}
    for t in reversed(tokens) if reverse else tokens:
        outputs[t], state = step(state, *(x[:, t] for x in tensors))
    return torch.stack([outputs[t] for t in tokens], 1), state


def read(query, state):
    return torch.einsum("bhk,bhkv->bhv", query, state)


def outer(key, value):
    return key[..., :, None] * value[..., None, :]


def zeros(k, v):
    return k.new_zeros(k.shape[0], v.shape[2], k.shape[3], v.shape[3])


def linear(q, k, v, decay=None, state=None, reverse=False, scale=None):
    """``decay`` [B, T, H, K, V] or what broadcasts to it, as a factor; None for none."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    decay = torch.ones_like(q)[..., None] if decay is None else decay
    state = zeros(k, v) if state is None else state

    def step(s, q, k, v, d):
        s = d * s + outer(k, v)
        return read(q, s) * scale, s

    return loop(step, state, q, k, v, decay, reverse=reverse)


def delta(q, k, v, beta, decay=None, erase=None, state=None, scale=None):
    """``beta`` [B, T, H, 1 or V]; ``erase`` is the key that reads, k where None."""
    groups = v.shape[2] // q.shape[2]
    q, k = (x.repeat_interleave(groups, 2) for x in (q, k))
    erase = k if erase is None else erase
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    decay = torch.ones_like(q)[..., None] if decay is None else decay
    state = zeros(k, v) if state is None else state

    def step(s, q, k, v, beta, d, erase):
        s = d * s
        s = s + outer(k, beta * (v - read(erase, s)))
        return read(q, s) * scale, s

    return loop(step, state, q, k, v, beta, decay, erase)


def low_rank(q, k, v, a, b, decay=None, state=None, scale=None, reverse=False):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    decay = torch.ones_like(q) if decay is None else decay
    state = zeros(k, v) if state is None else state

    def step(s, q, k, v, a, b, d):
        s = d[..., None] * s + outer(b, read(a, s)) + outer(k, v)
        return read(q, s) * scale, s

    return loop(step, state, q, k, v, a, b, decay, reverse=reverse)


def rwkv6(r, k, v, w, u, state=None, reverse=False):
    def step(s, r, k, v, w):
        o = read(r, s + outer(u * k, v)) * r.shape[-1] ** -0.5
        return o, w.exp()[..., None] * s + outer(k, v)

    return loop(step, zeros(k, v) if state is None else state, r, k, v, w, reverse=reverse)
