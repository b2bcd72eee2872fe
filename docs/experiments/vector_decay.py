"""Chunkwise kernels for the linear family with one decay per key channel (gated linear attention).

    S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T,    o_t = scale q_t^T S_t

q, k [B, T, H, K], v [B, T, H, V] in fp32, fp16 or bf16; g [B, T, H, K], natural logs <= 0, in fp32 or
the dtype of q; optional h0, dht [B, H, K, V]. Chunks of 64 tokens. With prefix_i and suffix_i the decay
from the chunk's start to row i and from row i to its end, and S0 the state before a chunk:

    scores     A_ij = scale sum_k q_i k_j e^{G_i - G_j} (i >= j),  qd = scale q prefix,  kd = k suffix
    states     S <- total S + kd^T v;  adjoint: dS <- total dS + qd^T do
    output     o = qd S0 + A v
    values     dv = A^T do + kd dS,  dA = scale do v^T (stored as a symmetric matrix)
    gradients  dq, dk, dg: per level and, for the state, scale do S0^T prefix and v dS^T suffix

Every decay is the exponential of a sum of gates between two rows, and all exponents are <= 0 (dyadic
anchoring): at level h = 32, 16, .., 1 the pairs whose rows lie in different halves of a block of 2h rows
are scored with both factors taken from the border between the halves. dg is the direct sum of all
products that contain e^{g_m}; nothing is subtracted.

`TRITON_INTERPRET=1 python vector_decay.py interp` on a CPU; `check`, `bench` on a GPU.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
import triton
import triton.language as tl

sys.path.insert(0, str(Path(__file__).parents[2] / "templates" / "helpers"))
from linear import chunk_range, dot, dot_add, load_rows, load_state, store_rows  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


# ---------------------------------------------------------------- helpers
@triton.jit
def load_gate(g_ptr, rows, valid, columns, STRIDE: tl.constexpr, SIZE: tl.constexpr,
              EXACT: tl.constexpr, FP32: tl.constexpr):  # fmt: skip
    """A tile of gates as two operands of a dot whose sum it is; the second is 0 unless needed.

    Cut at -111: e^-111 is 0 in fp32, and 0 * -inf in a dot would be NaN.
    """
    loaded = load_rows(g_ptr, rows, valid, columns, STRIDE, SIZE, EXACT)
    g = loaded.to(tl.float32)
    g = tl.where(g < -111.0, -111.0, g)
    if loaded.dtype == tl.float32 and not FP32:
        high = g.to(tl.bfloat16)
        return high, (g - high.to(tl.float32)).to(tl.bfloat16)
    else:
        return g.to(loaded.dtype), g.to(loaded.dtype)


@triton.jit
def decay(between, high, low, TWO: tl.constexpr, PRECISION: tl.constexpr):
    """[64, columns] decay over the rows j that ``between`` [i, j] names for each row i."""
    ones = tl.where(between, 1.0, 0.0).to(high.dtype)
    e = dot(ones, high, PRECISION)
    if TWO:
        e = dot_add(ones, low, e, PRECISION)
    return tl.exp2(e * 1.4426950408889634)


@triton.jit
def add_sums(over, x, c, PRECISION: tl.constexpr):
    """c + sums of x [64, columns] over the rows j that ``over`` [i, j] names for each row i."""
    if PRECISION == "tf32x3":
        return dot_add(tl.where(over, 1.0, 0.0), x, c, PRECISION)
    else:
        return dot_add(tl.where(over, 1.0, 0.0).to(tl.bfloat16), x.to(tl.bfloat16), c, PRECISION)


@triton.jit
def to_border(i, j, level):
    """[i, j] whether row j decays row i on the way to the border between two halves of 2^level
    rows: the rows up to i in an upper half, the rows behind i in a lower one."""
    # All of it depends on the level, or the compiler keeps matrices of indices over the loop.
    i_half = i >> level
    j_half = j >> level
    until = (j - (j_half << level)) <= (i - (i_half << level))
    return (i_half == j_half) & (until == ((i_half & 1) == 1))


@triton.jit
def in_halves(i, j, level):
    """[i, j] whether rows i and j lie in different halves of the same block of 2 * 2^level rows."""
    return ((i >> level) ^ (j >> level)) == 1


# ---------------------------------------------------------------- scores and decayed rows
@triton.jit
def scores_kernel(
    q_ptr,  # [B, T, H, K]
    k_ptr,  # [B, T, H, K]
    g_ptr,  # [B, T, H, K]
    decayed_q_ptr,  # [B, T, H, K], scale q prefix
    decayed_k_ptr,  # [B, T, H, K], k suffix
    total_ptr,  # [chunks, H, K], fp32
    scores_ptr,  # [chunks, H, 64, 64]
    T,
    NT,
    scale,
    H: tl.constexpr,
    K: tl.constexpr,
    KI: tl.constexpr,
    TWO: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # One program: 64 tokens of one head.
    EXACT: tl.constexpr = K % KI == 0
    chunk = tl.program_id(0) // H
    h = tl.program_id(0) % H
    bos, length, t0 = chunk_range(chunk, None, None, None, T, NT, False)
    at = ((bos + t0) * H + h) * K
    i = tl.arange(0, 64)
    valid = t0 + i < length
    row = i[:, None]
    column = i[None, :]
    scores = tl.zeros([64, 64], tl.float32)
    for b in tl.range(0, K, KI):
        r_k = b + tl.arange(0, KI)
        high, low = load_gate(g_ptr + at, i, valid, r_k, H * K, K, EXACT, PRECISION == "tf32x3")
        q = load_rows(q_ptr + at, i, valid, r_k, H * K, K, EXACT)
        k = load_rows(k_ptr + at, i, valid, r_k, H * K, K, EXACT)
        prefix = decay(column <= row, high, low, TWO, PRECISION)
        store_rows(decayed_q_ptr + at, q * prefix * scale, i, valid, r_k, H * K, K)
        total = tl.sum(tl.where(row == 63, prefix, 0.0), 0)
        tl.store(total_ptr + (chunk.to(tl.int64) * H + h) * K + r_k, total, mask=r_k < K)
        suffix = decay(column > row, high, low, TWO, PRECISION)
        store_rows(decayed_k_ptr + at, k * suffix, i, valid, r_k, H * K, K)
        scores += tl.where(row == column, dot(q, tl.trans(k), PRECISION), 0.0)
        level = 5
        while level >= 0:
            upper = ((row >> level) & 1) == 1
            factor = decay(to_border(row, column, level), high, low, TWO, PRECISION)
            rows = (tl.where(upper, q, k) * factor).to(q.dtype)
            pairs = in_halves(row, column, level) & upper
            scores += tl.where(pairs, dot(rows, tl.trans(rows), PRECISION), 0.0)
            level -= 1
    place = scores_ptr + (chunk.to(tl.int64) * H + h) * 4096 + row * 64 + column
    tl.store(place, (scores * scale).to(scores_ptr.dtype.element_ty))


# ---------------------------------------------------------------- the state from chunk to chunk
@triton.jit
def walk(
    pid, a_ptr, b_ptr, total_ptr, first_ptr, last_ptr, states_ptr, T, NT,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, ADJOINT: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One [BK, BV] block of the state of one (sequence, head), 64 tokens per step.

    S <- total S + a^T b; the adjoint starts at the last chunk. The state before each step goes to
    ``states_ptr``.
    """
    NK: tl.constexpr = (K + BK - 1) // BK
    NV: tl.constexpr = (V + BV - 1) // BV
    i_k = pid % NK
    i_v = (pid // NK) % NV
    h = (pid // (NK * NV)) % H
    n = pid // (NK * NV * H)
    r_k = i_k * BK + tl.arange(0, BK)
    r_v = i_v * BV + tl.arange(0, BV)
    exists = (r_k < K)[:, None] & (r_v < V)[None, :]
    in_state = r_k[:, None] * V + r_v[None, :]
    of_head = (n.to(tl.int64) * H + h) * (K * V)
    S = tl.zeros([BK, BV], tl.float32)
    if HAS_FIRST:
        S += tl.load(first_ptr + of_head + in_state, mask=exists, other=0.0).to(tl.float32)
    in_rows = n.to(tl.int64) * T * H + h
    a_ptr += in_rows * K
    b_ptr += in_rows * V
    in_chunks = n.to(tl.int64) * NT * H + h
    states_ptr += in_chunks * (K * V)
    total_ptr += in_chunks * K
    i = tl.arange(0, 64)
    for step in tl.range(0, NT, num_stages=STAGES):
        c = step
        if ADJOINT:
            c = NT - 1 - step
        rows = c * 64 + i
        valid = rows < T
        a = load_rows(a_ptr, rows, valid, r_k, H * K, K, K % BK == 0)
        b = load_rows(b_ptr, rows, valid, r_v, H * V, V, V % BV == 0)
        total = tl.load(total_ptr + c * (H * K) + r_k, mask=r_k < K, other=0.0)
        place = states_ptr + (step * 0 + c).to(tl.int64) * (H * K * V) + in_state
        tl.store(place, S.to(states_ptr.dtype.element_ty), mask=exists)
        S = dot_add(tl.trans(a), b, S * total[:, None], PRECISION)
    if HAS_LAST:
        tl.store(last_ptr + of_head + in_state, S, mask=exists)


@triton.jit
def state_kernel(
    decayed_k_ptr,  # [B, T, H, K]
    v_ptr,  # [B, T, H, V]
    total_ptr,  # [chunks, H, K], fp32
    initial_ptr,  # [B, H, K, V], fp32
    final_ptr,  # [B, H, K, V], fp32
    states_ptr,  # [chunks, H, K, V], before each chunk
    T,
    NT,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    STAGES: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_FINAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    walk(
        tl.program_id(0), decayed_k_ptr, v_ptr, total_ptr, initial_ptr, final_ptr, states_ptr,
        T, NT, H, K, V, BK, BV, STAGES, ADJOINT=False, HAS_FIRST=HAS_INITIAL, HAS_LAST=HAS_FINAL,
        PRECISION=PRECISION,
    )  # fmt: skip


@triton.jit
def states_kernel(
    decayed_q_ptr,  # [B, T, H, K]
    decayed_k_ptr,  # [B, T, H, K]
    v_ptr,  # [B, T, H, V]
    d_read_ptr,  # [B, T, H, V]
    total_ptr,  # [chunks, H, K], fp32
    initial_ptr,  # [B, H, K, V], fp32
    d_final_ptr,  # [B, H, K, V], fp32
    d_initial_ptr,  # [B, H, K, V], fp32
    states_ptr,  # [chunks, H, K, V], before each chunk
    d_states_ptr,  # [chunks, H, K, V], gradient of the state after each chunk
    T,
    NT,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    STAGES: tl.constexpr,
    HAS_INITIAL: tl.constexpr,
    HAS_D_FINAL: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # Even programs recompute a block of the states, odd ones walk their gradients backwards.
    pid = tl.program_id(0) // 2
    if tl.program_id(0) % 2 == 0:
        walk(
            pid, decayed_k_ptr, v_ptr, total_ptr, initial_ptr, None, states_ptr, T, NT,
            H, K, V, BK, BV, STAGES, ADJOINT=False, HAS_FIRST=HAS_INITIAL, HAS_LAST=False,
            PRECISION=PRECISION,
        )  # fmt: skip
    else:
        walk(
            pid, decayed_q_ptr, d_read_ptr, total_ptr, d_final_ptr, d_initial_ptr, d_states_ptr,
            T, NT, H, K, V, BK, BV, STAGES, ADJOINT=True, HAS_FIRST=HAS_D_FINAL,
            HAS_LAST=HAS_INITIAL, PRECISION=PRECISION,
        )  # fmt: skip


# ---------------------------------------------------------------- output
@triton.jit
def output_kernel(
    decayed_q_ptr,  # [B, T, H, K]
    v_ptr,  # [B, T, H, V]
    scores_ptr,  # [chunks, H, 64, 64]
    states_ptr,  # [chunks, H, K, V]
    output_ptr,  # [B, T, H, V]
    T,
    NT,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # One program: 64 tokens of one head, BV columns of the output.
    NV: tl.constexpr = (V + BV - 1) // BV
    EXACT_K: tl.constexpr = K % BK == 0
    EXACT_V: tl.constexpr = V % BV == 0
    pid = tl.program_id(0)
    i_v = pid % NV
    h = (pid // NV) % H
    chunk = pid // (NV * H)
    bos, length, t0 = chunk_range(chunk, None, None, None, T, NT, False)
    at = (bos + t0) * H + h
    in_chunks = chunk.to(tl.int64) * H + h
    states_ptr += in_chunks * (K * V)
    i = tl.arange(0, 64)
    valid = t0 + i < length
    r_v = i_v * BV + tl.arange(0, BV)
    scores = tl.load(scores_ptr + in_chunks * 4096 + i[:, None] * 64 + i[None, :])
    v = load_rows(v_ptr + at * V, i, valid, r_v, H * V, V, EXACT_V)
    read = dot(scores, v, PRECISION)
    for b in tl.static_range(0, K, BK):
        r_k = b + tl.arange(0, BK)
        q = load_rows(decayed_q_ptr + at * K, i, valid, r_k, H * K, K, EXACT_K)
        state = load_state(states_ptr, r_k, r_v, K, V, EXACT_K and EXACT_V)
        read = dot_add(q, state, read, PRECISION)
    store_rows(output_ptr + at * V, read, i, valid, r_v, H * V, V)


# ---------------------------------------------------------------- gradients
@triton.jit
def values_kernel(
    decayed_k_ptr,  # [B, T, H, K]
    v_ptr,  # [B, T, H, V]
    d_read_ptr,  # [B, T, H, V]
    scores_ptr,  # [chunks, H, 64, 64]
    d_states_ptr,  # [chunks, H, K, V]
    d_v_ptr,  # [B, T, H, V]
    d_scores_ptr,  # [chunks, H, 64, 64], symmetric
    T,
    NT,
    scale,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # One program: the gradients of the values and of the scores for 64 tokens of one head.
    EXACT_K: tl.constexpr = K % BK == 0
    EXACT_V: tl.constexpr = V % BV == 0
    h = tl.program_id(0) % H
    chunk = tl.program_id(0) // H
    bos, length, t0 = chunk_range(chunk, None, None, None, T, NT, False)
    at = (bos + t0) * H + h
    in_chunks = chunk.to(tl.int64) * H + h
    d_states_ptr += in_chunks * (K * V)
    i = tl.arange(0, 64)
    valid = t0 + i < length
    in_scores = in_chunks * 4096 + i[:, None] * 64 + i[None, :]
    lower = tl.zeros([64, 64], tl.float32)
    upper = tl.zeros([64, 64], tl.float32)
    for c in tl.range(0, V, BV):
        r_v = c + tl.arange(0, BV)
        v = load_rows(v_ptr + at * V, i, valid, r_v, H * V, V, EXACT_V)
        d_read = load_rows(d_read_ptr + at * V, i, valid, r_v, H * V, V, EXACT_V)
        # The transposed product anew: transposing an accumulator costs more than a dot.
        lower = dot_add(d_read, tl.trans(v), lower, PRECISION)
        upper = dot_add(v, tl.trans(d_read), upper, PRECISION)
        scores = tl.load(scores_ptr + in_scores)
        d_v = dot(tl.trans(scores), d_read, PRECISION)
        for b in tl.static_range(0, K, BK):
            r_k = b + tl.arange(0, BK)
            k = load_rows(decayed_k_ptr + at * K, i, valid, r_k, H * K, K, EXACT_K)
            d_state = load_state(d_states_ptr, r_k, r_v, K, V, EXACT_K and EXACT_V)
            d_v = dot_add(k, d_state, d_v, PRECISION)
        store_rows(d_v_ptr + at * V, d_v, i, valid, r_v, H * V, V)
    d_scores = tl.where(i[:, None] >= i[None, :], lower, upper) * scale
    tl.store(d_scores_ptr + in_scores, d_scores.to(d_scores_ptr.dtype.element_ty))


@triton.jit
def gradients_kernel(
    q_ptr,  # [B, T, H, K]
    k_ptr,  # [B, T, H, K]
    v_ptr,  # [B, T, H, V]
    g_ptr,  # [B, T, H, K]
    d_read_ptr,  # [B, T, H, V]
    total_ptr,  # [chunks, H, K], fp32
    d_scores_ptr,  # [chunks, H, 64, 64], symmetric
    states_ptr,  # [chunks, H, K, V]
    d_states_ptr,  # [chunks, H, K, V]
    d_q_ptr,  # [B, T, H, K]
    d_k_ptr,  # [B, T, H, K]
    d_g_ptr,  # [B, T, H, K], fp32
    T,
    NT,
    scale,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    KI: tl.constexpr,
    BV: tl.constexpr,
    TWO: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # One program: KI key channels of 64 tokens of one head.
    NK: tl.constexpr = (K + KI - 1) // KI
    EXACT_K: tl.constexpr = K % KI == 0
    EXACT_V: tl.constexpr = V % BV == 0
    pid = tl.program_id(0)
    r_k = (pid % NK) * KI + tl.arange(0, KI)
    h = (pid // NK) % H
    chunk = pid // (NK * H)
    bos, length, t0 = chunk_range(chunk, None, None, None, T, NT, False)
    at = (bos + t0) * H + h
    in_chunks = chunk.to(tl.int64) * H + h
    i = tl.arange(0, 64)
    valid = t0 + i < length
    row = i[:, None]
    column = i[None, :]

    # What comes from and goes to the state.
    d_q = tl.zeros([64, KI], tl.float32)
    d_k = tl.zeros([64, KI], tl.float32)
    through = tl.zeros([KI], tl.float32)
    for c in tl.range(0, V, BV):
        r_v = c + tl.arange(0, BV)
        state = load_state(states_ptr + in_chunks * (K * V), r_k, r_v, K, V, EXACT_K and EXACT_V)
        d_state = load_state(d_states_ptr + in_chunks * (K * V), r_k, r_v, K, V, EXACT_K and EXACT_V)
        through += tl.sum(state.to(tl.float32) * d_state.to(tl.float32), 1)
        d_read = load_rows(d_read_ptr + at * V, i, valid, r_v, H * V, V, EXACT_V)
        d_q = dot_add(d_read, tl.trans(state), d_q, PRECISION)
        v = load_rows(v_ptr + at * V, i, valid, r_v, H * V, V, EXACT_V)
        d_k = dot_add(v, tl.trans(d_state), d_k, PRECISION)
    through *= tl.load(total_ptr + in_chunks * K + r_k, mask=r_k < K, other=0.0)
    high, low = load_gate(g_ptr + at * K, i, valid, r_k, H * K, K, EXACT_K, PRECISION == "tf32x3")
    q = load_rows(q_ptr + at * K, i, valid, r_k, H * K, K, EXACT_K)
    k = load_rows(k_ptr + at * K, i, valid, r_k, H * K, K, EXACT_K)
    # The decay of token m acts on what rows i >= m find in the state, on what rows j < m leave to
    # it, on what passes through, and below on pairs (j, i) with j < m <= i.
    d_g = tl.zeros([64, KI], tl.float32) + through[None, :]
    d_q = d_q * decay(column <= row, high, low, TWO, PRECISION) * scale
    d_g = add_sums(column >= row, d_q * q, d_g, PRECISION)
    d_k = d_k * decay(column > row, high, low, TWO, PRECISION)
    d_g = add_sums(column < row, d_k * k, d_g, PRECISION)

    # The pairs of the chunk, the diagonal first.
    d_scores_ptr += in_chunks * 4096
    own = tl.load(d_scores_ptr + i * 65).to(tl.float32)[:, None]
    d_q += own * k
    d_k += own * q
    level = 5
    while level >= 0:
        upper = ((row >> level) & 1) == 1
        factor = decay(to_border(row, column, level), high, low, TWO, PRECISION)
        own_row = tl.where(upper, q, k)
        pairs = in_halves(row, column, level)
        d_scores = tl.load(d_scores_ptr + row * 64 + column)
        d_row = dot(tl.where(pairs, d_scores, 0.0).to(q.dtype), (own_row * factor).to(q.dtype), PRECISION) * factor
        d_q += tl.where(upper, d_row, 0.0)
        d_k += tl.where(upper, 0.0, d_row)
        d_g = add_sums(to_border(column, row, level), d_row * own_row, d_g, PRECISION)
        level -= 1
    store_rows(d_q_ptr + at * K, d_q, i, valid, r_k, H * K, K)
    store_rows(d_k_ptr + at * K, d_k, i, valid, r_k, H * K, K)
    store_rows(d_g_ptr + at * K, d_g, i, valid, r_k, H * K, K)


# ---------------------------------------------------------------- launchers
COMPILE_ONLY = False  # kernels are compiled and not started


def launch(kernel, programs):
    """``kernel`` over a number of programs; takes its arguments."""
    if COMPILE_ONLY:
        return partial(kernel.warmup, grid=(programs,))
    return kernel[(programs,)]


def compile_all(jobs):
    """Compiles what the jobs launch, in threads.

    No kernel starts here: kernels of several threads on one stream hide which one failed.
    """
    global COMPILE_ONLY
    COMPILE_ONLY = True
    with ThreadPoolExecutor(12) as pool:
        for _ in pool.map(attempt, jobs):
            pass  # an error comes again at the launch
    COMPILE_ONLY = False


def precision(dtype):
    if dtype == torch.float32:
        return "tf32x3"
    return "widened" if INTERPRETED else "half"


def block(size, limit):
    """A power of two from 16 to ``limit`` that covers ``size`` if it can."""
    return min(max(16, triton.next_power_of_2(size)), limit)


def default_configs(dtype):
    exact = dtype == torch.float32
    return {
        "scores": dict(KI=16, num_warps=4) if exact else dict(KI=64, num_warps=8),
        "state": dict(BK=64 if exact else 128, BV=32 if exact else 64, STAGES=2 if exact else 3, num_warps=4),
        "states": dict(BK=64 if exact else 128, BV=32 if exact else 64, STAGES=2 if exact else 3, num_warps=4),
        "output": dict(BK=32 if exact else 128, BV=64 if exact else 128, num_warps=4),
        "values": dict(BK=32 if exact else 128, BV=32 if exact else 64, num_warps=4, num_stages=1),
        # Triton 3.6 miscompiles 16 and 32 channels with 4 warps and one stage: a dot reads outside the
        # shared memory.
        "gradients": dict(KI=16, BV=32, num_warps=4, num_stages=3) if exact else dict(KI=64, BV=64, num_warps=4, num_stages=1),
    }  # fmt: skip


def blocks(config, K, V):
    """The configuration with its blocks cut to the sizes; ``STAGES`` stays a kernel parameter."""
    size = {"KI": K, "BK": K, "BV": V}
    return {n: block(size[n], x) if n in size else x for n, x in config.items()}


def run_scores(q, k, g, scale, config):
    """Decayed q and k, total decays and scores."""
    B, T, H, K = q.shape
    NT = triton.cdiv(T, 64)
    decayed_q, decayed_k = torch.empty_like(q), torch.empty_like(k)
    total = torch.empty(B * NT, H, K, dtype=torch.float32, device=q.device)
    scores = q.new_empty(B * NT, H, 64, 64)
    two = q.dtype != torch.float32 and g.dtype == torch.float32
    launch(scores_kernel, B * NT * H)(
        q, k, g, decayed_q, decayed_k, total, scores, T, NT, scale, H=H, K=K, TWO=two,
        PRECISION=precision(q.dtype), **blocks(config, K, 0),
    )  # fmt: skip
    return decayed_q, decayed_k, total, scores


def run_state(saved, v, h0, want_final, config):
    """States before each chunk and the final state."""
    _, decayed_k, total, _ = saved
    (B, T, H, K), V = decayed_k.shape, v.shape[-1]
    NT = triton.cdiv(T, 64)
    states = v.new_empty(B * NT, H, K, V)
    final = torch.empty(B, H, K, V, dtype=torch.float32, device=v.device) if want_final else None
    config = blocks(config, K, V)
    launch(state_kernel, B * H * triton.cdiv(K, config["BK"]) * triton.cdiv(V, config["BV"]))(
        decayed_k, v, total, h0, final, states, T, NT, H=H, K=K, V=V, HAS_INITIAL=h0 is not None,
        HAS_FINAL=want_final, PRECISION=precision(v.dtype), **config,
    )  # fmt: skip
    return states, final


def run_states(saved, v, do, h0, dht, config):
    """States before and gradients of states after each chunk, gradient of the initial state."""
    decayed_q, decayed_k, total, _ = saved
    (B, T, H, K), V = decayed_q.shape, v.shape[-1]
    NT = triton.cdiv(T, 64)
    states = v.new_empty(B * NT, H, K, V)
    d_states = torch.empty_like(states)
    d_initial = None if h0 is None else torch.empty_like(h0)
    config = blocks(config, K, V)
    launch(states_kernel, 2 * B * H * triton.cdiv(K, config["BK"]) * triton.cdiv(V, config["BV"]))(
        decayed_q, decayed_k, v, do, total, h0, dht, d_initial, states, d_states, T, NT,
        H=H, K=K, V=V, HAS_INITIAL=h0 is not None, HAS_D_FINAL=dht is not None,
        PRECISION=precision(v.dtype), **config,
    )  # fmt: skip
    return states, d_states, d_initial


def run_output(saved, v, states, config):
    decayed_q, _, _, scores = saved
    (B, T, H, K), V = decayed_q.shape, v.shape[-1]
    NT = triton.cdiv(T, 64)
    config = blocks(config, K, V)
    o = torch.empty_like(v)
    launch(output_kernel, B * NT * H * triton.cdiv(V, config["BV"]))(
        decayed_q, v, scores, states, o, T, NT, H=H, K=K, V=V, PRECISION=precision(v.dtype), **config,
    )  # fmt: skip
    return o


def run_values(saved, v, do, d_states, scale, config):
    """Gradients of the values and, as a symmetric matrix, of the scores."""
    _, decayed_k, _, scores = saved
    (B, T, H, K), V = decayed_k.shape, v.shape[-1]
    NT = triton.cdiv(T, 64)
    dv, d_scores = torch.empty_like(v), torch.empty_like(scores)
    launch(values_kernel, B * NT * H)(
        decayed_k, v, do, scores, d_states, dv, d_scores, T, NT, scale, H=H, K=K, V=V,
        PRECISION=precision(v.dtype), **blocks(config, K, V),
    )  # fmt: skip
    return dv, d_scores


def run_gradients(q, k, v, g, do, total, d_scores, states, d_states, scale, config):
    """dq, dk in the dtype of q and dg in fp32."""
    (B, T, H, K), V = q.shape, v.shape[-1]
    NT = triton.cdiv(T, 64)
    dq, dk, dg = torch.empty_like(q), torch.empty_like(k), torch.empty_like(g, dtype=torch.float32)
    config = blocks(config, K, V)
    two = q.dtype != torch.float32 and g.dtype == torch.float32
    launch(gradients_kernel, B * NT * H * triton.cdiv(K, config["KI"]))(
        q, k, v, g, do, total, d_scores, states, d_states, dq, dk, dg, T, NT, scale,
        H=H, K=K, V=V, TWO=two, PRECISION=precision(q.dtype), **config,
    )  # fmt: skip
    return dq, dk, dg


def forward(q, k, v, g, h0=None, scale=None, want_final=True, configs=None):
    """o, the final state, and what the backward may take instead of computing it again."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    configs = configs or default_configs(q.dtype)
    saved = run_scores(q, k, g, scale, configs["scores"])
    states, final = run_state(saved, v, h0, want_final, configs["state"])
    return run_output(saved, v, states, configs["output"]), final, saved


def backward(q, k, v, g, do, h0=None, dht=None, scale=None, saved=None, configs=None):
    """dq, dk, dv, dg, dh0. States are recomputed, scores and decayed rows only if not given."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    configs = configs or default_configs(q.dtype)
    saved = saved or run_scores(q, k, g, scale, configs["scores"])
    states, d_states, dh0 = run_states(saved, v, do, h0, dht, configs["states"])
    dv, d_scores = run_values(saved, v, do, d_states, scale, configs["values"])
    dq, dk, dg = run_gradients(
        q, k, v, g, do, saved[2], d_scores, states, d_states, scale, configs["gradients"]
    )
    return dq, dk, dv, dg, dh0


# ---------------------------------------------------------------- checks
def reference(q, k, v, g, h0, scale):
    """The recurrence token by token."""
    S = torch.zeros_like(k[:, 0, :, :, None] * v[:, 0, :, None]) if h0 is None else h0
    decay = g.exp()
    read = []
    for t in range(q.shape[1]):
        S = decay[:, t, :, :, None] * S + k[:, t, :, :, None] * v[:, t, :, None]
        read.append((q[:, t, :, None] @ S)[:, :, 0])
    return scale * torch.stack(read, 1), S


def make(B, T, H, K, V, gate, dtype, gate_dtype, device):
    """Normalised q and k, v, g, do, h0, dht."""
    seeded = torch.Generator().manual_seed(B + T + K)

    def randn(*shape):
        return torch.randn(*shape, generator=seeded).to(device)

    q, k = (torch.nn.functional.normalize(randn(B, T, H, K), dim=-1).to(dtype) for _ in range(2))
    v, do = (randn(B, T, H, V).to(dtype) for _ in range(2))
    g = torch.nn.functional.logsigmoid(randn(B, T, H, K))
    other = randn(B, T, H, K)
    g = {
        "0": 0 * g,
        "weak": g / 16,
        "logsigmoid": g,
        "strong": 8 * g,
        "-20": 0 * g - 20,
        "inf": torch.where(other > 2, -float("inf"), g / 16),
        "mixed": torch.where(other > 1, -100.0, torch.where(other < -1.5, -float("inf"), g / 16)),
    }[gate]
    return q, k, v, g.to(gate_dtype), do, randn(B, H, K, V), randn(B, H, K, V)


def case(B, T, H, K, V, gate, dtype=torch.float32, gate_dtype=torch.float32, device="cpu",
         state=True, limits=(1e-4, 1e-4, 1e-4), configs=None):  # fmt: skip
    """Whether all errors are within the limits of (o, dq dk dv, dg), and a line about them."""
    q, k, v, g, do, h0, dht = make(B, T, H, K, V, gate, dtype, gate_dtype, device)
    if not state:
        h0 = dht = None
    scale = K**-0.5
    leaves = [None if x is None else x.double().requires_grad_() for x in (q, k, v, g, h0)]
    o_true, final_true = reference(*leaves, scale)
    loss = (o_true * do.double()).sum()
    if state:
        loss = loss + (final_true * dht.double()).sum()
    wanted = torch.autograd.grad(loss, [x for x in leaves if x is not None])
    o, final, _ = forward(q, k, v, g, h0, configs=configs)
    found = [x for x in backward(q, k, v, g, do, h0, dht, configs=configs) if x is not None]
    names = ["o", "final", "dq", "dk", "dv", "dg", "dh0"]
    pairs = zip(names, [o, final, *found], [o_true, final_true, *wanted], strict=False)
    errors = {}
    for name, x, true in pairs:
        # A floor under the truth: at strong decay dg is far below what can be represented.
        floor = 2.0**-20
        true = true.detach()
        rms = true.pow(2).mean().sqrt().clamp_min(floor)
        errors[name] = float((x.double() - true).pow(2).mean().sqrt() / rms)
    limit = {"o": limits[0], "final": limits[0], "dg": limits[2]}
    bad = [n for n, e in errors.items() if not e <= limit.get(n, limits[1])]
    text = f"B{B} T{T} H{H} K{K} V{V} gate={gate} {str(dtype)[6:]} {str(gate_dtype)[6:]}"
    return not bad, f"{'FAIL ' + ','.join(bad) if bad else 'ok'} {text} " + " ".join(
        f"{n}={e:.1e}" for n, e in errors.items()
    )


def launch_all(*sizes_and_kinds, state=True, configs=None):
    """Forward and backward of a case without its truth."""
    q, k, v, g, do, h0, dht = make(*sizes_and_kinds)
    if not state:
        h0 = dht = None
    forward(q, k, v, g, h0, configs=configs)
    backward(q, k, v, g, do, h0, dht, configs=configs)


GATES = ("0", "weak", "logsigmoid", "strong", "-20", "inf", "mixed")


def interp():
    """Every gate in fp32, and fp16 at one size, in Triton's interpreter.

    bf16 is left to the GPU: the interpreter truncates where hardware rounds to nearest.
    """
    good = True
    jobs = [(1, 130, 1, 32, 16, g, torch.float32) for g in GATES]
    jobs += [(1, T, 1, 16, 48, "logsigmoid", torch.float32) for T in (1, 63, 64)]
    jobs += [(2, 130, 2, 48, 32, g, torch.float32) for g in ("weak", "mixed")]
    jobs += [(1, 130, 1, 32, 32, g, torch.float16) for g in ("weak", "logsigmoid", "mixed")]
    for *sizes, dtype in jobs:
        limits = (1e-4,) * 3 if dtype == torch.float32 else (0.005, 0.008, 0.02)
        for gate_dtype in {dtype: None, torch.float32: None}:
            ok, text = case(*sizes, dtype, gate_dtype, limits=limits)
            print(text, flush=True)
            good &= ok
    print("INTERP OK" if good else "INTERP FAILED")


def attempt(job):
    """What a job returns, or its error as text."""
    try:
        return job()
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def each_candidate():
    """The default configurations with one kernel's replaced, for every candidate."""
    for name, candidates in CANDIDATES.items():
        for config in candidates:
            yield f"{name} {config}", default_configs(torch.bfloat16) | {name: config}


def check_alone(T, K, V, dtype=torch.bfloat16, configs=None):
    """Every kernel alone, with the device synchronised after it; a fault ends the run there."""
    B, H = 2, 2
    q, k, v, g, do, h0, dht = make(B, T, H, K, V, "weak", dtype, torch.float32, "cuda")
    configs, scale = configs or default_configs(dtype), K**-0.5

    def alone(name, run, *arguments):
        print(f"alone T{T} K{K} V{V} {str(dtype)[6:]} {name} {configs[name]}", end=" ", flush=True)
        result = run(*arguments, configs[name])
        torch.cuda.synchronize()
        print("ran", flush=True)
        return result

    saved = alone("scores", run_scores, q, k, g, scale)
    states, _ = alone("state", run_state, saved, v, h0, True)
    states, d_states, _ = alone("states", run_states, saved, v, do, h0, dht)
    alone("output", run_output, saved, v, states)
    _, d_scores = alone("values", run_values, saved, v, do, d_states, scale)
    alone("gradients", run_gradients, q, k, v, g, do, saved[2], d_scores, states, d_states, scale)


def check():
    """Every kernel alone, cases of all dtypes and gates, every candidate, two runs bit by bit."""
    for T in (64, 128, 130):
        check_alone(T, 128, 128)
    check_alone(130, 128, 128, torch.float32)
    check_alone(130, 100, 80)
    half, exact = (0.005, 0.008, 0.02), (1e-4, 1e-4, 1e-4)
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    jobs, compiles = [], []

    def add(*sizes, dtype=bf16, gate_dtype=fp32, text="", limits=half, **more):
        def compiling():
            launch_all(*sizes, dtype, gate_dtype, "cuda", **more)

        def job():
            good, line = case(*sizes, dtype, gate_dtype, "cuda", limits=limits, **more)
            return good, f"{line} {text}"

        jobs.append(job)
        compiles.append(compiling)

    for gate in GATES:
        add(2, 321, 2, 128, 128, gate)
        add(1, 321, 2, 64, 48, gate, dtype=fp16, gate_dtype=fp16)
        add(1, 321, 2, 64, 48, gate, dtype=fp32, limits=exact)
    for gate in ("weak", "logsigmoid", "mixed"):
        add(2, 321, 2, 128, 128, gate, gate_dtype=bf16)
        add(2, 321, 2, 128, 128, gate, dtype=fp16)
    for T in (1, 63, 64, 130):
        add(1, T, 2, 100, 80, "weak", state=False)
    add(1, 321, 2, 128, 128, "weak", dtype=fp32, limits=exact)
    add(1, 200, 2, 256, 256, "weak")
    for text, configs in each_candidate():
        add(1, 200, 2, 128, 128, "weak", configs=configs, text=text)

    start = time.time()
    good = True
    compile_all(compiles)
    print(f"compiled in {time.time() - start:.0f} s", flush=True)
    for result in map(attempt, jobs):
        ok, line = (False, f"ERROR {result}") if isinstance(result, str) else result
        print(line, flush=True)
        good &= ok
        if "illegal memory access" in line:
            break  # nothing can run after it
    q, k, v, g, do, h0, dht = make(2, 2000, 4, 128, 128, "weak", bf16, fp32, "cuda")
    once, again = (
        [*forward(q, k, v, g, h0)[:2], *backward(q, k, v, g, do, h0, dht)] for _ in range(2)
    )
    same = all(torch.equal(x, y) for x, y in zip(once, again, strict=True))
    print("two runs: equal bits" if same else "two runs: DIFFERENT BITS")
    print(f"{'CHECK OK' if good and same else 'CHECK FAILED'} {time.time() - start:.0f} s", flush=True)


# ---------------------------------------------------------------- timings
CANDIDATES = {
    "scores": [
        dict(KI=64, num_warps=8), dict(KI=32, num_warps=4), dict(KI=32, num_warps=8),
        dict(KI=64, num_warps=4), dict(KI=64, num_warps=8, maxnreg=128),
        dict(KI=64, num_warps=8, num_stages=1), dict(KI=32, num_warps=4, num_stages=1),
    ],
    "state": [
        dict(BK=BK, BV=BV, STAGES=s, num_warps=4)
        for BK, BV, s in ((128, 64, 3), (128, 64, 2), (128, 32, 4), (64, 64, 3), (64, 32, 4))
    ],
    "states": [
        dict(BK=BK, BV=BV, STAGES=s, num_warps=4)
        for BK, BV, s in ((128, 64, 3), (128, 64, 2), (64, 64, 3), (64, 128, 3), (128, 32, 3))
    ],
    "output": [
        dict(BK=128, BV=128, num_warps=4), dict(BK=128, BV=64, num_warps=4),
        dict(BK=64, BV=128, num_warps=4), dict(BK=128, BV=128, num_warps=8),
    ],
    "values": [
        dict(BK=BK, BV=BV, num_warps=w, num_stages=s)
        for BK, BV, w, s in (
            (128, 128, 4, 1), (128, 64, 4, 1), (64, 64, 4, 1), (64, 64, 4, 2), (128, 128, 8, 1),
            (64, 32, 4, 2),
        )
    ],
    "gradients": [
        dict(KI=KI, BV=BV, num_warps=w, num_stages=s)
        for KI, BV, w, s in (
            (32, 64, 4, 1), (32, 64, 4, 3), (32, 128, 4, 1), (32, 64, 8, 1), (64, 64, 8, 1),
            (64, 64, 8, 3), (64, 128, 8, 1),
        )
    ] + [dict(KI=32, BV=64, num_warps=8, num_stages=1, maxnreg=128)],
}  # fmt: skip


def median(call, ms=30):
    return triton.testing.do_bench(call, warmup=5, rep=ms, return_mode="median")


def bench(B=2, T=16384, H=16, K=128, V=128, dtype=torch.bfloat16):
    """Medians per kernel and candidate, then the whole operator with the best, then FLA's."""
    q, k, v, g, do, _, _ = make(B, T, H, K, V, "weak", dtype, torch.float32, "cuda")
    scale = K**-0.5
    configs = default_configs(dtype)
    saved = run_scores(q, k, g, scale, configs["scores"])
    states, d_states, _ = run_states(saved, v, do, None, None, configs["states"])
    _, d_scores = run_values(saved, v, do, d_states, scale, configs["values"])
    calls = {
        "scores": lambda c: run_scores(q, k, g, scale, c),
        "state": lambda c: run_state(saved, v, None, False, c),
        "states": lambda c: run_states(saved, v, do, None, None, c),
        "output": lambda c: run_output(saved, v, states, c),
        "values": lambda c: run_values(saved, v, do, d_states, scale, c),
        "gradients": lambda c: run_gradients(
            q, k, v, g, do, saved[2], d_scores, states, d_states, scale, c
        ),
    }
    jobs = [(name, config) for name, found in CANDIDATES.items() for config in found]

    start = time.time()
    compile_all([partial(calls[name], config) for name, config in jobs])
    print(f"{torch.cuda.get_device_name()}: {len(jobs)} candidates in {time.time() - start:.0f} s")
    best = {}
    for name, config in jobs:
        print(f"{name:10s} {config}", end=" ", flush=True)
        us = attempt(lambda name=name, config=config: 1e3 * median(lambda: calls[name](config)))
        if isinstance(us, str):
            print(us, flush=True)
            continue
        print(f"{us:8.1f} us", flush=True)
        if us < best.get(name, (float("inf"),))[0]:
            best[name] = us, config
    configs |= {name: config for name, (_, config) in best.items()}
    print("best", {name: (round(us), config) for name, (us, config) in best.items()})

    def both(keep):
        saved = forward(q, k, v, g, want_final=False, configs=configs)[2]
        backward(q, k, v, g, do, saved=saved if keep else None, configs=configs)

    print(f"forward {median(lambda: forward(q, k, v, g, want_final=False, configs=configs)):.3f} ms")
    print(f"forward + backward, scores saved {median(lambda: both(True)):.3f} ms")
    print(f"forward + backward, scores recomputed {median(lambda: both(False)):.3f} ms", flush=True)
    bench_fla(q, k, v, g, do)


def bench_fla(q, k, v, g, do):
    """The same work in flash-linear-attention, where it is installed."""
    try:
        from fla.ops.gla import chunk_gla
    except ImportError:
        print("FLA is not installed")
        return
    for gate in (g, g.to(q.dtype)):
        leaves = [x.detach().clone().requires_grad_() for x in (q, k, v, gate)]

        def both(leaves=leaves):
            torch.autograd.grad(chunk_gla(*leaves)[0], leaves, do)

        with torch.no_grad():
            once = median(lambda leaves=leaves: chunk_gla(*leaves))
        print(f"FLA, gate {gate.dtype}: forward {once:.3f} ms, + backward {median(both):.3f} ms")


if __name__ == "__main__":
    globals()[sys.argv[1] if len(sys.argv) > 1 else "interp"]()
