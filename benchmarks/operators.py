"""What is raced: for every operator its inputs, its truth, our spec and the peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import inputs, references
from benchmarks.inputs import Inputs
from benchmarks.shapes import Shape

Call = Callable[[Mapping[str, Tensor]], Tensor]
"""Takes the inputs of an operator by name, gives its output."""


@dataclass(frozen=True)
class Peer:
    """An existing implementation of the operator.

    ``load`` imports it and gives the function to call; an ImportError means it is not installed.
    ``note`` tells the reader of the table what the number stands for.
    """

    name: str
    load: Callable[[], Call]
    configs: int
    """How many kernel configurations its autotuner tries on a first call, for the plan's times."""
    note: str = ""


@dataclass(frozen=True)
class Operator:
    """One row group of the tables."""

    name: str
    spec: str
    """Spec file below the repository's root."""
    make: Callable[[Shape, torch.dtype, torch.Generator], Inputs]
    truth: Call
    """The output in float64, from float64 inputs."""
    peers: tuple[Peer, ...]
    frozen: tuple[str, ...] = ()
    """Inputs without gradient."""

    def inputs(self, shape: Shape, dtype: torch.dtype, device: str, seed: int) -> Inputs:
        """Fresh inputs as leaves of autograd; the same seed gives the same numbers."""
        generator = torch.Generator(device).manual_seed(seed)
        made = self.make(shape, dtype, generator)
        return {
            name: x.detach().contiguous().requires_grad_(name not in self.frozen)
            for name, x in made.items()
        }


def ours(function: Callable[..., tuple[Tensor, object]]) -> Call:
    """The calling convention of a generated operator: every input by name, ``(o, state)`` back."""
    return lambda inputs: function(**inputs)[0]


def retention_log_decay(heads: int, device: torch.device) -> Tensor:
    """RetNet's decay of head h, log(1 - 2^(-5-h)), float64 [H]."""
    h = torch.arange(heads, device=device, dtype=torch.float64)
    return torch.log1p(-(2.0 ** (-5.0 - h)))


def _scaled(x: Tensor) -> Tensor:
    return x * x.shape[-1] ** -0.5


def _linear_truth(i: Mapping[str, Tensor]) -> Tensor:
    return references.linear_attention(_scaled(i["q"]), i["k"], i["v"], i.get("g"))


def _retnet_truth(i: Mapping[str, Tensor]) -> Tensor:
    decay = retention_log_decay(i["q"].shape[2], i["q"].device)
    return references.linear_attention(
        _scaled(i["q"]), i["k"], i["v"], decay.expand(i["q"].shape[:3])
    )


def _delta_truth(i: Mapping[str, Tensor]) -> Tensor:
    q, k = references.l2norm(i["q"]), references.l2norm(i["k"])
    return references.delta_rule(_scaled(q), k, i["v"], i["beta"], i.get("g"))


def _kda_truth(i: Mapping[str, Tensor]) -> Tensor:
    g = -i["A_log"].exp()[:, None] * F.softplus(i["a"] + i["dt_bias"])
    return _delta_truth({**i, "g": g})


def _rwkv6_truth(i: Mapping[str, Tensor]) -> Tensor:
    return references.linear_attention(_scaled(i["r"]), i["k"], i["v"], i["w"], bonus=i["u"])


def _rwkv7_truth(i: Mapping[str, Tensor]) -> Tensor:
    return references.low_rank(i["r"], i["k"], i["v"], -i["kk"], i["kk"] * i["a"], i["w"])


def _mamba2_as_linear(i: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mamba-2 as linear attention with scalar decay: queries, keys, values, log-decays."""
    heads = i["x"].shape[2]
    dt = F.softplus(i["dt"].to(i["dt_bias"].dtype) + i["dt_bias"])
    b, c = (i[name].expand(-1, -1, heads, -1) for name in ("B", "C"))
    return c, b, (i["x"] * dt.unsqueeze(-1)).to(i["x"].dtype), dt * i["A"]


def _mamba2_truth(i: Mapping[str, Tensor]) -> Tensor:
    return references.linear_attention(*_mamba2_as_linear(i)) + i["D"][:, None] * i["x"]


def _fla(module: str, function: str, **fixed: object) -> Callable[[], Call]:
    def load() -> Call:
        from benchmarks.peer_libraries import fla_operator

        operator = fla_operator(module, function)
        return lambda inputs: operator(**inputs, **fixed)[0]

    return load


def _fla_mamba2() -> Call:
    from benchmarks.peer_libraries import fla_operator

    operator = fla_operator("simple_gla", "chunk_simple_gla")

    def call(i: Mapping[str, Tensor]) -> Tensor:
        q, k, v, g = _mamba2_as_linear(i)
        o = operator(q, k, v, g, scale=1.0)[0]
        return o + i["D"].to(o.dtype)[:, None] * i["x"]

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


def _mamba_ssm() -> Call:
    from benchmarks.peer_libraries import mamba_chunk_scan

    scan = mamba_chunk_scan()

    def call(i: Mapping[str, Tensor]) -> Tensor:
        rest = {"D": i["D"], "dt_bias": i["dt_bias"], "dt_softplus": True}
        return scan(i["x"], i["dt"], i["A"], i["B"], i["C"], 256, **rest)

    return call


WRONG_AT_64 = "FLA's own guard is lifted; on Hopper with Triton < 3.7.1 it is wrong at D = 64"

OPERATORS = {
    operator.name: operator
    for operator in (
        Operator(
            "simple_gla",
            "examples/simple_gla.yaml",
            inputs.simple_gla,
            _linear_truth,
            (Peer("fla simple_gla", _fla("simple_gla", "chunk_simple_gla"), 173, WRONG_AT_64),),
        ),
        Operator(
            "linear_attention",
            "examples/linear_attention.yaml",
            inputs.qkv,
            _linear_truth,
            (
                Peer(
                    "fla linear_attn",
                    _fla("linear_attn", "chunk_linear_attn", normalize=False),
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
            (Peer("fla retention", _fla("retention", "chunk_retention"), 165),),
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
            (Peer("fla gla", _fla("gla", "chunk_gla"), 320),),
        ),
        Operator(
            "delta_rule",
            "examples/delta_rule.yaml",
            inputs.delta,
            _delta_truth,
            (
                Peer(
                    "fla delta_rule",
                    _fla("delta_rule", "chunk_delta_rule", use_qk_l2norm_in_kernel=True),
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
                    _fla(
                        "gated_delta_rule", "chunk_gated_delta_rule", use_qk_l2norm_in_kernel=True
                    ),
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
            "rwkv6",
            "examples/rwkv6.yaml",
            inputs.rwkv6,
            _rwkv6_truth,
            (Peer("fla rwkv6", _fla("rwkv6", "chunk_rwkv6"), 326),),
            frozen=("u",),
        ),
        Operator(
            "rwkv7",
            "examples/rwkv7.yaml",
            inputs.rwkv7,
            _rwkv7_truth,
            (Peer("fla rwkv7", _fla_rwkv7, 446, "a and b in torch"),),
        ),
        Operator(
            "hgrn",
            "examples/hgrn.yaml",
            inputs.hgrn,
            lambda i: references.gated_scan(i["x"], i["g"]),
            (
                Peer("fla hgrn chunk", _fla("hgrn", "chunk_hgrn"), 24),
                Peer("fla hgrn recurrent", _fla("hgrn", "fused_recurrent_hgrn"), 24),
            ),
        ),
    )
}
