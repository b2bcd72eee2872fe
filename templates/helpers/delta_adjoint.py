"""The gradient of the state of a delta recurrence from chunk to chunk, backwards."""

import triton
import triton.language as tl


@triton.jit
def delta_walk_back(
    pid, q_ptr, k_ptr, d_read_ptr, inverse_ptr, mixing_ptr, q_desc, k_desc, d_read_desc,
    inverse_desc, mixing_desc, factors_ptr, totals_ptr, first_ptr, last_ptr, d_states_ptr, d_v_ptr,
    cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS, PLANE,
    H: tl.constexpr, HQ: tl.constexpr, HK: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    STRIDE_K: tl.constexpr, STRIDE_V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr,
    HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of the state, from the last chunk to the first: BV columns, all keys.

    d_v = B^T d_read + (I + N)^-T (write e^suffix k dS), dS <- e^total dS
    + q^T (read e^prefix d_read) - k^T (erase e^prefix d_v).
    """
    n, h, i_v, bos, length, n_chunks, first_chunk = walk_range(  # noqa: F821
        pid, cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS, H, (V + BV - 1) // BV, PACKED
    )
    r_k = tl.arange(0, BK)
    r_v = i_v * BV + tl.arange(0, BV)
    exists = (r_k < K)[:, None] & (r_v < V)[None, :]
    in_chunk = r_k[:, None] * V + r_v[None, :]
    in_state = r_k[:, None] * STRIDE_K + r_v[None, :] * STRIDE_V
    of_head = (n.to(tl.int64) * H + h) * (K * V)
    S = walk_start(first_ptr, of_head, in_state, exists, BK, BV, HAS_FIRST)  # noqa: F821
    q_column = (h // (H // HQ)) * K
    k_column = (h // (H // HK)) * K
    i = tl.arange(0, 64)
    rows = i
    if REVERSE:
        rows = -i
    for step in tl.range(0, n_chunks, num_stages=STAGES, disable_licm=True):
        c = n_chunks - 1 - step
        valid = c * 64 + i < length
        row = bos + c * 64
        if REVERSE:
            row = bos + length - 1 - c * 64
        r0 = row.to(tl.int32)
        in_rows = (first_chunk + c).to(tl.int64) * H + h
        erase = tl.load(factors_ptr + in_rows * 64 + i)
        read = tl.load(factors_ptr + PLANE + in_rows * 64 + i)
        write = tl.load(factors_ptr + 2 * PLANE + in_rows * 64 + i)
        total = tl.load(totals_ptr + in_rows)
        k = rows_tile(  # noqa: F821
            k_ptr + row * (HK * K) + k_column, k_desc, rows, valid, r_k, r0, k_column,
            HK * K, K, K % BK == 0, DESCRIPTORS,
        )  # fmt: skip
        state = S.to(k.dtype)
        tl.store(d_states_ptr + in_rows * (K * V) + in_chunk, state, mask=exists)
        d_u = (dot(k, state, PRECISION) * write[:, None]).to(k.dtype)  # noqa: F821
        place = (row * H + h) * V
        d_read = rows_tile(  # noqa: F821
            d_read_ptr + place, d_read_desc, rows, valid, r_v, r0, h * V + i_v * BV,
            H * V, V, V % BV == 0, DESCRIPTORS,
        )  # fmt: skip
        mixing = square_tile(mixing_ptr, mixing_desc, in_rows, i, DESCRIPTORS)  # noqa: F821
        d_v = dot(tl.trans(mixing), d_read, PRECISION)  # noqa: F821
        inverse = square_tile(inverse_ptr, inverse_desc, in_rows, i, DESCRIPTORS)  # noqa: F821
        d_v = dot_add(tl.trans(inverse), d_u, d_v, PRECISION)  # noqa: F821
        store_rows(d_v_ptr + place, d_v, rows, valid, r_v, H * V, V)  # noqa: F821
        q = rows_tile(  # noqa: F821
            q_ptr + row * (HQ * K) + q_column, q_desc, rows, valid, r_k, r0, q_column,
            HQ * K, K, K % BK == 0, DESCRIPTORS,
        )  # fmt: skip
        d_found = (d_read.to(tl.float32) * read[:, None]).to(k.dtype)
        S = dot_add(tl.trans(q), d_found, S * total, PRECISION)  # noqa: F821
        d_erased = (d_v * -erase[:, None]).to(k.dtype)
        S = dot_add(tl.trans(k), d_erased, S, PRECISION)  # noqa: F821
    if HAS_LAST:
        tl.store(last_ptr + of_head + in_state, S, mask=exists)
