"""What norms of rows make of gradients, one decay per key channel."""

import triton
import triton.language as tl


@triton.jit
def subtract_rows(
    d_x_ptr, x_ptr, part, rows, valid, STRIDE: tl.constexpr, STRIDE_X: tl.constexpr,
    K: tl.constexpr, KI: tl.constexpr,
):  # fmt: skip
    """Subtracts ``part`` [64] of each row of x from the rows of d_x, in memory."""
    # Not pipelined: what it loads it stores, and odd rows must not be loaded ahead (Triton 3.6).
    for start in tl.range(0, K, KI, num_stages=1):
        r_k = start + tl.arange(0, KI)
        x = load_rows(x_ptr, rows, valid, r_k, STRIDE_X, K, K % KI == 0)  # noqa: F821
        d_x = load_rows(d_x_ptr, rows, valid, r_k, STRIDE, K, K % KI == 0)  # noqa: F821
        d_x = d_x.to(tl.float32) - part[:, None] * x.to(tl.float32)
        store_rows(d_x_ptr, d_x, rows, valid, r_k, STRIDE, K)  # noqa: F821
