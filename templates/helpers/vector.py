"""One decay per key channel: decays between the tokens of a chunk, and the state's walk."""

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
def channel_decay(between, high, low, TWO: tl.constexpr, PRECISION: tl.constexpr):
    """[64, columns] decay over the rows j that ``between`` [i, j] names for each row i."""
    ones = tl.where(between, 1.0, 0.0).to(high.dtype)
    e = dot(ones, high, PRECISION)  # noqa: F821
    if TWO:
        e = dot_add(ones, low, e, PRECISION)  # noqa: F821
    return tl.exp2(e * 1.4426950408889634)


@triton.jit
def add_sums(over, x, c, PRECISION: tl.constexpr):
    """c + sums of x [64, columns] over the rows j that ``over`` [i, j] names for each row i."""
    if PRECISION == "tf32x3":
        return dot_add(tl.where(over, 1.0, 0.0), x, c, PRECISION)  # noqa: F821
    else:
        ones = tl.where(over, 1.0, 0.0).to(tl.bfloat16)
        return dot_add(ones, x.to(tl.bfloat16), c, PRECISION)  # noqa: F821


@triton.jit
def up_to(i, j, STRICT: tl.constexpr):
    """[i, j] whether row j decays what row i reads of the state before the chunk."""
    if STRICT:
        return j < i
    else:
        return j <= i


@triton.jit
def to_border(i, j, level, STRICT: tl.constexpr):
    """[i, j] whether row j decays row i on the way to the border between halves of 2^level rows.

    These are the rows up to i (before i if STRICT) in an upper half, those behind i in a lower one.
    """
    # All of it depends on the level, or the compiler keeps matrices of indices over the loop.
    i_half = i >> level
    j_half = j >> level
    i_place = i - (i_half << level)
    j_place = j - (j_half << level)
    if STRICT:
        upper = (i_half & 1) == 1
        return (i_half == j_half) & tl.where(upper, j_place < i_place, j_place > i_place)
    else:
        return (i_half == j_half) & ((j_place <= i_place) == ((i_half & 1) == 1))


@triton.jit
def in_halves(i, j, level):
    """[i, j] whether rows i and j lie in different halves of the same block of 2 * 2^level rows."""
    return ((i >> level) ^ (j >> level)) == 1


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
