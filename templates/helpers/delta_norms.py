"""Norms of keys and queries, which are factors of their rows."""

import triton
import triton.language as tl


@triton.jit
def rnorm(
    pointer, rows, valid, STRIDE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
    EPS: tl.constexpr,
):  # fmt: skip
    """rsqrt(x x + EPS) of each row x of a matrix, which other loads of it have read already."""
    r = tl.arange(0, BLOCK)
    squares = tl.zeros([64], tl.float32)
    for b in tl.static_range(0, (SIZE + BLOCK - 1) // BLOCK):
        x = load_rows(pointer, rows, valid, b * BLOCK + r, STRIDE, SIZE, SIZE % BLOCK == 0)  # noqa: F821
        squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
    return tl.rsqrt(squares + EPS)


@triton.jit
def norm_gradient(d_x, x, rnorm, along):
    """The gradient of rows x from d_x, which took ``rnorm`` for a constant; ``along`` is x d_x."""
    return d_x - (rnorm * rnorm * along)[:, None] * x.to(tl.float32)


@triton.jit
def elsewhere(
    values_ptr, keys_ptr, states_ptr, rows, valid, b,
    V_STRIDE: tl.constexpr, K_STRIDE: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[rows]: values S^T keys over the blocks of keys but b."""
    NB: tl.constexpr = (K + BK - 1) // BK
    EK: tl.constexpr = K % BK == 0
    EV: tl.constexpr = V % BV == 0
    found = tl.zeros([64], tl.float32)
    for c in tl.static_range(1, NB):
        c_k = (b + c) % NB * BK + tl.arange(0, BK)
        d_keys = tl.zeros([64, BK], tl.float32)
        for d in tl.static_range(0, (V + BV - 1) // BV):
            d_v = d * BV + tl.arange(0, BV)
            values = load_rows(values_ptr, rows, valid, d_v, V_STRIDE, V, EV)  # noqa: F821
            state = load_state(states_ptr, c_k, d_v, K, V, EK and EV)  # noqa: F821
            d_keys = dot_add(values, tl.trans(state), d_keys, PRECISION)  # noqa: F821
        keys = load_rows(keys_ptr, rows, valid, c_k, K_STRIDE, K, EK)  # noqa: F821
        found += tl.sum(d_keys * keys.to(tl.float32), 1)
    return found
