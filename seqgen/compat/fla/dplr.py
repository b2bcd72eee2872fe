"""Diagonal or identity plus low rank: dplr_delta_rule, iplr_delta_rule, rwkv7."""

from __future__ import annotations

from torch import Tensor

from seqgen.compat.fla.call import Result, State, call, check
from seqgen.compat.fla.form import QKV, Form, decay, operand, plain, queries


def _low_rank(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor | None,
    scale: float | None,
    initial_state: State,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    reverse: bool = False,
) -> Result:
    tensors = {"q": q, "k": k, "v": v, "a": a, "b": b}
    if gk is not None:
        tensors["g"] = gk
    gates = () if gk is None else (decay("g", "H K"),)
    form = Form(
        "iplr" if gk is None else "dplr",
        (*QKV, plain("a", "H K", a, q), plain("b", "H K", b, q), *gates),
        (f"S = {'' if gk is None else 'exp(g) * '}S + b * sum(a * S, K) + k * v",),
        queries(scale, q),
        reverse=reverse,
    )
    return call(form, tensors, initial_state, output_final_state, cu_seqlens)


def chunk_dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    safe_gate: bool = False,
    chunk_size: int | None = None,
    disable_recompute: bool = False,
    cp_context: object = None,
    lower_bound: float | None = None,
    **kwargs: object,
) -> Result:
    """``S = exp(gk) S + b (a S) + k v``, where ``a`` reads the state before its decay."""
    check("chunk_dplr_delta_rule", kwargs, scale, cp_context=cp_context)
    state = (initial_state, output_final_state, cu_seqlens)
    return _low_rank(q, k, v, a, b, gk, scale, *state)


def fused_recurrent_dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Like ``chunk_dplr_delta_rule``, also from the last token to the first."""
    check("fused_recurrent_dplr_delta_rule", {}, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    return _low_rank(q, k, v, a, b, gk, scale, *state, reverse)


def chunk_iplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """``S = S + b (a S) + k v``."""
    check("chunk_iplr_delta_rule", kwargs, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    return _low_rank(q, k, v, a, b, None, scale, *state)


def fused_recurrent_iplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Like ``chunk_iplr_delta_rule``."""
    check("fused_recurrent_iplr_delta_rule", {}, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    return _low_rank(q, k, v, a, b, None, scale, *state)


def chunk_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    safe_gate: bool = False,
    chunk_size: int | None = None,
    disable_recompute: bool = False,
    cp_context: object = None,
    lower_bound: float | None = None,
    **kwargs: object,
) -> Result:
    """``chunk_dplr_delta_rule`` under RWKV's names; the scale is 1 if not given."""
    check("chunk_rwkv7", kwargs, scale, cp_context=cp_context)
    state = (initial_state, output_final_state, cu_seqlens)
    return _low_rank(r, k, v, a, b, w, scale, *state)


def fused_recurrent_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = True,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """Like ``chunk_rwkv7``, but the scale is K ** -0.5 and the final state comes if not given."""
    check("fused_recurrent_rwkv7", kwargs, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    return _low_rank(r, k, v, a, b, w, scale, *state)


def fused_mul_recurrent_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    kk: Tensor,
    a: Tensor,
    scale: float | None = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """RWKV-7 from its erased key ``kk`` and learning rate ``a``."""
    check("fused_mul_recurrent_rwkv7", kwargs, scale)
    form = Form(
        "rwkv7",
        (
            operand("r", "H K"),
            decay("w", "H K"),
            *QKV[1:],
            plain("kk", "H K", kk, r),
            plain("a", "H K", a, r),
        ),
        ("S = exp(w) * S - kk * a * sum(kk * S, K) + k * v",),
        queries(scale, r, name="r"),
        "sum(r * S, K)",
        sizes=(("K", 64), ("V", 64)),
        reverse=reverse,
    )
    tensors = {"r": r, "w": w, "k": k, "v": v, "kk": kk, "a": a}
    return call(form, tensors, initial_state, output_final_state, cu_seqlens)
