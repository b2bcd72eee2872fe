"""The state of a recurrence with one decay per key channel from chunk to chunk, and its adjoint."""

import triton
import triton.language as tl


@triton.jit
def vector_walk(
    pid, a_ptr, b_ptr, total_ptr, total_b_ptr, first_ptr, last_ptr, states_ptr,
    cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS,
    H: tl.constexpr, HB: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    STRIDE_K: tl.constexpr, STRIDE_V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, ADJOINT: tl.constexpr,
    HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One [BK, BV] block of the state of one (sequence, head), 64 tokens per step.

    S <- total S + a^T b, with a [B, T, H, K] decayed keys and b values; the adjoint, with decayed
    queries and gradients of the read, starts at the last chunk. The state before each step goes
    to ``states_ptr``. Where values decay too, ``total_b_ptr`` is not None.
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
    if total_b_ptr is not None:
        total_b_ptr += in_rows * V
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
        S *= total[:, None]
        if total_b_ptr is not None:
            total = tl.load(total_b_ptr + c.to(tl.int64) * (H * V) + r_v, mask=r_v < V, other=0.0)
            S *= total[None, :]
        S = dot_add(tl.trans(a), b, S, PRECISION)  # noqa: F821
    if HAS_LAST:
        tl.store(last_ptr + of_head + in_state, S, mask=exists)
