"""Races of the linear family: states that decay and take products of keys and values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import inputs, references
from benchmarks.operator import WRONG_AT_64, Call, Operator, Peer, fla, scaled


def retention_log_decay(heads: int, device: torch.device) -> Tensor:
    """RetNet's decay of head h, log(1 - 2^(-5-h)), float64 [H]."""
    h = torch.arange(heads, device=device, dtype=torch.float64)
    return torch.log1p(-(2.0 ** (-5.0 - h)))


def _linear_truth(i: Mapping[str, Tensor]) -> Tensor:
    return references.linear_attention(scaled(i["q"]), i["k"], i["v"], i.get("g"))


def _retnet_truth(i: Mapping[str, Tensor]) -> Tensor:
    decay = retention_log_decay(i["q"].shape[2], i["q"].device)
    return references.linear_attention(
        scaled(i["q"]), i["k"], i["v"], decay.expand(i["q"].shape[:3])
    )


def _hgrn2_truth(i: Mapping[str, Tensor]) -> Tensor:
    return references.linear_attention(scaled(i["q"]), -i["g"].expm1(), i["v"], i["g"])


def _rwkv6_truth(i: Mapping[str, Tensor]) -> Tensor:
    return references.linear_attention(scaled(i["r"]), i["k"], i["v"], i["w"], bonus=i["u"])


def _gsa_truth(i: Mapping[str, Tensor]) -> Tensor:
    read = references.value_decay(scaled(i["q"]), i["k"], i["s"], i["g"])
    return references.linear_attention(read.softmax(-1), i["s"], i["v"], i["g"])


def _mamba2_as_linear(i: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mamba-2 as linear attention with scalar decay: queries, keys, values, log-decays."""
    heads = i["x"].shape[2]
    dt = F.softplus(i["dt"].to(i["dt_bias"].dtype) + i["dt_bias"])
    b, c = (i[name].expand(-1, -1, heads, -1) for name in ("B", "C"))
    return c, b, (i["x"] * dt.unsqueeze(-1)).to(i["x"].dtype), dt * i["A"]


def _mamba2_truth(i: Mapping[str, Tensor]) -> Tensor:
    return references.linear_attention(*_mamba2_as_linear(i)) + i["D"][:, None] * i["x"]


def _fla_mamba2() -> Call:
    from benchmarks.peer_libraries import fla_operator

    operator = fla_operator("simple_gla", "chunk_simple_gla")

    def call(i: Mapping[str, Tensor]) -> Tensor:
        q, k, v, g = _mamba2_as_linear(i)
        o = operator(q, k, v, g, scale=1.0)[0]
        return o + i["D"].to(o.dtype)[:, None] * i["x"]

    return call


def _fla_hgrn2() -> Call:
    from benchmarks.peer_libraries import fla_operator

    operator = fla_operator("gla", "chunk_gla")

    def call(i: Mapping[str, Tensor]) -> Tensor:
        k = -i["g"].expm1().to(i["q"].dtype)
        return operator(i["q"], k, i["v"], i["g"])[0]

    return call


def _mamba_ssm() -> Call:
    from benchmarks.peer_libraries import mamba_chunk_scan

    scan = mamba_chunk_scan()

    def call(i: Mapping[str, Tensor]) -> Tensor:
        rest = {"D": i["D"], "dt_bias": i["dt_bias"], "dt_softplus": True}
        return scan(i["x"], i["dt"], i["A"], i["B"], i["C"], 256, **rest)

    return call


LINEAR = (
    Operator(
        "simple_gla",
        "examples/simple_gla.yaml",
        inputs.simple_gla,
        _linear_truth,
        (Peer("fla simple_gla", fla("simple_gla", "chunk_simple_gla"), 173, WRONG_AT_64),),
    ),
    Operator(
        "linear_attention",
        "examples/linear_attention.yaml",
        inputs.qkv,
        _linear_truth,
        (
            Peer(
                "fla linear_attn",
                fla("linear_attn", "chunk_linear_attn", normalize=False),
                165,
                "normalize=False",
            ),
        ),
    ),
    Operator(
        "retnet",
        "examples/retnet.yaml",
        inputs.qkv,
        _retnet_truth,
        (Peer("fla retention", fla("retention", "chunk_retention"), 165),),
    ),
    Operator(
        "mamba2_ssd",
        "examples/mamba2_ssd.yaml",
        inputs.mamba2,
        _mamba2_truth,
        (
            Peer("mamba_ssm ssd", _mamba_ssm, 150, "chunk 256"),
            Peer("fla simple_gla", _fla_mamba2, 173, "dt, decay and skip in torch"),
        ),
    ),
    Operator(
        "gla",
        "examples/gla.yaml",
        inputs.gla,
        _linear_truth,
        (Peer("fla gla", fla("gla", "chunk_gla"), 320),),
    ),
    Operator(
        "hgrn2",
        "examples/hgrn2.yaml",
        inputs.hgrn2,
        _hgrn2_truth,
        (Peer("fla gla", _fla_hgrn2, 320, "its keys 1 - exp(g) in torch"),),
    ),
    Operator(
        "gsa",
        "examples/gsa.yaml",
        inputs.gsa,
        _gsa_truth,
        (Peer("fla gsa", fla("gsa", "chunk_gsa"), 300, "64 slots"),),
    ),
    Operator(
        "rwkv6",
        "examples/rwkv6.yaml",
        inputs.rwkv6,
        _rwkv6_truth,
        (Peer("fla rwkv6", fla("rwkv6", "chunk_rwkv6"), 326),),
        frozen=("u",),
    ),
    Operator(
        "hgrn",
        "examples/hgrn.yaml",
        inputs.hgrn,
        lambda i: references.gated_scan(i["x"], i["g"]),
        (
            Peer("fla hgrn chunk", fla("hgrn", "chunk_hgrn"), 24),
            Peer("fla hgrn recurrent", fla("hgrn", "fused_recurrent_hgrn"), 24),
        ),
    ),
)
