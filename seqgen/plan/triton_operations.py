"""Pointwise operations of the IR in Triton: infix signs, functions, and values of constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}

# Names without "tl." are functions of templates/helpers/arithmetic.py.
CALLS = {
    "exp": "tl.exp",
    "log": "tl.log",
    "log1p": "log1p",
    "expm1": "expm1",
    "sqrt": "tl.sqrt_rn",
    "rsqrt": "tl.rsqrt",
    "abs": "tl.abs",
    "sign": "sign",
    "sigmoid": "tl.sigmoid",
    "logsigmoid": "logsigmoid",
    "softplus": "softplus",
    "silu": "silu",
    "tanh": "tanh",
    "sin": "tl.sin",
    "cos": "tl.cos",
    "max": "tl.maximum",
    "min": "tl.minimum",
    "mod": "modulo",
    "logaddexp": "logaddexp",
}

_VALUES: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: 0.0 - a,
    "exp": math.exp,
    "expm1": math.expm1,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "abs": abs,
    "sin": math.sin,
    "tanh": math.tanh,
    "silu": lambda a: 0.0 if a == 0.0 else math.nan,
    "max": max,
    "min": min,
}


def constant(op: str, values: Sequence[float | None]) -> float | None:
    """The result of ``op`` on known numbers, if it is exact enough to be relied on.

    Only 0 and 1 are ever asked for (neutral elements), so rounding does not matter.
    """
    if op not in _VALUES or any(value is None for value in values):
        return None
    try:
        result = float(_VALUES[op](*values))
    except (ArithmeticError, ValueError):
        return None
    return None if math.isnan(result) else result
