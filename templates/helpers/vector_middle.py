"""Chunks whose decays from the middle to any row are moderate: one exponent per row and channel."""

import torch
import triton
import triton.language as tl


@triton.jit
def vector_weights_kernel(
    weights_ptr,  # [4, 64, 64]
):
    # One program: a matrix [i, j]. The rows j up to row i; from the middle to row i; to before it;
    # the rows before row i.
    n = tl.program_id(0)
    i = tl.arange(0, 64)
    row = i[:, None]
    column = i[None, :]
    until = tl.where(column <= row - (n >= 2).to(tl.int32), 1.0, 0.0)
    weights = until - tl.where((column < 32) & (n % 3 > 0), 1.0, 0.0)
    tl.store(weights_ptr + n * 4096 + row * 64 + column, weights.to(tl.bfloat16))


def _sum_weights(io):
    """Weights of sums over rows, for ``load_weights``."""
    weights = io.new_empty((4, 64, 64), dtype=torch.bfloat16)
    vector_weights_kernel[_grid(4)](  # noqa: F821
        weights,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return weights


@triton.jit
def load_weights(weights_ptr, N: tl.constexpr):
    """[64, 64]: read from memory, tiles arrive in shared memory by 16 bytes, computed ones by 2."""
    i = tl.arange(0, 64)
    return tl.load(weights_ptr + N * 4096 + i[:, None] * 64 + i[None, :])


@triton.jit
def half_decays(g, valid, SIGNED: tl.constexpr, SIZE: tl.constexpr):
    """Sums of the gates of the first and of the last 32 rows, in log2 units; -inf where all gates
    are below -5.5.

    Where none is weaker, pairs of tokens that none separates would leave their rounding errors in
    gradients of gates that are smaller than these. Gates have one sign; where nothing proves that
    (SIGNED), one above 0 makes a sum -inf.
    """
    g = g.to(tl.float32)
    weakest = tl.max(tl.where(valid[:, None], g, float("-inf")), 0)
    if SIGNED:
        g = tl.where(g <= 0.0, g, float("-inf"))
    g = tl.where((weakest < -5.5)[None, :], float("-inf"), g)
    sums = tl.sum(tl.reshape(g, [2, 32, SIZE]), 1) * 1.4426950408889634
    return tl.split(tl.trans(sums))


@triton.jit
def is_moderate(first, last, LIMIT: tl.constexpr):
    """Whether no decay from the middle of a chunk to any of its rows exceeds the limit."""
    return tl.min(tl.minimum(first, last), 0) >= -LIMIT


@triton.jit
def two_terms(g, TWO: tl.constexpr):
    """A tile as two operands of a dot whose sum it is; the second has no meaning unless TWO."""
    if TWO:
        high = g.to(tl.bfloat16)
        return high, (g - high.to(tl.float32)).to(tl.bfloat16)
    else:
        return g, g


@triton.jit
def middle_exponents(weights, high, low, TWO: tl.constexpr, PRECISION: tl.constexpr):
    """[64, columns] weighted sums of gates, in log2 units."""
    weights = weights.to(high.dtype)
    if PRECISION == "tf32x3":
        e = sum_fp32(weights, high, tl.zeros(high.shape, tl.float32))  # noqa: F821
    else:
        e = dot(weights, high, PRECISION)  # noqa: F821
        if TWO:
            e = dot_add(weights, low, e, PRECISION)  # noqa: F821
    return e * 1.4426950408889634


@triton.jit
def weighted_sums(weights, x, c, PRECISION: tl.constexpr):
    """c + weights x; x [64, columns] enters in two terms of bf16, or as it is in fp32."""
    if PRECISION == "tf32x3":
        return sum_fp32(weights.to(tl.float32), x, c)  # noqa: F821
    else:
        high = x.to(tl.bfloat16)
        c = dot_add(weights, high, c, PRECISION)  # noqa: F821
        return dot_add(weights, (x - high.to(tl.float32)).to(tl.bfloat16), c, PRECISION)  # noqa: F821


@triton.jit
def sums_before(until, x, c, PRECISION: tl.constexpr):
    """c + sums of x [64, columns], rounded to bf16 unless in fp32, over all rows before each.

    The row itself, which ``until`` has, leaves the sum as exactly as it came.
    """
    if PRECISION == "tf32x3":
        return sum_fp32(until.to(tl.float32), x, c) - x  # noqa: F821
    else:
        x = x.to(tl.bfloat16)
        return dot_add(until, x, c - x.to(tl.float32), PRECISION)  # noqa: F821
