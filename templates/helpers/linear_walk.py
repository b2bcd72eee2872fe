"""The state of a linear recurrence from chunk to chunk, forward and adjoint."""

import triton
import triton.language as tl


@triton.jit
def linear_walk(
    pid, a_ptr, b_ptr, decay_ptr, weight_ptr, first_ptr, last_ptr, states_ptr,
    cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS, PLANE, scale,
    H: tl.constexpr, HA: tl.constexpr, HB: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    STRIDE_K: tl.constexpr, STRIDE_V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, DECAY: tl.constexpr, WEIGHT: tl.constexpr, REVERSE: tl.constexpr,
    PACKED: tl.constexpr, ADJOINT: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One [BK, BV] block of the state of one (sequence, head), 64 tokens per step.

    Forward: S <- e^total S + a^T (b weight e^suffix) with a = key, b = value. Adjoint, from the
    last chunk: dS <- e^total dS + a^T (b weight scale e^prefix) with a = query, b = gradient of
    the read. The state before each step goes to ``states_ptr``.
    """
    NK: tl.constexpr = (K + BK - 1) // BK
    NV: tl.constexpr = (V + BV - 1) // BV
    EXACT: tl.constexpr = PRECISION == "tf32x3"
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
    a_ptr += (h // (H // HA)) * K
    b_ptr += (h // (H // HB)) * V
    states_ptr += (first_chunk.to(tl.int64) * H + h) * (K * V)
    i = tl.arange(0, 64)
    rows = i
    if REVERSE:
        rows = -i
    n_chunks = (length + 63) // 64
    for step in tl.range(0, n_chunks, num_stages=STAGES):
        c = step
        if ADJOINT:
            c = n_chunks - 1 - step
        valid = c * 64 + i < length
        row = bos + c * 64
        if REVERSE:
            row = bos + length - 1 - c * 64
        a = load_rows(a_ptr + row * (HA * K), rows, valid, r_k, HA * K, K, K % BK == 0)  # noqa: F821
        b = load_rows(b_ptr + row * (HB * V), rows, valid, r_v, HB * V, V, V % BV == 0)  # noqa: F821
        factor = tl.full([64], 1.0, tl.float32)
        if ADJOINT:
            factor *= scale
        if DECAY:
            high, low = load_decay(decay_ptr, first_chunk + c, h, i, PLANE, H, EXACT)  # noqa: F821
            end_high, end_low = load_decay(decay_ptr, first_chunk + c, h, 63, PLANE, H, EXACT)  # noqa: F821
            if ADJOINT:
                factor *= tl.exp2(high + low)
            else:
                factor = tl.exp2((end_high - high) + (end_low - low))
        if WEIGHT:
            factor *= tl.load(weight_ptr + ((first_chunk + c).to(tl.int64) * H + h) * 64 + i)
        if DECAY or WEIGHT or ADJOINT:
            b = (b.to(tl.float32) * factor[:, None]).to(b.dtype)
        place = states_ptr + c.to(tl.int64) * (H * K * V) + in_chunk
        fits = exists
        if PACKED:
            # Wrong borders must not write behind the last chunk. A mask, for a branch that reads
            # the accumulator makes Triton 3.6 abort on Blackwell where nothing decays.
            fits = tl.where(first_chunk + c < CHUNKS, exists, False)
        tl.store(place, S.to(states_ptr.dtype.element_ty), mask=fits)
        if DECAY:
            S = S * tl.exp2(end_high + end_low)
        S = dot_add(tl.trans(a), b, S, PRECISION)  # noqa: F821
    if HAS_LAST:
        tl.store(last_ptr + of_head + in_state, S, mask=exists)
