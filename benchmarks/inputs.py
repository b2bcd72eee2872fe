"""Inputs of the races.

Distributions are those of FLA's own benchmark (gates from logsigmoid of a normal, write strengths
from its sigmoid) and Mamba-2's initialisation, so that nobody is timed on a case that the other
side would not choose.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.shapes import Shape

Inputs = dict[str, Tensor]


def _normal(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)


def qkv(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    return {name: _normal((s.B, s.T, s.H, s.D), generator, dtype) for name in ("q", "k", "v")}


def _head_gate(s: Shape, generator: torch.Generator) -> Tensor:
    return F.logsigmoid(_normal((s.B, s.T, s.H), generator))


def simple_gla(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    return {**qkv(s, dtype, generator), "g": _head_gate(s, generator)}


def gla(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    g = F.logsigmoid(_normal((s.B, s.T, s.H, s.D), generator)).clamp_min(-5)
    return {**qkv(s, dtype, generator), "g": g.to(dtype)}


def _beta(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return _normal((s.B, s.T, s.H), generator).sigmoid().to(dtype)


def delta(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    return {**qkv(s, dtype, generator), "beta": _beta(s, dtype, generator)}


def gated_delta(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    gate = _head_gate(s, generator)
    return {**qkv(s, dtype, generator), "g": gate, "beta": _beta(s, dtype, generator)}


def hgrn2(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    made = gla(s, dtype, generator)
    return {"q": made["q"], "v": made["v"], "g": made["g"].float()}


SLOTS = 64
"""Slots M of the races of gated slot attention."""


def gsa(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """Each slot takes up what its gate lets go, as in the layer."""
    g = F.logsigmoid(_normal((s.B, s.T, s.H, SLOTS), generator) / 8)
    return {**qkv(s, dtype, generator), "s": (-g.expm1()).to(dtype), "g": g}


PRODUCT_STEPS = 2
"""Steps per token in the races of gated DeltaProduct."""


def product(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    steps = (s.B, s.T, PRODUCT_STEPS, s.H)
    made = {name: _normal((*steps, s.D), generator, dtype) for name in ("k", "v")}
    made["q"] = _normal((s.B, s.T, s.H, s.D), generator, dtype)
    beta = _normal(steps, generator).sigmoid().to(dtype)
    return {**made, "g": _head_gate(s, generator), "beta": beta}


def comba(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """The key of the error is the key, scaled per head, as in the layer; both get length 1."""
    made = gated_delta(s, dtype, generator)
    noise = 0.1 * _normal(made["k"].shape, generator, dtype)
    return {**made, "p": made["k"] + noise}


def gdn2(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    tokens = (s.B, s.T, s.H, s.D)
    gates = {name: _normal(tokens, generator).sigmoid().to(dtype) for name in ("b", "w")}
    g = F.logsigmoid(_normal(tokens, generator)).clamp_min(-5)
    return {**qkv(s, dtype, generator), "g": g, **gates}


def rwkv6(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    tokens = (s.B, s.T, s.H, s.D)
    made = {name: _normal(tokens, generator, dtype) for name in ("r", "k", "v")}
    made["w"] = F.logsigmoid(_normal(tokens, generator)).to(dtype)
    return {**made, "u": _normal((s.H, s.D), generator, dtype)}


def rwkv7(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """The decay as RWKV-7's layer bounds it; ``kk`` has length 1 and ``a`` lies in 0 ... 1."""
    tokens = (s.B, s.T, s.H, s.D)
    made = {name: _normal(tokens, generator, dtype) for name in ("r", "k", "v")}
    made["w"] = (-math.exp(-0.5) * _normal(tokens, generator).sigmoid()).to(dtype)
    made["kk"] = F.normalize(_normal(tokens, generator), dim=-1).to(dtype)
    return {**made, "a": _normal(tokens, generator).sigmoid().to(dtype)}


def hgrn(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    channels = (s.B, s.T, s.H * s.D)
    gate = F.logsigmoid(_normal(channels, generator)).to(dtype)
    return {"x": _normal(channels, generator, dtype), "g": gate}


MAMBA_STATE = 128
"""State size N of the Mamba-2 races; the head dimension P is the shape's D."""


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _dt_bias(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """What softplus makes a step of 0.001 ... 0.1 from."""
    step = 1e-3 * 100 ** _uniform(shape, generator)
    return step + (-torch.expm1(-step)).log()


def kda(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """The gate as the layer projects it, before softplus and ``A_log``."""
    return {
        **delta(s, dtype, generator),
        "a": _normal((s.B, s.T, s.H, s.D), generator, dtype),
        "A_log": (1 + 15 * _uniform((s.H,), generator)).log(),
        "dt_bias": _dt_bias((s.H, s.D), generator),
    }


def mamba2(s: Shape, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    return {
        "x": _normal((s.B, s.T, s.H, s.D), generator, dtype),
        "dt": _normal((s.B, s.T, s.H), generator, dtype),
        "B": _normal((s.B, s.T, 1, MAMBA_STATE), generator, dtype),
        "C": _normal((s.B, s.T, 1, MAMBA_STATE), generator, dtype),
        "A": -(1 + 15 * _uniform((s.H,), generator)),
        "D": torch.ones(s.H, device=generator.device),
        "dt_bias": _dt_bias((s.H,), generator),
    }
