"""Kimi delta attention: a delta rule with one decay per channel."""

from __future__ import annotations

from torch import Tensor

from seqgen.compat.fla.call import Result, State, call, check, needs
from seqgen.compat.fla.delta import GROUPED_STATE, WRITE, strength
from seqgen.compat.fla.form import QKV_GROUPED, Form, operand, plain, queries


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    safe_gate: bool = False,
    lower_bound: float | None = None,
    disable_recompute: bool = False,
    return_intermediate_states: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    cp_context: object = None,
    *,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """``S = exp(g) S``, then the delta rule; ``g`` is [B, T, HV, K], ``beta`` [B, T, HV]."""
    name = "chunk_kda"
    refused = {"return_intermediate_states": return_intermediate_states, "cp_context": cp_context}
    check(name, kwargs, scale, **refused)
    return _kda(
        name,
        {"q": q, "k": k, "v": v, "g": g, "beta": beta},
        queries(scale, q, use_qk_l2norm_in_kernel),
        (initial_state, output_final_state, cu_seqlens, state_v_first),
        (use_gate_in_kernel, A_log, dt_bias, lower_bound),
        (use_beta_sigmoid_in_kernel, allow_neg_eigval),
    )


def fused_recurrent_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    lower_bound: float | None = None,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: object,
) -> Result:
    """Like ``chunk_kda``; slots of a continuous batch are refused."""
    name = "fused_recurrent_kda"
    check(name, kwargs, scale)
    return _kda(
        name,
        {"q": q, "k": k, "v": v, "g": g, "beta": beta},
        queries(scale, q, use_qk_l2norm_in_kernel),
        (initial_state, output_final_state, cu_seqlens, state_v_first),
        (use_gate_in_kernel, A_log, dt_bias, lower_bound),
        (use_beta_sigmoid_in_kernel, allow_neg_eigval),
    )


def _kda(
    name: str,
    tensors: dict[str, Tensor],
    let: tuple[tuple[str, str], ...],
    state: tuple[State, bool, Tensor | None, bool],
    gate: tuple[bool, Tensor | None, Tensor | None, float | None],
    beta: tuple[bool, bool],
) -> Result:
    """``gate`` is whether g is raw, with A_log, dt_bias and lower_bound."""
    in_kernel, a_log, dt_bias, lower_bound = gate
    if beta[1]:
        needs(name, "allow_neg_eigval", use_beta_sigmoid_in_kernel=beta[0])
    parameters: dict[str, tuple[Tensor, str]] = {}
    if in_kernel:
        if lower_bound is None:
            needs(name, "use_gate_in_kernel", A_log=a_log)
        if a_log is not None:
            parameters["A_log"] = a_log, "HV"
        if dt_bias is not None:
            parameters["dt_bias"] = dt_bias.reshape(tensors["g"].shape[2:]), "HV K"
        let = (*let, ("g", _gate(lower_bound, "A_log" in parameters, "dt_bias" in parameters)))
    form = Form(
        "kda",
        (
            *QKV_GROUPED,
            operand("g", "HV K", wide=True, decay=not in_kernel),
            plain("beta", "HV", tensors["beta"], tensors["q"]),
        ),
        ("S = exp(g) * S", WRITE),
        (*let, *strength(*beta)),
        states=GROUPED_STATE,
        parameters=tuple(operand(n, axes) for n, (_, axes) in parameters.items()),
    )
    return call(form, {**tensors, **{n: x for n, (x, _) in parameters.items()}}, *state)


def _gate(lower_bound: float | None, has_rate: bool, has_bias: bool) -> str:
    """The log-decay of a raw g: unbounded below, or a sigmoid between ``lower_bound`` and 0."""
    raw = "g + dt_bias" if has_bias else "g"
    if lower_bound is None:
        return f"-exp(A_log) * softplus({raw})"
    rate = "exp(A_log) * " if has_rate else ""
    return f"({float(lower_bound)!r}) * sigmoid({rate}({raw}))"
