"""Float64 truth for the benchmarked operators, chunk by chunk, with gradients by autograd.

These are written from the equations of the operators and share no code with the compiler, so that
a mistake there cannot hide here. Decays are factored around the middle of a chunk: in float64 that
loses nothing as long as half a chunk decays by less than e^600. They do not take -inf decays.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 32


def relative_error(value: Tensor, truth: Tensor) -> float:
    """RMS(value - truth) / RMS(truth), computed in float64; NaN in ``value`` gives NaN."""
    value, truth = value.detach().double(), truth.detach().double()
    return float((value - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def l2norm(x: Tensor) -> Tensor:
    """Vectors divided by their length; 1e-6 stands under the root, as in the libraries."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _chunked(x: Tensor, chunk: int) -> list[Tensor]:
    """[B, T, H, X] as a list of [B, H, C, X]; the last one may be shorter."""
    return list(x.transpose(1, 2).split(chunk, dim=2))


def _decay(g: Tensor | None, like: Tensor) -> Tensor:
    """Log-decays as [B, T, H, K] or [B, T, H, 1], zero where there are none."""
    if g is None:
        return torch.zeros_like(like[..., :1])
    return g if g.dim() == 4 else g.unsqueeze(-1)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    *,
    bonus: Tensor | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """S = e^g S + k v, read as q S; with ``bonus`` as q (S_before + bonus k v), which is RWKV-6.

    Args:
        q: queries [B, T, H, K], float64, already scaled.
        k: keys [B, T, H, K].
        v: values [B, T, H, V].
        g: log-decays [B, T, H] or [B, T, H, K], finite.
        bonus: weight of the token itself, [H, K]; the state is then read before the update.
        chunk: tokens per chunk.

    Returns:
        The output [B, T, H, V].
    """
    state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    outputs = []
    parts = (_chunked(x, chunk) for x in (q, k, v, _decay(g, k)))
    for qc, kc, vc, gc in zip(*parts, strict=True):
        total = gc.cumsum(2)
        read = total - gc if bonus is not None else total
        middle = total[:, :, gc.shape[2] // 2, None]
        scores = (qc * (read - middle).exp()) @ (kc * (middle - total).exp()).transpose(2, 3)
        scores = scores.tril(-1 if bonus is not None else 0)
        if bonus is not None:
            scores = scores + torch.diag_embed((qc * bonus[:, None] * kc).sum(-1))
        outputs.append((qc * read.exp()) @ state + scores @ vc)
        last = total[:, :, -1:]
        state = last.exp().transpose(2, 3) * state
        state = state + (kc * (last - total).exp()).transpose(2, 3) @ vc
    return torch.cat(outputs, 2).transpose(1, 2)


def value_decay(q: Tensor, k: Tensor, v: Tensor, g: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """S = S e^g + k v with a decay per value channel, read as q S.

    Args:
        q: queries [B, T, H, K], float64, already scaled.
        k: keys [B, T, H, K].
        v: values [B, T, H, V].
        g: log-decays [B, T, H, V], finite.
        chunk: tokens per chunk.

    Returns:
        The output [B, T, H, V].
    """
    state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    outputs = []
    parts = (_chunked(x, chunk) for x in (q, k, v, g))
    for qc, kc, vc, gc in zip(*parts, strict=True):
        total = gc.cumsum(2)
        middle = total[:, :, gc.shape[2] // 2, None]
        own = (qc @ kc.transpose(2, 3)).tril() @ (vc * (middle - total).exp())
        outputs.append(total.exp() * (qc @ state) + (total - middle).exp() * own)
        last = total[:, :, -1:]
        state = last.exp() * state + kc.transpose(2, 3) @ (vc * (last - total).exp())
    return torch.cat(outputs, 2).transpose(1, 2)


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None = None, *, chunk: int = CHUNK
) -> Tensor:
    """S = e^g S; S = S + beta k (v - k S), read as q S.

    Args:
        q: queries [B, T, H, K], float64, already normalised and scaled.
        k: keys [B, T, H, K], already normalised.
        v: values [B, T, H, V].
        beta: write strengths [B, T, H].
        g: log-decays [B, T, H] or [B, T, H, K], finite.
        chunk: tokens per chunk.

    Returns:
        The output [B, T, H, V].
    """
    state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    outputs = []
    parts = (_chunked(x, chunk) for x in (q, k, v, beta.unsqueeze(-1), _decay(g, k)))
    for qc, kc, vc, bc, gc in zip(*parts, strict=True):
        total = gc.cumsum(2)
        middle = total[:, :, gc.shape[2] // 2, None]
        source = (kc * (middle - total).exp()).transpose(2, 3)
        erase = (bc * ((kc * (total - middle).exp()) @ source)).tril(-1)
        eye = torch.eye(erase.shape[-1], dtype=erase.dtype, device=erase.device)
        wanted = bc * (vc - (kc * total.exp()) @ state)
        writes = torch.linalg.solve_triangular(erase + eye, wanted, upper=False, unitriangular=True)
        scores = ((qc * (total - middle).exp()) @ source).tril()
        outputs.append((qc * total.exp()) @ state + scores @ writes)
        last = total[:, :, -1:]
        state = last.exp().transpose(2, 3) * state
        state = state + (kc * (last - total).exp()).transpose(2, 3) @ writes
    return torch.cat(outputs, 2).transpose(1, 2)


def low_rank(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    g: Tensor,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """S = e^g S + b (a S) + k v, where a reads the state before its decay; read as q S.

    Args:
        q: queries [B, T, H, K], float64, already scaled.
        k: keys [B, T, H, K].
        v: values [B, T, H, V].
        a: what the low rank part reads with [B, T, H, K].
        b: where it writes to [B, T, H, K].
        g: log-decays [B, T, H, K], finite.
        chunk: tokens per chunk.

    Returns:
        The output [B, T, H, V].
    """
    state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    outputs = []
    parts = (_chunked(x, chunk) for x in (q, k, v, a, b, g))
    for qc, kc, vc, ac, bc, gc in zip(*parts, strict=True):
        total = gc.cumsum(2)
        before = total - gc
        middle = total[:, :, gc.shape[2] // 2, None]
        from_k, from_b = (x * (middle - total).exp() for x in (kc, bc))
        asks, reads = ac * (before - middle).exp(), qc * (total - middle).exp()
        chained = (asks @ from_b.transpose(2, 3)).tril(-1)
        eye = torch.eye(chained.shape[-1], dtype=chained.dtype, device=chained.device)
        plain = (ac * before.exp()) @ state + (asks @ from_k.transpose(2, 3)).tril(-1) @ vc
        found = torch.linalg.solve_triangular(eye - chained, plain, upper=False, unitriangular=True)
        own = (reads @ from_k.transpose(2, 3)).tril() @ vc
        own = own + (reads @ from_b.transpose(2, 3)).tril() @ found
        outputs.append((qc * total.exp()) @ state + own)
        last = total[:, :, -1:]
        kept = (last - total).exp()
        state = last.exp().transpose(2, 3) * state
        state = state + (kc * kept).transpose(2, 3) @ vc + (bc * kept).transpose(2, 3) @ found
    return torch.cat(outputs, 2).transpose(1, 2)


def gated_scan(x: Tensor, g: Tensor) -> Tensor:
    """The states of h = e^g h + x, token by token; x and g are [B, T, D], so is the result."""
    state = torch.zeros_like(x[:, 0])
    states = []
    for xt, decay in zip(x.unbind(1), g.exp().unbind(1), strict=True):
        state = decay * state + xt
        states.append(state)
    return torch.stack(states, 1)
