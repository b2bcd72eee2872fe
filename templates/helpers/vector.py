"""One decay per key channel: decays between the tokens of a chunk."""

import torch
import triton
import triton.language as tl


@triton.jit
def load_gate(
    g_ptr, rows, valid, columns, STRIDE: tl.constexpr, SIZE: tl.constexpr, EXACT: tl.constexpr,
    FP32: tl.constexpr,
):  # fmt: skip
    """A tile of gates as two operands of a dot whose sum it is; the second is 0 unless needed.

    Cut at -111: e^-111 is 0 in fp32, and 0 * -inf in a dot would be NaN.
    """
    loaded = load_rows(g_ptr, rows, valid, columns, STRIDE, SIZE, EXACT)  # noqa: F821
    g = loaded.to(tl.float32)
    g = tl.where(g < -111.0, -111.0, g)
    if loaded.dtype == tl.float32 and not FP32:
        high = g.to(tl.bfloat16)
        return high, (g - high.to(tl.float32)).to(tl.bfloat16)
    else:
        return g.to(loaded.dtype), g.to(loaded.dtype)


@triton.jit
def in_registers(weights, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """Weights [64, 64] as the left operand of a dot, computed in the threads that feed it to the
    tensor cores, for they enter as an accumulator. Otherwise they would go through shared memory,
    two bytes at a time.
    """
    if PRECISION == "half":
        weights = tl.dot(tl.zeros([64, 16], dtype), tl.zeros([16, 64], dtype), weights)
    return weights.to(dtype)


@triton.jit
def sum_fp32(weights, x, c):
    """c + weights x in fp32: two tf32 products, for weights of -1, 0 and 1 have no second term."""
    high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    c = tl.dot(weights, x - high, c, input_precision="tf32")
    return tl.dot(weights, high, c, input_precision="tf32")


@triton.jit
def exponents(over, high, low, TWO: tl.constexpr, PRECISION: tl.constexpr):
    """[64, columns] sums of gates, in log2 units, with the weights (-1, 0, 1) ``over`` [64, 64]."""
    over = in_registers(over, high.dtype, PRECISION)
    if PRECISION == "tf32x3":
        e = sum_fp32(over, high, tl.zeros(high.shape, tl.float32))
    else:
        e = dot(over, high, PRECISION)  # noqa: F821
        if TWO:
            e = dot_add(over, low, e, PRECISION)  # noqa: F821
    return e * 1.4426950408889634


@triton.jit
def channel_decay(between, high, low, TWO: tl.constexpr, PRECISION: tl.constexpr):
    """[64, columns] decay over the rows j that ``between`` [i, j] names for each row i."""
    return tl.exp2(exponents(tl.where(between, 1.0, 0.0), high, low, TWO, PRECISION))


@triton.jit
def add_sums(over, x, c, PRECISION: tl.constexpr, TWO_TERMS: tl.constexpr):
    """c + sums of x [64, columns] over the rows j that ``over`` [i, j] names for each row i.

    x is rounded to bf16 unless its dtype is fp32 or it is to be summed in two terms.
    """
    if PRECISION == "tf32x3":
        return sum_fp32(tl.where(over, 1.0, 0.0), x, c)
    else:
        ones = in_registers(tl.where(over, 1.0, 0.0), tl.bfloat16, PRECISION)
        high = x.to(tl.bfloat16)
        if TWO_TERMS:
            c = dot_add(ones, (x - high.to(tl.float32)).to(tl.bfloat16), c, PRECISION)  # noqa: F821
        return dot_add(ones, high, c, PRECISION)  # noqa: F821


@triton.jit
def in_blocks(row, column, s):
    """Rows i and j within their blocks of 2^s rows, the first of the upper half, [i, j] whether
    both lie in the same block.

    What depends on s alone is computed in the loop over s, not kept in registers over it.
    """
    size = 1 << s
    return row & (size - 1), column & (size - 1), (size + 1) >> 1, (row >> s) == (column >> s)


@triton.jit
def from_middle(inside, until, before, high, low, TWO: tl.constexpr, PRECISION: tl.constexpr):
    """Log2 decay from the middle of its block to each row: negative in upper halves, positive in
    lower ones.

    The gates ``until`` the row less those ``before`` the middle, subtracted in the weights and not
    in the sums.
    """
    over = tl.where(until, 1.0, 0.0) - tl.where(before, 1.0, 0.0)
    return exponents(tl.where(inside, over, 0.0), high, low, TWO, PRECISION)


@triton.jit
def bounded(e, needed, LIMIT: tl.constexpr, SIGNED: tl.constexpr):
    """Exponents of factors, cut where they are too large for an operand.

    If gates may be above 0 (SIGNED), only what belongs to pairs that are masked is cut.
    """
    cut = tl.minimum(e, LIMIT)
    if SIGNED:
        cut = tl.where(needed, e, cut)
    return cut


@triton.jit
def levels_apart(high, low, TWO: tl.constexpr, LIMIT: tl.constexpr, SIGNED: tl.constexpr):
    """Sums of the gates of the first and of the last 32 rows, in log2 units, and how often a chunk
    is halved until no decay from the middle of a block to any of its rows exceeds the limit.

    Gates have one sign: sums of whole halves bound the decay. Where nothing proves that (SIGNED),
    a gate above 0 has all levels taken.
    """
    g = high.to(tl.float32)
    if TWO:
        g += low.to(tl.float32)
    g *= 1.4426950408889634
    grows = tl.max(tl.max(g, 1), 0) > 0.0
    levels = (tl.min(tl.min(g, 1), 0) < -LIMIT).to(tl.int32)
    for n in tl.static_range(0, 5):
        g = tl.sum(tl.reshape(g, [32 >> n, 2, g.shape[1]]), 1)
        levels += (tl.min(tl.min(g, 1), 0) < -LIMIT).to(tl.int32)
    if SIGNED:
        levels = tl.where(grows, 6, levels)
    first, last = tl.split(tl.trans(g))
    return first, last, levels


def _items_each(items):
    """How many items a program looks through that does little for most of them."""
    return _cdiv(items, 1024)  # noqa: F821


def _decay_limit(dtype):
    """The largest exponent of 2 on an operand: it must stay a normal number.

    That masked pairs, with twice the exponent, overflow does no harm.
    """
    return 6.0 if dtype == torch.float16 else 100.0
