"""What the launchers of chunkwise kernels share: chunks, blocks, options."""

import torch
import triton
import triton.language as tl


@triton.jit
def linear_slots_kernel(
    cu_seqlens_ptr,  # [sequences + 1]
    starts_ptr,  # [sequences]: first chunk of each
    owners_ptr,  # [chunks]: sequence of each, or -1
    T,
    N,
    CHUNKS,
    BLOCK: tl.constexpr,
):
    # One program: one sequence. It counts the chunks of those before it.
    n = tl.program_id(0)
    o = tl.arange(0, BLOCK)
    base = 0
    i = 0
    while i < n:
        before = i + o < n
        b = tl.load(cu_seqlens_ptr + i + o, mask=before, other=0).to(tl.int64)
        e = tl.load(cu_seqlens_ptr + i + o + 1, mask=before, other=0).to(tl.int64)
        b = tl.minimum(tl.maximum(b, 0), T)
        e = tl.minimum(tl.maximum(e, b), T)
        base += tl.sum((e - b + 63) // 64).to(tl.int32)
        i += BLOCK
    _, length = chunk_sequence(cu_seqlens_ptr, n, T, True)  # noqa: F821
    base = tl.minimum(base, CHUNKS)
    end = tl.minimum(base + (length + 63) // 64, CHUNKS)
    tl.store(starts_ptr + n, base)
    i = base
    while i < end:
        tl.store(owners_ptr + i + o, tl.zeros([BLOCK], tl.int32) + n, mask=i + o < end)
        i += BLOCK
    if n == N - 1:
        i = end
        while i < CHUNKS:
            tl.store(owners_ptr + i + o, tl.zeros([BLOCK], tl.int32) - 1, mask=i + o < CHUNKS)
            i += BLOCK


class _Chunks(NamedTuple):  # noqa: F821
    """The chunks of one call: ``count`` in all, their number never read from the device."""

    count: int
    per_sequence: int
    starts: Optional[torch.Tensor]  # noqa: F821
    owners: Optional[torch.Tensor]  # noqa: F821


def launch_linear_slots(cu_seqlens, sizes):
    """Which chunk belongs to which sequence; packed sequences have at most T // 64 + N chunks."""
    n_tokens, n_sequences = sizes["T"], sizes["sequences"]
    if cu_seqlens is None:
        per_sequence = _cdiv(n_tokens, 64)  # noqa: F821
        return _Chunks(n_sequences * per_sequence, per_sequence, None, None)
    count = n_tokens // 64 + n_sequences if n_sequences else 0
    starts = cu_seqlens.new_empty(max(n_sequences, 1), dtype=torch.int32)
    owners = cu_seqlens.new_empty(max(count, 1), dtype=torch.int32)
    if n_sequences:
        linear_slots_kernel[_grid(n_sequences)](  # noqa: F821
            cu_seqlens,
            starts,
            owners,
            n_tokens,
            n_sequences,
            count,
            BLOCK=256,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return _Chunks(count, 0, starts, owners)


def _precision(dtype):
    """How ``dot`` multiplies; Triton's interpreter has no bf16 products."""
    if dtype == torch.float32:
        return "tf32x3"
    return "widened" if _INTERPRET else "half"  # noqa: F821


_NARROWEST = 64  # channels of a tile: on Hopper some products of narrower ones were wrong


def _padded(size):
    """Channels of a tile that holds all of an axis."""
    return max(_NARROWEST, _power_of_2(size))  # noqa: F821


def _block(wanted, size, dtype, limit):
    """A block extent within the padded size; fp32 tiles of at most ``limit`` fit."""
    extent = min(wanted, _padded(size))
    return min(extent, limit) if dtype == torch.float32 else extent


def _launch_options(config):
    """Launch options of a configuration; a register limit of 0 is none."""
    options = {"num_warps": config["num_warps"], "enable_fp_fusion": True}
    if config.get("maxnreg"):
        options["maxnreg"] = config["maxnreg"]
    return options


def _fold_heads(gradient, tensor, lead):
    """[..., H, tail] -> the shape of ``tensor``: the sum over heads that share an entry."""
    before = gradient.shape[:2]
    tail = gradient.shape[3:]
    heads = gradient.shape[2]
    if heads == lead:
        return gradient.view(tensor.shape)
    grouped = gradient.view(*before, lead, heads // max(lead, 1), *tail)
    return _sum_over(grouped, 3, dtype=torch.float32).reshape(tensor.shape)  # noqa: F821
