"""One decay per head or none: linear_attn, retention, lightning_attn, simple_gla."""

from __future__ import annotations

import torch
from torch import Tensor

from seqgen.compat.fla.call import Result, State, call, check
from seqgen.compat.fla.form import QKV, Form, decay, operand, queries


def _simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    g_gamma: Tensor | None,
    scale: float | None,
    initial_state: State,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    reverse: bool = False,
    state_v_first: bool = False,
) -> Result:
    tensors: dict[str, Tensor | None] = {"q": q, "k": k, "v": v}
    tensors |= {n: x for n, x in (("g", g), ("g_gamma", g_gamma)) if x is not None}
    rate = " + ".join(name for name in tensors if name.startswith("g"))
    form = Form(
        "simple_gla" if rate else "linear_attention",
        QKV if g is None else (*QKV, decay("g", "H")),
        (f"S = exp({rate}) * S + k * v" if rate else "S = S + k * v",),
        queries(scale, q),
        parameters=() if g_gamma is None else (operand("g_gamma", "H", decay=True),),
        reverse=reverse,
    )
    return call(form, tensors, initial_state, output_final_state, cu_seqlens, state_v_first)


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """``S = exp(g) S + k v``; ``g`` [B, T, H] and ``g_gamma`` [H] add up."""
    check("chunk_simple_gla", kwargs, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    return _simple_gla(q, k, v, g, g_gamma, scale, *state, state_v_first=state_v_first)


def fused_recurrent_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """Like ``chunk_simple_gla``, also from the last token to the first."""
    check("fused_recurrent_simple_gla", kwargs, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    return _simple_gla(q, k, v, g, g_gamma, scale, *state, reverse, state_v_first)


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """``S = S + k v``; with ``normalize`` the state is the pair of S and the sum of the keys."""
    check("chunk_linear_attn", {}, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    if normalize:
        return _normalised(q, k, v, scale, *state, reverse=False)
    return _simple_gla(q, k, v, None, None, scale, *state)


def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: State = None,
    output_final_state: bool = False,
    reverse: bool = False,
    normalize: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Like ``chunk_linear_attn``, also from the last token to the first."""
    check("fused_recurrent_linear_attn", {}, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    if normalize:
        return _normalised(q, k, v, scale, *state, reverse)
    return _simple_gla(q, k, v, None, None, scale, *state, reverse)


def _normalised(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    initial_state: State,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> Result:
    # FLA has the sum of the keys as [N, 1, H, K] and takes S alone as well.
    if isinstance(initial_state, tuple):
        s, z = initial_state
        initial_state = (s, z if z is None else z.squeeze(1))
    elif initial_state is not None:
        initial_state = (initial_state, None)
    form = Form(
        "linear_attention_normalised",
        QKV,
        ("S = S + k * v", "z = z + k"),
        queries(scale, q),
        "sum(q * S, K) / (sum(q * z, K) + 1e-10)",
        (("S", "H K V"), ("z", "H K")),
        reverse=reverse,
    )
    tensors = {"q": q, "k": k, "v": v}
    o, final = call(form, tensors, initial_state, output_final_state, cu_seqlens)
    return o, None if final is None else (final.S, final.z.unsqueeze(1))


def _retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    initial_state: State,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    reverse: bool = False,
    state_v_first: bool = False,
) -> Result:
    form = Form(
        "retnet",
        QKV,
        ("S = exp(g) * S + k * v",),
        (*queries(scale, q), ("g", "log1p(-2 ** (-5 - index(H)))")),
        reverse=reverse,
    )
    tensors = {"q": q, "k": k, "v": v}
    return call(form, tensors, initial_state, output_final_state, cu_seqlens, state_v_first)


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """Head h keeps 1 - 2^(-5-h) of its state."""
    check("chunk_retention", kwargs, scale)
    return _retention(q, k, v, scale, initial_state, output_final_state, cu_seqlens)


def fused_recurrent_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """Like ``chunk_retention``, also from the last token to the first."""
    check("fused_recurrent_retention", kwargs, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    return _retention(q, k, v, scale, *state, reverse, state_v_first)


def _lightning_decay(q: Tensor, layer_idx: int, num_layers: int) -> Tensor:
    """Lightning's log-decay of every head in this layer, float32 [H]."""
    heads = q.shape[2]
    slope = -8 / heads * (1 - layer_idx / num_layers)
    return slope * torch.arange(heads, device=q.device, dtype=torch.float32)


def chunk_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """A constant decay per head, which layers near the end have less of."""
    check("chunk_lightning_attn", kwargs, scale)
    rate = _lightning_decay(q, layer_idx, num_layers)
    state = (initial_state, output_final_state, cu_seqlens)
    return _simple_gla(q, k, v, None, rate, scale, *state)


def fused_recurrent_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """Like ``chunk_lightning_attn``, also from the last token to the first."""
    check("fused_recurrent_lightning_attn", kwargs, scale)
    rate = _lightning_decay(q, layer_idx, num_layers)
    state = (initial_state, output_final_state, cu_seqlens)
    return _simple_gla(q, k, v, None, rate, scale, *state, reverse)
