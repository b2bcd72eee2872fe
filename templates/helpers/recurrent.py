"""Sequences, tiles in memory, and launch sizes of token-serial kernels."""

import torch
import triton
import triton.language as tl


@triton.jit
def sequence_range(cu_seqlens_ptr, sequence, T, CHUNK: tl.constexpr, PACKED: tl.constexpr):
    """Rows [bos, eos) of a sequence and the number of its first chunk, all int64.

    Borders are clamped to the tensor: wrong ones give wrong numbers, never a wrong access.
    """
    if PACKED:
        bos = tl.load(cu_seqlens_ptr + sequence).to(tl.int64)
        eos = tl.load(cu_seqlens_ptr + sequence + 1).to(tl.int64)
        bos = tl.minimum(tl.maximum(bos, 0), T)
        eos = tl.minimum(tl.maximum(eos, bos), T)
        chunk_base = bos // CHUNK + sequence
    else:
        bos = sequence * T
        eos = bos + T
        chunk_base = sequence * ((T + CHUNK - 1) // CHUNK)
    return bos, eos, chunk_base


@triton.jit
def load_tile(pointer, mask, EXACT: tl.constexpr):
    """Loads as fp32; lanes that do not exist become 0."""
    tile = tl.load(pointer) if EXACT else tl.load(pointer, mask=mask, other=0.0)
    return tile.to(tl.float32)


@triton.jit
def store_tile(pointer, tile, mask, EXACT: tl.constexpr):
    """Stores in the dtype of the memory; lanes that do not exist are left out."""
    if EXACT:
        tl.store(pointer, tile.to(pointer.dtype.element_ty))
    else:
        tl.store(pointer, tile.to(pointer.dtype.element_ty), mask=mask)


def _contiguous(tensor):
    """A tensor that may be absent, in dense memory order."""
    return None if tensor is None else tensor.contiguous()


def _parts(tensor, parts, zero):
    """Memory for ``parts`` parts of a gradient; a single part is the gradient itself."""
    if tensor is None:
        return None
    dtype = tensor.dtype if parts == 1 else torch.float32
    new = tensor.new_zeros if zero else tensor.new_empty
    return new((parts, *tensor.shape), dtype=dtype)


def _sum_over(tensor, axis, **options):
    """``tensor.sum(axis)``. Without memory any entry will do: PyTorch would import sympy, 0.4 s."""
    return tensor.select(axis, 0) if tensor.is_meta else tensor.sum(axis, **options)


def _total(parts):
    """The sum over parts, in their order."""
    if parts is None:
        return None
    return parts[0] if parts.shape[0] == 1 else _sum_over(parts, 0)


def _grid(programs):
    """A one-dimensional grid."""
    if programs >= 2**31:
        raise ValueError(f"{_NAME}: {programs} programs are needed, at most 2**31 - 1 can run.")  # noqa: F821
    return (programs,)
