"""Decays between the tokens of a chunk, and sums that make their gradients."""

import triton
import triton.language as tl


@triton.jit
def split_decay(x):
    """A log2 decay as (high, low): high a multiple of 1/64, their sum x, cut at -160.

    exp2(-160) is 0 in fp32, so the cut changes nothing. Sums of up to 1600 high parts are exact
    in fp32 in any order: differences of prefix sums lose nothing.
    """
    x = tl.where(x < -160.0, -160.0, x)
    high = tl.floor(x * 64.0 + 0.5) * 0.015625
    return high, x - high


@triton.jit
def load_decay(decay_ptr, chunk, h, i, PLANE, H: tl.constexpr, EXACT: tl.constexpr):
    """Prefix sums of the log2 decays of a chunk as (high, low); low is 0 for half dtypes."""
    place = decay_ptr + (chunk.to(tl.int64) * H + h) * 64 + i
    if EXACT:
        return tl.load(place), tl.load(place + PLANE)
    else:
        return tl.load(place), 0.0


@triton.jit
def decay_matrix(high, low, keep, EXACT: tl.constexpr, TRANSPOSED: tl.constexpr):
    """[i, j] (or [j, i]) decay from row j to row i, 0 where not ``keep``."""
    if TRANSPOSED:
        e = high[None, :] - high[:, None]
        if EXACT:
            e += low[None, :] - low[:, None]
    else:
        e = high[:, None] - high[None, :]
        if EXACT:
            e += low[:, None] - low[None, :]
    return tl.exp2(tl.where(keep, e, -300.0))


@triton.jit
def sum_planes(sums_ptr, in_rows, m_h, i, PLANE, N: tl.constexpr):
    """Sum of N planes of row sums: [64, heads]."""
    total = tl.load(sums_ptr + in_rows[None, :] + i[:, None], mask=m_h[None, :], other=0.0)
    for b in tl.static_range(1, N):
        place = sums_ptr + b * PLANE + in_rows[None, :] + i[:, None]
        total += tl.load(place, mask=m_h[None, :], other=0.0)
    return total


@triton.jit
def decay_gradient(sums_ptr, in_rows, m_h, i, PLANE, NB: tl.constexpr):
    """Gradient of the log decays [64, heads] by direct sums over what they take part in.

    The decay of token m acts on pairs (j, i) with j < m <= i, on what rows i >= m find in the
    state, on what rows j < m leave to later chunks, and on what passes through the chunk.
    """
    last = in_rows[None, :] + (63 - i)[:, None]
    before = in_rows[None, :] + i[:, None] - 1
    heads = m_h[None, :]
    x = tl.load(sums_ptr + last, mask=heads, other=0.0)
    x -= tl.load(sums_ptr + PLANE + last, mask=heads, other=0.0)
    y = tl.zeros(x.shape, tl.float32)
    through = tl.load(sums_ptr + (2 + 2 * NB) * PLANE + in_rows, mask=m_h, other=0.0)
    for b in tl.static_range(0, NB):
        x += tl.load(sums_ptr + (2 + b) * PLANE + last, mask=heads, other=0.0)
        place = sums_ptr + (2 + NB + b) * PLANE + before
        y += tl.load(place, mask=heads & (i > 0)[:, None], other=0.0)
        if b > 0:
            place = sums_ptr + (2 + 2 * NB + b) * PLANE + in_rows
            through += tl.load(place, mask=m_h, other=0.0)
    return tl.flip(tl.cumsum(x, 0), 0) + tl.cumsum(y, 0) + through[None, :]
