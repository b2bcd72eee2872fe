"""Delta rules: delta_rule, gated_delta_rule, comba."""

from __future__ import annotations

import torch
from torch import Tensor

from seqgen.compat.fla.call import Result, State, call, check, needs
from seqgen.compat.fla.form import QKV, QKV_GROUPED, Form, decay, operand, plain, queries

WRITE = "S = S + beta * k * (v - sum(k * S, K))"
GROUPED_STATE = (("S", "HV K V"),)


def ones(v: Tensor, q: Tensor) -> Tensor:
    """A ``beta`` of 1 for every token and head."""
    return torch.ones(v.shape[:3], dtype=q.dtype, device=q.device)


def strength(in_kernel: bool, twice: bool) -> tuple[tuple[str, str], ...]:
    """The ``let`` line that makes ``beta`` of its logits."""
    if not in_kernel:
        return ()
    return (("beta", "2 * sigmoid(beta)" if twice else "sigmoid(beta)"),)


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """``S = S + beta k (v - k S)`` with ``beta`` [B, T, H]."""
    check("chunk_delta_rule", kwargs, scale)
    state = (initial_state, output_final_state, cu_seqlens)
    return _delta_rule(q, k, v, beta, scale, use_qk_l2norm_in_kernel, *state)


def fused_recurrent_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Like ``chunk_delta_rule``; ``beta`` is 1 where None, and may be [B, T, H, V]."""
    check("fused_recurrent_delta_rule", {}, scale)
    beta = ones(v, q) if beta is None else beta
    state = (initial_state, output_final_state, cu_seqlens)
    return _delta_rule(q, k, v, beta, scale, use_qk_l2norm_in_kernel, *state)


def _delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None,
    normalise: bool,
    initial_state: State,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> Result:
    axes = "H V" if beta.dim() == 4 else "H"
    form = Form(
        "delta_rule",
        (*QKV, plain("beta", axes, beta, q)),
        (WRITE,),
        queries(scale, q, normalise),
    )
    tensors = {"q": q, "k": k, "v": v, "beta": beta}
    return call(form, tensors, initial_state, output_final_state, cu_seqlens)


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    cp_context: object = None,
    *,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """``S = exp(g) S``, then the delta rule; ``g`` and ``beta`` are [B, T, HV]."""
    name = "chunk_gated_delta_rule"
    check(name, kwargs, scale, chunk_indices=chunk_indices, cp_context=cp_context)
    return _gated_delta_rule(
        name,
        {"q": q, "k": k, "v": v, "g": g, "beta": beta},
        queries(scale, q, use_qk_l2norm_in_kernel),
        (initial_state, output_final_state, cu_seqlens, state_v_first),
        (use_gate_in_kernel, A_log, dt_bias),
        (use_beta_sigmoid_in_kernel, allow_neg_eigval),
    )


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """Like ``chunk_gated_delta_rule``, also with ``gk`` [B, T, HV, K] and ``gv`` [B, T, HV, V]."""
    name = "fused_recurrent_gated_delta_rule"
    check(name, kwargs, scale)
    decays = {n: x for n, x in (("g", g), ("gk", gk), ("gv", gv)) if x is not None}
    return _gated_delta_rule(
        name,
        {"q": q, "k": k, "v": v, **decays, "beta": ones(v, q) if beta is None else beta},
        queries(scale, q, use_qk_l2norm_in_kernel),
        (initial_state, output_final_state, cu_seqlens, state_v_first),
        (use_gate_in_kernel, A_log, dt_bias),
        (use_beta_sigmoid_in_kernel, allow_neg_eigval),
    )


def _gated_delta_rule(
    name: str,
    tensors: dict[str, Tensor],
    let: tuple[tuple[str, str], ...],
    state: tuple[State, bool, Tensor | None, bool],
    gate: tuple[bool, Tensor | None, Tensor | None],
    beta: tuple[bool, bool],
) -> Result:
    """``gate`` is whether g is raw, with A_log and dt_bias; ``beta`` whether it is and doubled."""
    in_kernel, a_log, dt_bias = gate
    if beta[1]:
        needs(name, "allow_neg_eigval", use_beta_sigmoid_in_kernel=beta[0])
    parameters: dict[str, Tensor] = {}
    if in_kernel:
        needs(name, "use_gate_in_kernel", A_log=a_log, g=tensors.get("g"))
        given = (("A_log", a_log), ("dt_bias", dt_bias))
        parameters = {n: x for n, x in given if x is not None}
        raw = "g" if dt_bias is None else "g + dt_bias"
        let = (*let, ("g", f"-exp(A_log) * softplus({raw})"))
    axes = {"g": "HV", "gk": "HV K", "gv": "HV V"}
    decays = [n for n in tensors if n in axes]
    form = Form(
        "gated_delta_rule",
        (
            *QKV_GROUPED,
            *(operand(n, axes[n], True, decay=not (in_kernel and n == "g")) for n in decays),
            plain("beta", "HV", tensors["beta"], tensors["q"]),
        ),
        (*(f"S = exp({n}) * S" for n in decays), WRITE),
        (*let, *strength(*beta)),
        states=GROUPED_STATE,
        parameters=tuple(operand(n, "HV") for n in parameters),
    )
    return call(form, {**tensors, **parameters}, *state)


def chunk_comba(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Tensor | None,
    g: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> Result:
    """``S = exp(g) S``, then ``S = S + beta k (v - p S)``; ``p`` is k where None."""
    check("chunk_comba", {}, scale)
    p, beta = k if p is None else p, ones(v, q) if beta is None else beta
    let = queries(scale, q, use_qk_l2norm_in_kernel)
    form = Form(
        "comba",
        (*QKV, operand("p", "H K"), decay("g", "H"), plain("beta", "H", beta, q)),
        ("S = exp(g) * S", "S = S + beta * k * (v - sum(p * S, K))"),
        (*let, ("p", "l2norm(p, K)")) if use_qk_l2norm_in_kernel else let,
    )
    tensors = {"q": q, "k": k, "v": v, "p": p, "g": g, "beta": beta}
    return call(form, tensors, initial_state, output_final_state, cu_seqlens)


def fused_recurrent_comba(
    q: Tensor,
    k: Tensor,
    p: Tensor | None,
    v: Tensor,
    g: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """Like ``chunk_comba``, but FLA has ``p`` before ``v`` here."""
    check("fused_recurrent_comba", {}, scale)
    state = (initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens)
    return chunk_comba(q, k, v, p, g, beta, scale, *state)
