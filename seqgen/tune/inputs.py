"""Random tensors for a workload: ordinary ones for timing, extreme ones for the gate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seqgen.tune.workload import Operand, Workload

Style = Literal["ordinary", "extreme", "infinite"]
"""Extreme gates are at their ends as often as not; infinite ones also at an infinite end."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call: tensors by name (inputs ``[B, T, *axes]``), states ``[N, *axes]``.

    ``states`` is None where the call gets no initial state.
    """

    tensors: dict[str, Tensor]
    states: tuple[Tensor, ...] | None
    cu_seqlens: Tensor | None

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Every tensor with a gradient, by name."""
        numbered = {f"initial_state_{i}": s for i, s in enumerate(self.states or ())}
        return {**self.tensors, **numbered}


def make_inputs(
    workload: Workload,
    seed: int,
    device: str,
    *,
    style: Style = "ordinary",
    with_state: bool = False,
    borders: tuple[int, ...] | None = None,
) -> Inputs:
    """Tensors for ``workload``, the same for the same seed on the same device.

    Args:
        workload: sizes, dtype and operands.
        seed: of the random numbers.
        device: where to make them.
        style: how gates are drawn.
        with_state: give an initial state.
        borders: of packed sequences, from 0 to T; B must be 1 then.
    """
    generator = torch.Generator(device).manual_seed(seed)
    io = DTYPES[workload.dtype]
    tensors = {}
    for operand in workload.operands:
        shape = _shape(workload, operand)
        value = _draw(operand, shape, generator, device, style)
        tensors[operand.name] = value.to(io if operand.dtype == "io" else torch.float32)
    count = workload.sizes["B"] if borders is None else len(borders) - 1
    states = None
    if with_state:
        states = tuple(
            torch.randn(
                [count, *(workload.sizes[a] for a in axes)], generator=generator, device=device
            )
            for axes in workload.states
        )
    packing = None if borders is None else torch.tensor(borders, dtype=torch.int32, device=device)
    return Inputs(tensors, states, packing)


def _shape(workload: Workload, operand: Operand) -> list[int]:
    sizes = [workload.sizes[axis] for axis in operand.axes]
    return [workload.sizes["B"], workload.sizes["T"], *sizes] if operand.per_token else sizes


def _draw(
    operand: Operand,
    shape: list[int],
    generator: torch.Generator,
    device: str,
    style: Style,
) -> Tensor:
    """float32 values inside the declared range; without one, vectors of length about one."""
    normal = torch.randn(shape, generator=generator, device=device)
    if operand.low is None or operand.high is None:
        # Longer keys, or strengths beyond [0, 1], would let a delta rule diverge.
        return torch.sigmoid(normal) if operand.scale else normal * (shape or [1])[-1] ** -0.5
    value = _inside(normal, operand.low, operand.high)
    if style == "ordinary":
        return value
    choice = torch.rand(shape, generator=generator, device=device)
    low = operand.low if math.isfinite(operand.low) else min(operand.high, 0.0) - 100.0
    high = operand.high if math.isfinite(operand.high) else max(operand.low, 0.0) + 100.0
    value = torch.where(choice < 0.3, torch.full_like(value, high), value)
    value = torch.where(choice < 0.2, torch.full_like(value, low), value)
    if style == "infinite" and operand.low == -math.inf:
        value = torch.where(choice < 0.05, torch.full_like(value, -math.inf), value)
    return value


def _inside(normal: Tensor, low: float, high: float) -> Tensor:
    """Normal numbers mapped into a range, towards its finite end if it has one."""
    if math.isinf(low) and math.isinf(high):
        return normal
    if math.isinf(low):
        return high + torch.nn.functional.logsigmoid(normal)
    if math.isinf(high):
        return low - torch.nn.functional.logsigmoid(-normal)
    return low + (high - low) * torch.sigmoid(normal)
