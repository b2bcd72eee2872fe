"""The inverse of what one chunk of a delta recurrence erases of itself."""

import triton
import triton.language as tl


@triton.jit
def halves(x):
    """fp32 as the sum of two bf16, the first one x rounded to the nearest.

    Rounded in its bits: conversions there and back would run one by one, not in pairs.
    """
    bits = x.to(tl.int32, bitcast=True)
    high = ((bits + 0x8000) & -65536).to(tl.float32, bitcast=True)
    return high.to(tl.bfloat16), (x - high).to(tl.bfloat16)


@triton.jit
def fine_dot(a, b, PRECISION: tl.constexpr):
    """a b of fp32 matrices by three products of their parts."""
    if PRECISION == "bf16x3":
        a_high, a_low = halves(a)
        b_high, b_low = halves(b)
        return tl.dot(a_high, b_high, tl.dot(a_high, b_low, tl.dot(a_low, b_high)))
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def unit_inverse(N, i, PRECISION: tl.constexpr):
    """(I + N)^-1 of a strictly lower triangular [64, 64], by merging blocks of 1, 2, .., 32.

    Blocks up to 16 lie on the diagonal: they are merged as four matrices [16, 16].
    """
    blocks = (i >> 4)[:, None] == (i >> 4)[None, :]
    M = tl.sum(tl.reshape(tl.where(blocks, N, 0.0), [4, 16, 4, 16]), 2)
    j = tl.arange(0, 16)
    x = (j[:, None] ^ j[None, :])[None, :, :]
    Y = tl.where(x == 0, 1.0, 0.0) - tl.where(x == 1, M, 0.0)
    for level in tl.range(1, 4):
        between = tl.where((x >> level) == 1, M, 0.0)
        Y -= fine_dot(fine_dot(Y, between, PRECISION), Y, PRECISION)
    Y = tl.broadcast_to(tl.expand_dims(Y, 2), [4, 16, 4, 16])
    X = tl.where(blocks, tl.reshape(Y, [64, 64]), 0.0)
    x = i[:, None] ^ i[None, :]
    for level in tl.static_range(4, 6):
        between = tl.where((x >> level) == 1, N, 0.0)
        X -= fine_dot(fine_dot(X, between, PRECISION), X, PRECISION)
    return X
