"""Functions that Triton lacks or computes too roughly, for fp32 tiles and scalars."""

import triton
import triton.language as tl


@triton.jit
def keep(x, mask, EXACT: tl.constexpr, fill: tl.constexpr):
    """``x`` with ``fill`` in the lanes that do not exist."""
    if EXACT:
        return x
    else:
        return tl.where(mask, x, fill)


@triton.jit
def expm1(x):
    """exp(x) - 1 without cancellation: a Taylor polynomial below 1/2."""
    p = 1.0 + x * (1.0 / 8) * (1.0 + x * (1.0 / 9))
    p = 1.0 + x * (1.0 / 6) * (1.0 + x * (1.0 / 7) * p)
    p = 1.0 + x * (1.0 / 4) * (1.0 + x * (1.0 / 5) * p)
    p = 1.0 + x * (1.0 / 2) * (1.0 + x * (1.0 / 3) * p)
    return tl.where(tl.abs(x) < 0.5, x * p, tl.exp(x) - 1.0)


@triton.jit
def log1p(x):
    """log(1 + x) without cancellation: the series of 2 atanh(x / (2 + x)) below 1/2."""
    s = x / (2.0 + x)
    z = s * s
    p = 1.0 / 9 + z * (1.0 / 11 + z * (1.0 / 13))
    p = 1.0 + z * (1.0 / 3 + z * (1.0 / 5 + z * (1.0 / 7 + z * p)))
    return tl.where(tl.abs(x) < 0.5, 2.0 * s * p, tl.log(1.0 + x))


@triton.jit
def softplus(x):
    """log(1 + exp(x)); x itself above 20, as in PyTorch."""
    return tl.where(x > 20.0, x, log1p(tl.exp(tl.minimum(x, 20.0))))


@triton.jit
def logsigmoid(x):
    return tl.minimum(x, 0.0) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def logaddexp(a, b):
    """log(exp(a) + exp(b)); equal arguments (both -inf too) take the exact sum."""
    same = a == b
    distance = tl.where(same, 0.0, tl.abs(a - b))
    return tl.maximum(a, b) + log1p(tl.exp(-distance))


@triton.jit
def silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def tanh(x):
    """(1 - exp(-2|x|)) / (1 + exp(-2|x|)) with the sign of x."""
    e = expm1(-2.0 * tl.abs(x))
    return tl.where(x < 0.0, e, -e) / (2.0 + e)


@triton.jit
def sign(x):
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, 0.0))


@triton.jit
def modulo(x, y):
    """The remainder with the sign of the divisor, as Python's."""
    return x - y * tl.floor(tl.div_rn(x, y))


@triton.jit
def power(x, y):
    """x ** y; negative x only with whole y."""
    size = tl.where(x == 0.0, 1.0, tl.exp2(y * tl.log2(tl.where(x == 0.0, 1.0, tl.abs(x)))))
    zero = tl.where(y > 0.0, 0.0, tl.where(y < 0.0, float("inf"), 1.0))
    odd = y - 2.0 * tl.floor(y * 0.5)
    signed = tl.where(odd == 0.0, size, tl.where(odd == 1.0, -size, float("nan")))
    return tl.where(x == 0.0, zero, tl.where(x > 0.0, size, signed))
