"""One decay per key channel: decays between the tokens of a chunk, and the state's walk."""

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
def exponents(over, high, low, TWO: tl.constexpr, PRECISION: tl.constexpr):
    """[64, columns] sums of gates, in log2 units, with the weights (-1, 0, 1) ``over`` [64, 64]."""
    over = over.to(high.dtype)
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
        return dot_add(tl.where(over, 1.0, 0.0), x, c, PRECISION)  # noqa: F821
    else:
        ones = tl.where(over, 1.0, 0.0).to(tl.bfloat16)
        high = x.to(tl.bfloat16)
        if TWO_TERMS:
            c = dot_add(ones, (x - high.to(tl.float32)).to(tl.bfloat16), c, PRECISION)  # noqa: F821
        return dot_add(ones, high, c, PRECISION)  # noqa: F821


@triton.jit
def up_to(i, j, STRICT: tl.constexpr):
    """[i, j] whether gate j decays what row i reads of the state before the chunk."""
    if STRICT:
        return j < i
    else:
        return j <= i


@triton.jit
def border_of(i, s):
    """The first row of the upper half of the block of 2^s rows around row i; i + 1 where s = 0."""
    return ((i >> s) << s) + (((1 << s) + 1) >> 1)


@triton.jit
def from_border(until, column, border, high, low, TWO: tl.constexpr, PRECISION: tl.constexpr):
    """Log2 decay from the border to each row: negative in upper halves, positive in lower ones.

    The gates ``until`` the row less those before the border, subtracted in the mask and not in the
    sums.
    """
    over = tl.where(until, 1.0, 0.0) - tl.where(column < border, 1.0, 0.0)
    return exponents(over, high, low, TWO, PRECISION)


@triton.jit
def half_sums(high, low, TWO: tl.constexpr):
    """Sums of the gates of the first and of the last 32 rows, the smallest and the largest gate."""
    g = high.to(tl.float32)
    if TWO:
        g += low.to(tl.float32)
    g *= 1.4426950408889634
    first = tl.arange(0, 64)[:, None] < 32
    sums = tl.sum(tl.where(first, g, 0.0), 0), tl.sum(tl.where(first, 0.0, g), 0)
    return sums[0], sums[1], tl.min(tl.min(g, 1), 0), tl.max(tl.max(g, 1), 0)


@triton.jit
def levels_apart(first, last, smallest, largest, LIMIT: tl.constexpr, SIGNED: tl.constexpr):
    """How often a chunk is halved until no decay from the middle of a block exceeds the limit.

    Gates have one sign: the sums of whole halves, or h times the strongest gate, bound the decay.
    Where nothing proves that (SIGNED), a gate above 0 has all levels taken.
    """
    levels = 1
    for n in tl.static_range(1, 6):
        levels += (smallest * (32 >> n) < -LIMIT).to(tl.int32)
    levels = tl.where(tl.min(tl.minimum(first, last), 0) < -LIMIT, levels, 0)
    if SIGNED:
        levels = tl.where(largest > 0.0, 6, levels)
    return levels


def _decay_limit(dtype):
    """The largest exponent of 2 on an operand: it must stay a normal number."""
    return 6.0 if dtype == torch.float16 else 60.0


@triton.jit
def vector_walk(
    pid, a_ptr, b_ptr, total_ptr, first_ptr, last_ptr, states_ptr,
    cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS,
    H: tl.constexpr, HB: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    STRIDE_K: tl.constexpr, STRIDE_V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, ADJOINT: tl.constexpr,
    HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One [BK, BV] block of the state of one (sequence, head), 64 tokens per step.

    S <- total S + a^T b, with a [B, T, H, K] decayed keys and b values; the adjoint, with decayed
    queries and gradients of the read, starts at the last chunk. The state before each step goes
    to ``states_ptr``.
    """
    NK: tl.constexpr = (K + BK - 1) // BK
    NV: tl.constexpr = (V + BV - 1) // BV
    i_k = pid % NK
    i_v = (pid // NK) % NV
    h = (pid // (NK * NV)) % H
    n = pid // (NK * NV * H)
    bos, length = chunk_sequence(cu_seqlens_ptr, n, T, PACKED)  # noqa: F821
    first_chunk = tl.load(starts_ptr + n) if PACKED else n * NT
    r_k = i_k * BK + tl.arange(0, BK)
    r_v = i_v * BV + tl.arange(0, BV)
    exists = (r_k < K)[:, None] & (r_v < V)[None, :]
    in_chunk = r_k[:, None] * V + r_v[None, :]
    in_state = r_k[:, None] * STRIDE_K + r_v[None, :] * STRIDE_V
    of_head = (n.to(tl.int64) * H + h) * (K * V)
    S = tl.zeros([BK, BV], tl.float32)
    if HAS_FIRST:
        S += tl.load(first_ptr + of_head + in_state, mask=exists, other=0.0).to(tl.float32)
    a_ptr += h * K
    b_ptr += (h // (H // HB)) * V
    in_rows = first_chunk.to(tl.int64) * H + h
    states_ptr += in_rows * (K * V)
    total_ptr += in_rows * K
    i = tl.arange(0, 64)
    rows = i
    if REVERSE:
        rows = -i
    # Wrong borders of packed sequences must not lead behind the last chunk.
    n_chunks = tl.minimum((length + 63) // 64, CHUNKS - first_chunk)
    for step in tl.range(0, n_chunks, num_stages=STAGES):
        c = step
        if ADJOINT:
            c = n_chunks - 1 - step
        valid = c * 64 + i < length
        row = bos + c * 64
        if REVERSE:
            row = bos + length - 1 - c * 64
        a = load_rows(a_ptr + row * (H * K), rows, valid, r_k, H * K, K, K % BK == 0)  # noqa: F821
        b = load_rows(b_ptr + row * (HB * V), rows, valid, r_v, HB * V, V, V % BV == 0)  # noqa: F821
        total = tl.load(total_ptr + c.to(tl.int64) * (H * K) + r_k, mask=r_k < K, other=0.0)
        place = states_ptr + c.to(tl.int64) * (H * K * V) + in_chunk
        tl.store(place, S.to(states_ptr.dtype.element_ty), mask=exists)
        S = dot_add(tl.trans(a), b, S * total[:, None], PRECISION)  # noqa: F821
    if HAS_LAST:
        tl.store(last_ptr + of_head + in_state, S, mask=exists)
