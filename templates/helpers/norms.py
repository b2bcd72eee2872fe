"""Norms of rows."""

import triton
import triton.language as tl


@triton.jit
def rnorm(
    pointer, rows, valid, STRIDE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
    EPS: tl.constexpr,
):  # fmt: skip
    """rsqrt(x x + EPS) of each row x of a matrix."""
    r = tl.arange(0, BLOCK)
    squares = tl.zeros([64], tl.float32)
    for b in tl.static_range(0, (SIZE + BLOCK - 1) // BLOCK):
        x = load_rows(pointer, rows, valid, b * BLOCK + r, STRIDE, SIZE, SIZE % BLOCK == 0)  # noqa: F821
        squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    return tl.rsqrt(squares + EPS)
