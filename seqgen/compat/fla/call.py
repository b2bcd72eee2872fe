"""What all functions of this layer do with their arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqgen.compat.fla.form import Form, operator
from seqgen.errors import UsageError, did_you_mean

State = Tensor | tuple[Tensor | None, ...] | None
Result = tuple[Tensor, Any]
"""The output and the final state, None where it was not asked for."""

HINTS = frozenset({"chunk_size"})
"""Keywords that change only how FLA computes; they are accepted and have no effect."""


def check(function: str, extra: Mapping[str, Any], scale: object = None, **refused: object) -> None:
    """Refuse what this layer does not have, before any work.

    Args:
        function: FLA's name of the function.
        extra: keywords that came in through ``**kwargs``.
        scale: FLA's ``scale``, to be a finite number or None.
        refused: arguments that must be None or False.

    Raises:
        UsageError: it names the argument.
    """
    for name in extra:
        if name == "head_first":
            if extra[name]:
                raise UsageError(
                    f"{function}: 'head_first' is not supported. "
                    "Inputs must be in [B, T, H, ...] format."
                )
        elif name not in HINTS:
            hint = did_you_mean(name, HINTS)
            raise UsageError(f"{function}: unknown argument '{name}'. {hint}".rstrip())
    for name, value in refused.items():
        if value is not None and value is not False:
            raise UsageError(f"{function}: '{name}' is not supported by seqgen.")
    if scale is None:
        return
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise UsageError(f"{function}: 'scale' must be a finite number or None, got {scale!r}.")


def needs(function: str, flag: str, **required: object) -> None:
    """Refuse a flag whose other arguments are missing."""
    for name, value in required.items():
        if value is None or value is False:
            raise UsageError(f"{function}: '{flag}' needs '{name}'.")


def call(
    form: Form,
    tensors: Mapping[str, Tensor | None],
    initial_state: State,
    output_final_state: bool,
    cu_seqlens: Tensor | None = None,
    state_v_first: bool = False,
) -> Result:
    """Run the operator of ``form``; states are [N, H, K, V], or [N, H, V, K] as asked for."""
    state = _state(initial_state)
    if state_v_first and isinstance(state, Tensor):
        state = state.transpose(-1, -2)
    o, final = operator(form)(
        **tensors,
        initial_state=state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
    )
    if state_v_first and final is not None:
        final = final.transpose(-1, -2).contiguous()
    return o, final


def _state(state: State) -> State:
    """States in float32 where they come in 16 bits, which FLA takes."""
    if isinstance(state, tuple):
        return tuple(_state(entry) for entry in state)  # type: ignore[misc]
    if isinstance(state, Tensor) and state.dtype in (torch.float16, torch.bfloat16):
        return state.float()
    return state
