"""The state of a delta recurrence from chunk to chunk."""

import triton
import triton.language as tl


@triton.jit
def load_square(pointer, in_rows, i):
    """The [64, 64] matrix of one chunk and head."""
    return tl.load(pointer + in_rows * 4096 + i[:, None] * 64 + i[None, :])


@triton.jit
def square_tile(pointer, descriptor, in_rows, i, DESCRIPTORS: tl.constexpr):
    """The [64, 64] matrix of one chunk and head, by pointer or by descriptor."""
    if DESCRIPTORS:
        return descriptor.load([(in_rows * 64).to(tl.int32), 0])
    else:
        return load_square(pointer, in_rows, i)


@triton.jit
def walk_range(
    pid, cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS,
    H: tl.constexpr, BLOCKS: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """What a program walks: sequence, head, block of columns; first row, length; chunks, first one.

    Wrong borders of packed sequences must not lead behind the last chunk.
    """
    h = (pid // BLOCKS) % H
    n = pid // (BLOCKS * H)
    bos, length = chunk_sequence(cu_seqlens_ptr, n, T, PACKED)  # noqa: F821
    first_chunk = tl.load(starts_ptr + n) if PACKED else n * NT
    n_chunks = tl.minimum((length + 63) // 64, CHUNKS - first_chunk)
    return n, h, pid % BLOCKS, bos, length, n_chunks, first_chunk


@triton.jit
def walk_start(
    pointer, of_head, in_state, exists,
    BK: tl.constexpr, BV: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """[BK, BV] of the state that a walk starts with, or zeros."""
    S = tl.zeros([BK, BV], tl.float32)
    if GIVEN:
        S += tl.load(pointer + of_head + in_state, mask=exists, other=0.0).to(tl.float32)
    return S


@triton.jit
def delta_walk(
    pid, k_ptr, v_ptr, inverse_ptr, k_desc, v_desc, inverse_desc, factors_ptr, totals_ptr,
    first_ptr, last_ptr, states_ptr, errors_ptr, written_ptr, cu_seqlens_ptr, starts_ptr,
    T, NT, CHUNKS, PLANE,
    H: tl.constexpr, HK: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    STRIDE_K: tl.constexpr, STRIDE_V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, ERRORS: tl.constexpr,
    WRITTEN: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr,
    DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All keys and BV columns of the state of one (sequence, head), 64 tokens per step.

    z = v - erase e^prefix k S, u = (I + N)^-1 z, S <- e^total S + k^T (write e^suffix u). The
    state before each step goes to ``states_ptr``, z and u where ERRORS and WRITTEN say so.
    """
    n, h, i_v, bos, length, n_chunks, first_chunk = walk_range(
        pid, cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS, H, (V + BV - 1) // BV, PACKED
    )
    r_k = tl.arange(0, BK)
    r_v = i_v * BV + tl.arange(0, BV)
    exists = (r_k < K)[:, None] & (r_v < V)[None, :]
    in_chunk = r_k[:, None] * V + r_v[None, :]
    in_state = r_k[:, None] * STRIDE_K + r_v[None, :] * STRIDE_V
    of_head = (n.to(tl.int64) * H + h) * (K * V)
    S = walk_start(first_ptr, of_head, in_state, exists, BK, BV, HAS_FIRST)
    k_column = (h // (H // HK)) * K
    v_column = (h // (H // HV)) * V
    i = tl.arange(0, 64)
    rows = i
    if REVERSE:
        rows = -i
    for c in tl.range(0, n_chunks, num_stages=STAGES, disable_licm=True):
        valid = c * 64 + i < length
        row = bos + c * 64
        if REVERSE:
            row = bos + length - 1 - c * 64
        r0 = row.to(tl.int32)
        in_rows = (first_chunk + c).to(tl.int64) * H + h
        erase = tl.load(factors_ptr + in_rows * 64 + i)
        write = tl.load(factors_ptr + 2 * PLANE + in_rows * 64 + i)
        total = tl.load(totals_ptr + in_rows)
        k = rows_tile(  # noqa: F821
            k_ptr + row * (HK * K) + k_column, k_desc, rows, valid, r_k, r0, k_column,
            HK * K, K, K % BK == 0, DESCRIPTORS,
        )  # fmt: skip
        v = rows_tile(  # noqa: F821
            v_ptr + row * (HV * V) + v_column, v_desc, rows, valid, r_v, r0, v_column + i_v * BV,
            HV * V, V, V % BV == 0, DESCRIPTORS,
        )  # fmt: skip
        state = S.to(k.dtype)
        tl.store(states_ptr + in_rows * (K * V) + in_chunk, state, mask=exists)
        z = (v.to(tl.float32) - dot(k, state, PRECISION) * erase[:, None]).to(k.dtype)  # noqa: F821
        u = dot(square_tile(inverse_ptr, inverse_desc, in_rows, i, DESCRIPTORS), z, PRECISION)  # noqa: F821
        place = (row * H + h) * V
        if ERRORS:
            store_rows(errors_ptr + place, z, rows, valid, r_v, H * V, V)  # noqa: F821
        if WRITTEN:
            store_rows(written_ptr + place, u, rows, valid, r_v, H * V, V)  # noqa: F821
        written = (u * write[:, None]).to(k.dtype)
        S = dot_add(tl.trans(k), written, S * total, PRECISION)  # noqa: F821
    if HAS_LAST:
        tl.store(last_ptr + of_head + in_state, S, mask=exists)
