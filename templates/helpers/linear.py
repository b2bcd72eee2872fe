"""Chunks of 64 tokens and their tiles in memory."""

import triton
import triton.language as tl


@triton.jit
def chunk_sequence(cu_seqlens_ptr, sequence, T, PACKED: tl.constexpr):
    """First row (int64) and length of a sequence; borders are clamped to the tensor."""
    if PACKED:
        bos = tl.load(cu_seqlens_ptr + sequence).to(tl.int64)
        eos = tl.load(cu_seqlens_ptr + sequence + 1).to(tl.int64)
        bos = tl.minimum(tl.maximum(bos, 0), T)
        eos = tl.minimum(tl.maximum(eos, bos), T)
        return bos, (eos - bos).to(tl.int32)
    else:
        return sequence.to(tl.int64) * T, T


@triton.jit
def chunk_range(chunk, cu_seqlens_ptr, starts_ptr, owners_ptr, T, NT, PACKED: tl.constexpr):
    """Where a chunk lies: first row and length of its sequence, its first token in scan order.

    Chunks that no sequence uses get length 0.
    """
    if PACKED:
        owner = tl.load(owners_ptr + chunk)
        sequence = tl.maximum(owner, 0)
        bos, length = chunk_sequence(cu_seqlens_ptr, sequence, T, PACKED)
        length = tl.where(owner >= 0, length, 0)
        return bos, length, (chunk - tl.load(starts_ptr + sequence)) * 64
    else:
        bos, length = chunk_sequence(cu_seqlens_ptr, chunk // NT, T, PACKED)
        return bos, length, (chunk % NT) * 64


@triton.jit
def load_rows(
    pointer, rows, valid, columns, STRIDE: tl.constexpr, SIZE: tl.constexpr, EXACT: tl.constexpr
):
    """[rows, columns] of a matrix with row stride STRIDE; rows that are not valid become 0."""
    place = pointer + rows[:, None] * STRIDE + columns[None, :]
    if EXACT:
        return tl.load(place, mask=valid[:, None], other=0.0)
    else:
        return tl.load(place, mask=valid[:, None] & (columns < SIZE)[None, :], other=0.0)


@triton.jit
def store_rows(pointer, tile, rows, valid, columns, STRIDE: tl.constexpr, SIZE: tl.constexpr):
    """Stores a tile in the dtype of the memory."""
    place = pointer + rows[:, None] * STRIDE + columns[None, :]
    mask = valid[:, None] & (columns < SIZE)[None, :]
    tl.store(place, tile.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def load_state(pointer, r_k, r_v, K: tl.constexpr, V: tl.constexpr, EXACT: tl.constexpr):
    """[r_k, r_v] of a dense [K, V] state."""
    place = pointer + r_k[:, None] * V + r_v[None, :]
    if EXACT:
        return tl.load(place)
    else:
        return tl.load(place, mask=(r_k < K)[:, None] & (r_v < V)[None, :], other=0.0)


@triton.jit
def rows_tile(
    pointer, descriptor, rows, valid, columns, first_row, first_column,
    STRIDE: tl.constexpr, SIZE: tl.constexpr, EXACT: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """A tile of rows by pointer, or by descriptor at (first_row, first_column)."""
    if DESCRIPTORS:
        return descriptor.load([first_row, first_column])
    else:
        return load_rows(pointer, rows, valid, columns, STRIDE, SIZE, EXACT)


@triton.jit
def state_tile(
    pointer, descriptor, r_k, r_v, first_row, first_column,
    K: tl.constexpr, V: tl.constexpr, EXACT: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """A block of a chunk state by pointer, or by descriptor at (first_row, first_column)."""
    if DESCRIPTORS:
        return descriptor.load([first_row, first_column])
    else:
        return load_state(pointer, r_k, r_v, K, V, EXACT)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a b in fp32; fp32 operands in three tf32 products, half ones as they are or widened."""
    if PRECISION == "half":
        return tl.dot(a, b)
    elif PRECISION == "widened":
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def dot_add(a, b, c, PRECISION: tl.constexpr):
    """c + a b in fp32."""
    if PRECISION == "half":
        return tl.dot(a, b, c)
    elif PRECISION == "widened":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), c)
    else:
        return tl.dot(a, b, c, input_precision=PRECISION)
