"""Decays per channel: gla, rwkv6, hgrn."""

from __future__ import annotations

from torch import Tensor

from seqgen.compat.fla.call import Result, State, call, check
from seqgen.compat.fla.form import QKV, Form, decay, operand, queries


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> Result:
    """``S = exp(g) S + k v`` with ``g`` [B, T, H, K]."""
    check("chunk_gla", {}, scale)
    form = Form(
        "gla",
        (*QKV, decay("g", "H K")),
        ("S = exp(g) * S + k * v",),
        queries(scale, q),
    )
    tensors = {"q": q, "k": k, "v": v, "g": g}
    return call(form, tensors, initial_state, output_final_state, cu_seqlens, state_v_first)


def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """Like ``chunk_gla``; decays ``gk`` [B, T, H, K] and ``gv`` [B, T, H, V] are both optional."""
    check("fused_recurrent_gla", kwargs, scale)
    tensors: dict[str, Tensor | None] = {"q": q, "k": k, "v": v}
    tensors |= {n: x for n, x in (("gk", gk), ("gv", gv)) if x is not None}
    decays = [name for name in tensors if name.startswith("g")]
    form = Form(
        "gla" if decays else "linear_attention",
        (*QKV, *(decay(name, f"H {name[1].upper()}") for name in decays)),
        ("S = " + "".join(f"exp({name}) * " for name in decays) + "S + k * v",),
        queries(scale, q),
        reverse=reverse,
    )
    return call(form, tensors, initial_state, output_final_state, cu_seqlens, state_v_first)


def _rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None,
    initial_state: State,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    reverse: bool = False,
) -> Result:
    form = Form(
        "rwkv6",
        (operand("r", "H K"), *QKV[1:], decay("w", "H K")),
        ("S = exp(w) * S + k * v",),
        queries(scale, r, name="r"),
        "sum(r * (prev(S) + u * k * v), K)",
        parameters=(operand("u", "H K"),),
        sizes=(("K", 64), ("V", 64)),
        reverse=reverse,
    )
    tensors = {"r": r, "k": k, "v": v, "w": w, "u": u}
    return call(form, tensors, initial_state, output_final_state, cu_seqlens)


def chunk_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """The state before this token is read, and this token with its bonus ``u`` [H, K]."""
    check("chunk_rwkv6", kwargs, scale)
    return _rwkv6(r, k, v, w, u, scale, initial_state, output_final_state, cu_seqlens)


def fused_recurrent_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """Like ``chunk_rwkv6``, also from the last token to the first."""
    check("fused_recurrent_rwkv6", kwargs, scale)
    return _rwkv6(r, k, v, w, u, scale, initial_state, output_final_state, cu_seqlens, reverse)


def _hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None = None,
) -> Result:
    form = Form(
        "hgrn",
        (operand("x", "D"), decay("g", "D")),
        ("h = exp(g) * h + x",),
        output="h",
        states=(("h", "D"),),
        sizes=(("D", 1024),),
    )
    return call(form, {"x": x, "g": g}, initial_state, output_final_state, cu_seqlens)


def chunk_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
) -> Result:
    """``h = exp(g) h + x``, channel by channel; x and g are [B, T, D]."""
    return _hgrn(x, g, initial_state, output_final_state)


def fused_recurrent_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Like ``chunk_hgrn``, also for packed sequences."""
    return _hgrn(x, g, initial_state, output_final_state, cu_seqlens)
