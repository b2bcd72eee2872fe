"""Races of the delta and dplr families: states that are partly erased before they are written."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from benchmarks import inputs, references
from benchmarks.operator import WRONG_AT_64, Call, Operator, Peer, fla, scaled


def _delta_truth(i: Mapping[str, Tensor]) -> Tensor:
    q, k = references.l2norm(i["q"]), references.l2norm(i["k"])
    return references.delta_rule(scaled(q), k, i["v"], i["beta"], i.get("g"))


def _kda_truth(i: Mapping[str, Tensor]) -> Tensor:
    g = -i["A_log"].exp()[:, None] * F.softplus(i["a"] + i["dt_bias"])
    return _delta_truth({**i, "g": g})


def _steps(x: Tensor) -> Tensor:
    """[B, T, R, ...] as [B, T R, ...]."""
    return x.flatten(1, 2)


def _product_truth(i: Mapping[str, Tensor]) -> Tensor:
    """Each of the R steps of a token as a token: the first decays, the last is read."""
    count = i["k"].shape[2]
    first = i["g"].new_zeros(*i["g"].shape[:2], count, i["g"].shape[2])
    first[:, :, 0] = i["g"]
    q = i["q"].unsqueeze(2).expand(-1, -1, count, -1, -1)
    k, v, beta = (_steps(i[name]) for name in ("k", "v", "beta"))
    o = _delta_truth({"q": _steps(q), "k": k, "v": v, "beta": beta, "g": _steps(first)})
    return o[:, count - 1 :: count]


def _comba_truth(i: Mapping[str, Tensor]) -> Tensor:
    """What is erased is read of the decayed state, which ``low_rank`` reads before."""
    q, k, p = (references.l2norm(i[name]) for name in ("q", "k", "p"))
    g = i["g"].unsqueeze(-1).expand(k.shape)
    written = k * i["beta"].unsqueeze(-1)
    return references.low_rank(scaled(q), written, i["v"], -p * g.exp(), written, g)


def _gdn2_truth(i: Mapping[str, Tensor]) -> Tensor:
    q, k = references.l2norm(i["q"]), references.l2norm(i["k"])
    read = -i["b"] * k * i["g"].exp()
    return references.low_rank(scaled(q), k, i["w"] * i["v"], read, k, i["g"])


def _rwkv7_truth(i: Mapping[str, Tensor]) -> Tensor:
    return references.low_rank(i["r"], i["k"], i["v"], -i["kk"], i["kk"] * i["a"], i["w"])


def _fla_product() -> Call:
    from benchmarks.peer_libraries import fla_operator

    operator = fla_operator("gated_delta_product", "chunk_gated_delta_product")

    def call(i: Mapping[str, Tensor]) -> Tensor:
        k, v, beta = (_steps(i[name]) for name in ("k", "v", "beta"))
        options = {"num_householder": i["k"].shape[2], "use_qk_l2norm_in_kernel": True}
        return operator(i["q"], k, v, i["g"], beta, **options)[0]

    return call


def _fla_comba() -> Call:
    from benchmarks.peer_libraries import fla_operator

    operator = fla_operator("comba", "chunk_comba")

    def call(i: Mapping[str, Tensor]) -> Tensor:
        arguments = (i[name] for name in ("q", "k", "v", "p", "g", "beta"))
        return operator(*arguments, use_qk_l2norm_in_kernel=True)[0]

    return call


def _fla_kda() -> Call:
    from benchmarks.peer_libraries import fla_operator

    operator = fla_operator("kda", "chunk_kda")
    fused = {"use_gate_in_kernel": True, "use_qk_l2norm_in_kernel": True}

    def call(i: Mapping[str, Tensor]) -> Tensor:
        gate = {"A_log": i["A_log"], "dt_bias": i["dt_bias"].flatten()}
        return operator(i["q"], i["k"], i["v"], i["a"], i["beta"], **gate, **fused)[0]

    return call


def _fla_rwkv7() -> Call:
    from benchmarks.peer_libraries import fla_operator

    operator = fla_operator("rwkv7", "chunk_rwkv7")

    def call(i: Mapping[str, Tensor]) -> Tensor:
        low_rank = {"a": -i["kk"], "b": i["kk"] * i["a"]}
        return operator(i["r"], i["w"], i["k"], i["v"], **low_rank)[0]

    return call


DELTA = (
    Operator(
        "delta_rule",
        "examples/delta_rule.yaml",
        inputs.delta,
        _delta_truth,
        (
            Peer(
                "fla delta_rule",
                fla("delta_rule", "chunk_delta_rule", use_qk_l2norm_in_kernel=True),
                197,
                "l2norm in its kernel",
            ),
        ),
    ),
    Operator(
        "gated_delta_rule",
        "examples/gated_delta_rule.yaml",
        inputs.gated_delta,
        _delta_truth,
        (
            Peer(
                "fla gated_delta_rule",
                fla("gated_delta_rule", "chunk_gated_delta_rule", use_qk_l2norm_in_kernel=True),
                169,
                "l2norm in its kernel; " + WRONG_AT_64,
            ),
        ),
    ),
    Operator(
        "kda",
        "examples/kda.yaml",
        inputs.kda,
        _kda_truth,
        (Peer("fla kda", _fla_kda, 300, "gate and l2norm in its kernels"),),
    ),
    Operator(
        "gated_delta_product",
        "examples/gated_delta_product.yaml",
        inputs.product,
        _product_truth,
        (Peer("fla gated_delta_product", _fla_product, 200, "two steps; l2norm in its kernel"),),
    ),
    Operator(
        "comba",
        "examples/comba.yaml",
        inputs.comba,
        _comba_truth,
        (Peer("fla comba", _fla_comba, 200, "l2norm in its kernel"),),
    ),
    Operator(
        "gdn2",
        "examples/gdn2.yaml",
        inputs.gdn2,
        _gdn2_truth,
        (
            Peer(
                "fla gdn2",
                fla("gdn2", "chunk_gdn2", use_qk_l2norm_in_kernel=True),
                300,
                "l2norm in its kernel",
            ),
        ),
    ),
    Operator(
        "rwkv7",
        "examples/rwkv7.yaml",
        inputs.rwkv7,
        _rwkv7_truth,
        (Peer("fla rwkv7", _fla_rwkv7, 446, "a and b in torch"),),
    ),
)
