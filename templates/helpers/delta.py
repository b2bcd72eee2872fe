"""The state of a delta recurrence from chunk to chunk, forward and adjoint."""

import triton
import triton.language as tl


@triton.jit
def halves(x):
    """fp32 as the sum of two bf16, the first one x rounded to the nearest.

    Rounded in its bits: conversions there and back would run one by one, not in pairs.
    """
    bits = x.to(tl.int32, bitcast=True)
    high = ((bits + 0x8000) & -65536).to(tl.float32, bitcast=True)
    return high.to(tl.bfloat16), (x - high).to(tl.bfloat16)


@triton.jit
def fine_dot(a, b, PRECISION: tl.constexpr):
    """a b of fp32 matrices by three products of their parts."""
    if PRECISION == "bf16x3":
        a_high, a_low = halves(a)
        b_high, b_low = halves(b)
        return tl.dot(a_high, b_high, tl.dot(a_high, b_low, tl.dot(a_low, b_high)))
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def unit_inverse(N, i, PRECISION: tl.constexpr):
    """(I + N)^-1 of a strictly lower triangular [64, 64], by merging blocks of 1, 2, .., 32.

    Blocks up to 16 lie on the diagonal: they are merged as four matrices [16, 16].
    """
    blocks = (i >> 4)[:, None] == (i >> 4)[None, :]
    M = tl.sum(tl.reshape(tl.where(blocks, N, 0.0), [4, 16, 4, 16]), 2)
    j = tl.arange(0, 16)
    x = (j[:, None] ^ j[None, :])[None, :, :]
    Y = tl.where(x == 0, 1.0, 0.0) - tl.where(x == 1, M, 0.0)
    for level in tl.static_range(1, 4):
        between = tl.where((x >> level) == 1, M, 0.0)
        Y -= fine_dot(fine_dot(Y, between, PRECISION), Y, PRECISION)
    Y = tl.broadcast_to(tl.expand_dims(Y, 2), [4, 16, 4, 16])
    X = tl.where(blocks, tl.reshape(Y, [64, 64]), 0.0)
    x = i[:, None] ^ i[None, :]
    for level in tl.static_range(4, 6):
        between = tl.where((x >> level) == 1, N, 0.0)
        X -= fine_dot(fine_dot(X, between, PRECISION), X, PRECISION)
    return X


@triton.jit
def load_square(pointer, in_rows, i):
    """The [64, 64] matrix of one chunk and head."""
    return tl.load(pointer + in_rows * 4096 + i[:, None] * 64 + i[None, :])


@triton.jit
def delta_walk(
    pid, k_ptr, v_ptr, inverse_ptr, factors_ptr, totals_ptr, first_ptr, last_ptr, states_ptr,
    result_ptr, cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS, PLANE,
    H: tl.constexpr, HK: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    STRIDE_K: tl.constexpr, STRIDE_V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, SOLVED: tl.constexpr,
    HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All keys and BV columns of the state of one (sequence, head), 64 tokens per step.

    z = v - erase e^prefix k S, u = (I + N)^-1 z, S <- e^total S + k^T (write e^suffix u). The
    state before each step goes to ``states_ptr``, u to ``result_ptr`` if SOLVED, else z.
    """
    NV: tl.constexpr = (V + BV - 1) // BV
    i_v = pid % NV
    h = (pid // NV) % H
    n = pid // (NV * H)
    bos, length = chunk_sequence(cu_seqlens_ptr, n, T, PACKED)  # noqa: F821
    first_chunk = tl.load(starts_ptr + n) if PACKED else n * NT
    r_k = tl.arange(0, BK)
    r_v = i_v * BV + tl.arange(0, BV)
    exists = (r_k < K)[:, None] & (r_v < V)[None, :]
    in_chunk = r_k[:, None] * V + r_v[None, :]
    in_state = r_k[:, None] * STRIDE_K + r_v[None, :] * STRIDE_V
    of_head = (n.to(tl.int64) * H + h) * (K * V)
    S = tl.zeros([BK, BV], tl.float32)
    if HAS_FIRST:
        S += tl.load(first_ptr + of_head + in_state, mask=exists, other=0.0).to(tl.float32)
    k_ptr += (h // (H // HK)) * K
    v_ptr += (h // (H // HV)) * V
    result_ptr += h * V
    i = tl.arange(0, 64)
    rows = i
    if REVERSE:
        rows = -i
    # Wrong borders of packed sequences must not lead behind the last chunk.
    n_chunks = tl.minimum((length + 63) // 64, CHUNKS - first_chunk)
    for c in tl.range(0, n_chunks, num_stages=STAGES, disable_licm=True):
        valid = c * 64 + i < length
        row = bos + c * 64
        if REVERSE:
            row = bos + length - 1 - c * 64
        in_rows = (first_chunk + c).to(tl.int64) * H + h
        erase = tl.load(factors_ptr + in_rows * 64 + i)
        write = tl.load(factors_ptr + 2 * PLANE + in_rows * 64 + i)
        total = tl.load(totals_ptr + in_rows)
        k = load_rows(k_ptr + row * (HK * K), rows, valid, r_k, HK * K, K, K % BK == 0)  # noqa: F821
        v = load_rows(v_ptr + row * (HV * V), rows, valid, r_v, HV * V, V, V % BV == 0)  # noqa: F821
        state = S.to(k.dtype)
        tl.store(states_ptr + in_rows * (K * V) + in_chunk, state, mask=exists)
        z = (v.to(tl.float32) - dot(k, state, PRECISION) * erase[:, None]).to(k.dtype)  # noqa: F821
        u = dot(load_square(inverse_ptr, in_rows, i), z, PRECISION)  # noqa: F821
        result = u if SOLVED else z
        store_rows(result_ptr + row * (H * V), result, rows, valid, r_v, H * V, V)  # noqa: F821
        written = (u * write[:, None]).to(k.dtype)
        S = dot_add(tl.trans(k), written, S * total, PRECISION)  # noqa: F821
    if HAS_LAST:
        tl.store(last_ptr + of_head + in_state, S, mask=exists)


@triton.jit
def delta_walk_back(
    pid, q_ptr, k_ptr, d_read_ptr, inverse_ptr, mixing_ptr, factors_ptr, totals_ptr, first_ptr,
    last_ptr, d_states_ptr, d_v_ptr, cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS, PLANE,
    H: tl.constexpr, HQ: tl.constexpr, HK: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    STRIDE_K: tl.constexpr, STRIDE_V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr,
    HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of the state, from the last chunk to the first: BV columns, all keys.

    d_v = B^T d_read + (I + N)^-T (write e^suffix k dS), dS <- e^total dS
    + q^T (read e^prefix d_read) - k^T (erase e^prefix d_v).
    """
    NV: tl.constexpr = (V + BV - 1) // BV
    i_v = pid % NV
    h = (pid // NV) % H
    n = pid // (NV * H)
    bos, length = chunk_sequence(cu_seqlens_ptr, n, T, PACKED)  # noqa: F821
    first_chunk = tl.load(starts_ptr + n) if PACKED else n * NT
    r_k = tl.arange(0, BK)
    r_v = i_v * BV + tl.arange(0, BV)
    exists = (r_k < K)[:, None] & (r_v < V)[None, :]
    in_chunk = r_k[:, None] * V + r_v[None, :]
    in_state = r_k[:, None] * STRIDE_K + r_v[None, :] * STRIDE_V
    of_head = (n.to(tl.int64) * H + h) * (K * V)
    S = tl.zeros([BK, BV], tl.float32)
    if HAS_FIRST:
        S += tl.load(first_ptr + of_head + in_state, mask=exists, other=0.0).to(tl.float32)
    q_ptr += (h // (H // HQ)) * K
    k_ptr += (h // (H // HK)) * K
    d_read_ptr += h * V
    d_v_ptr += h * V
    i = tl.arange(0, 64)
    rows = i
    if REVERSE:
        rows = -i
    n_chunks = tl.minimum((length + 63) // 64, CHUNKS - first_chunk)
    for step in tl.range(0, n_chunks, num_stages=STAGES, disable_licm=True):
        c = n_chunks - 1 - step
        valid = c * 64 + i < length
        row = bos + c * 64
        if REVERSE:
            row = bos + length - 1 - c * 64
        in_rows = (first_chunk + c).to(tl.int64) * H + h
        erase = tl.load(factors_ptr + in_rows * 64 + i)
        read = tl.load(factors_ptr + PLANE + in_rows * 64 + i)
        write = tl.load(factors_ptr + 2 * PLANE + in_rows * 64 + i)
        total = tl.load(totals_ptr + in_rows)
        k = load_rows(k_ptr + row * (HK * K), rows, valid, r_k, HK * K, K, K % BK == 0)  # noqa: F821
        state = S.to(k.dtype)
        tl.store(d_states_ptr + in_rows * (K * V) + in_chunk, state, mask=exists)
        d_u = (dot(k, state, PRECISION) * write[:, None]).to(k.dtype)  # noqa: F821
        d_read = load_rows(d_read_ptr + row * (H * V), rows, valid, r_v, H * V, V, V % BV == 0)  # noqa: F821
        d_v = dot(tl.trans(load_square(mixing_ptr, in_rows, i)), d_read, PRECISION)  # noqa: F821
        d_v = dot_add(tl.trans(load_square(inverse_ptr, in_rows, i)), d_u, d_v, PRECISION)  # noqa: F821
        store_rows(d_v_ptr + row * (H * V), d_v, rows, valid, r_v, H * V, V)  # noqa: F821
        q = load_rows(q_ptr + row * (HQ * K), rows, valid, r_k, HQ * K, K, K % BK == 0)  # noqa: F821
        d_found = (d_read.to(tl.float32) * read[:, None]).to(k.dtype)
        S = dot_add(tl.trans(q), d_found, S * total, PRECISION)  # noqa: F821
        d_erased = (d_v * -erase[:, None]).to(k.dtype)
        S = dot_add(tl.trans(k), d_erased, S, PRECISION)  # noqa: F821
    if HAS_LAST:
        tl.store(last_ptr + of_head + in_state, S, mask=exists)
