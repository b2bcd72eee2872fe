"""A recurrence with one decay per key channel and an erase: its state from chunk to chunk."""

import torch
import triton
import triton.language as tl


@triton.jit
def load_square(pointer, in_rows, i):
    """The [64, 64] matrix of one chunk and head."""
    return tl.load(pointer + in_rows * 4096 + i[:, None] * 64 + i[None, :])


@triton.jit
def store_square(pointer, in_rows, i, matrix):
    """Stores the [64, 64] matrix of one chunk and head."""
    place = pointer + in_rows * 4096 + i[:, None] * 64 + i[None, :]
    tl.store(place, matrix.to(pointer.dtype.element_ty))


@triton.jit
def only(pairs, matrix):
    """A matrix where ``pairs`` says so, else 0."""
    return tl.where(pairs, matrix, 0.0).to(matrix.dtype)


@triton.jit
def vector_delta_walk(
    pid, read_ptr, write_ptr, given_ptr, keys_ptr, v_ptr, total_ptr, first_ptr, last_ptr,
    states_ptr, added_ptr, cu_seqlens_ptr, starts_ptr, T, NT, CHUNKS,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    STRIDE_K: tl.constexpr, STRIDE_V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    STAGES: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr, ADJOINT: tl.constexpr,
    KEYS: tl.constexpr, HAS_FIRST: tl.constexpr, HAS_LAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All keys and BV columns of the state of one (sequence, head), 64 tokens per step.

    E = read S + given, S <- total S + write^T E + keys^T v (the last only if KEYS). The adjoint
    starts at the last chunk: dE, with W for write, b for read, queries for keys and the gradient
    d_read of what they read for v; given is then (scores qb)^T d_read. The state before each step
    goes to ``states_ptr``, E to ``added_ptr``.
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
    i = tl.arange(0, 64)
    rows = i
    if REVERSE:
        rows = -i
    # Wrong borders of packed sequences must not lead behind the last chunk.
    n_chunks = tl.minimum((length + 63) // 64, CHUNKS - first_chunk)
    for step in tl.range(0, n_chunks, num_stages=STAGES, disable_licm=True):
        c = step
        if ADJOINT:
            c = n_chunks - 1 - step
        valid = c * 64 + i < length
        row = bos + c * 64
        if REVERSE:
            row = bos + length - 1 - c * 64
        at_k = (row * H + h) * K
        at_v = (row * H + h) * V
        in_rows = (first_chunk + c).to(tl.int64) * H + h
        total = tl.load(total_ptr + in_rows * K + r_k, mask=r_k < K, other=0.0)
        read = load_rows(read_ptr + at_k, rows, valid, r_k, H * K, K, K % BK == 0)  # noqa: F821
        write = load_rows(write_ptr + at_k, rows, valid, r_k, H * K, K, K % BK == 0)  # noqa: F821
        if KEYS:
            keys = load_rows(keys_ptr + at_k, rows, valid, r_k, H * K, K, K % BK == 0)  # noqa: F821
            of_v = (row * HV + h // (H // HV)) * V
            v = load_rows(v_ptr + of_v, rows, valid, r_v, HV * V, V, V % BV == 0)  # noqa: F821
        if ADJOINT:
            given = dot(tl.trans(load_square(given_ptr, in_rows, i)), v, PRECISION)  # noqa: F821
        else:
            given = load_rows(given_ptr + at_v, rows, valid, r_v, H * V, V, V % BV == 0)  # noqa: F821
        state = S.to(read.dtype)
        tl.store(states_ptr + in_rows * (K * V) + in_chunk, state, mask=exists)
        added = dot_add(read, state, given.to(tl.float32), PRECISION).to(read.dtype)  # noqa: F821
        store_rows(added_ptr + at_v, added, rows, valid, r_v, H * V, V)  # noqa: F821
        S = S * total[:, None]
        if KEYS:
            S = dot_add(tl.trans(keys), v, S, PRECISION)  # noqa: F821
        S = dot_add(tl.trans(write), added, S, PRECISION)  # noqa: F821
    if HAS_LAST:
        tl.store(last_ptr + of_head + in_state, S, mask=exists)


def _walk_bytes(K, BV, stages, dtype):
    """Shared memory of the walk that needs most: three tiles of keys, one of values, a matrix.

    With one stage tiles of keys come one after the other, but in fp32, where two stages need less
    than this says for them.
    """
    BK = _padded(K)  # noqa: F821
    keys = BK if stages == 1 and dtype != torch.float32 else 3 * BK
    return dtype.itemsize * (stages * 64 * (keys + BV + 64) + (BK + 64) * BV) + 4 * BK


def _walk_blocks(config, K, V, dtype, shared, wide):
    """BK, BV and stages of a walk that fits ``shared`` bytes; with one stage ``wide`` columns.

    Odd sizes put every other row at an odd address: Triton 3.6 loads such rows ahead of their use
    wrongly.
    """
    BK, BV = _padded(K), _block(config["BV"], V, dtype, 16)  # noqa: F821
    if dtype == torch.float32:
        return BK, BV, 2
    stages = 1 if K % 2 or V % 2 else config["num_stages"]
    while stages > 1 and _walk_bytes(K, BV, stages, dtype) > shared:
        stages -= 1
    if stages == 1:
        BV = _block(wide, V, dtype, 16)  # noqa: F821
    return BK, BV, stages


def _whole_blocks(config, K, V, dtype):
    """``config`` with blocks of 64 channels, but where all blocks are whole and values many.

    On Hopper ptxas 12.8 gives products of 32 channels wrong addresses where K is at most 64, V is
    at most 64, or sizes are odd.
    """
    if dtype == torch.float32 or (K % 64 == V % 64 == 0 and min(K, V) > 64):
        return config
    return {**config, "KI": 64, "maxnreg": 0}
