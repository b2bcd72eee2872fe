"""Norms of keys and queries, and what they make of gradients."""

import triton
import triton.language as tl


@triton.jit
def rnorm(
    pointer, rows, valid, STRIDE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
    EPS: tl.constexpr,
):  # fmt: skip
    """rsqrt(x x + EPS) of each row x of a matrix, whose tiles have been read already."""
    r = tl.arange(0, BLOCK)
    squares = tl.zeros([64], tl.float32)
    for b in tl.static_range(0, (SIZE + BLOCK - 1) // BLOCK):
        x = load_rows(pointer, rows, valid, b * BLOCK + r, STRIDE, SIZE, SIZE % BLOCK == 0)  # noqa: F821
        squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    return tl.rsqrt(squares + EPS)


@triton.jit
def norm_gradient(d_x, x, rnorm):
    """The gradient of rows x, from one that took rnorm = rsqrt(x x + eps) for a constant."""
    x = x.to(tl.float32)
    return d_x - (rnorm * rnorm * tl.sum(d_x * x, 1))[:, None] * x


@triton.jit
def norm_gradient_kernel(
    x_ptr,  # [rows / H, HX, K]
    d_x_ptr,  # [rows / H, H, K], in place
    R,  # number of rows
    eps,
    H: tl.constexpr,
    HX: tl.constexpr,
    K: tl.constexpr,
    PK: tl.constexpr,
):
    # One program: 16 rows.
    row = tl.program_id(0).to(tl.int64) * 16 + tl.arange(0, 16)
    of_x = row // H * HX + row % H // (H // HX)
    o_k = tl.arange(0, PK)
    exists = (row < R)[:, None] & (o_k < K)[None, :]
    x = tl.load(x_ptr + of_x[:, None] * K + o_k[None, :], mask=exists, other=0.0).to(tl.float32)
    place = d_x_ptr + row[:, None] * K + o_k[None, :]
    d_x = tl.load(place, mask=exists, other=0.0).to(tl.float32)
    d_x = norm_gradient(d_x, x, tl.rsqrt(tl.sum(x * x, 1) + eps))
    tl.store(place, d_x.to(d_x_ptr.dtype.element_ty), mask=exists)


def launch_norm_gradient(x, d_x, eps):
    """``norm_gradient`` in place, for rows that no program of another kernel has all of."""
    H, K = d_x.shape[2:]
    n_rows = d_x.numel() // max(K, 1)
    if n_rows:
        norm_gradient_kernel[_grid(_cdiv(n_rows, 16))](  # noqa: F821
            x,
            d_x,
            n_rows,
            eps,
            H=H,
            HX=x.shape[2],
            K=K,
            PK=_power_of_2(K),  # noqa: F821
            num_warps=4,
            enable_fp_fusion=True,
        )
