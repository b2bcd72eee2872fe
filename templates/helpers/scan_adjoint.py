"""Cotangents of states from segment to segment."""

import triton
import triton.language as tl


@triton.jit
def passed_gradient(d_after, state, decay, local, JOIN: tl.constexpr):
    """The gradient of ``state`` through ``passed``."""
    if JOIN == "last":
        return tl.zeros_like(d_after)
    if JOIN == "add":
        return tl.where(d_after == 0.0, 0.0, decay * d_after)
    left = decay + state
    if JOIN == "max":
        return d_after * tl.where(left > local, 1.0, tl.where(left == local, 0.5, 0.0))
    share = tl.exp(left - logaddexp(left, local))  # noqa: F821
    return d_after * tl.where(left == float("-inf"), 0.0, share)


@triton.jit
def scan_cotangents_kernel(
    d_local_ptr,  # [segments, ENTRIES]: before each segment, if that after it is zero
    before_ptr,  # [segments, ENTRIES]: states
    local_ptr,  # [segments, ENTRIES]
    decay_ptr,  # [segments, ENTRIES], or None
    d_final_ptr,  # [sequences, ENTRIES], or None: zero
    d_after_ptr,  # [segments, ENTRIES]
    d_state_0_ptr,  # [sequences, ENTRIES]
    starts_ptr,  # [sequences + 1]
    ENTRIES: tl.constexpr,
    JOIN: tl.constexpr,
    HAS_DECAY: tl.constexpr,
    HAS_d_final: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One program: one sequence, a block of a state's entries.
    sequence = tl.program_id(0).to(tl.int64)
    entry = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = entry < ENTRIES
    first, end = tl.load(starts_ptr + sequence), tl.load(starts_ptr + sequence + 1)
    d_state = tl.zeros([BLOCK], tl.float32)
    if HAS_d_final:
        d_state = tl.load(d_final_ptr + sequence * ENTRIES + entry, mask=exists, other=0.0)
        d_state = d_state.to(tl.float32)
    decay = tl.full([BLOCK], (JOIN == "add") * 1.0, tl.float32)  # all is left
    for i in tl.range(0, (end - first).to(tl.int32), num_stages=4):
        place = (first + i if REVERSE else end - 1 - i) * ENTRIES + entry
        d_local = tl.load(d_local_ptr + place, mask=exists, other=0.0)
        before = tl.load(before_ptr + place, mask=exists, other=0.0)
        local = tl.load(local_ptr + place, mask=exists, other=0.0)
        if HAS_DECAY:
            decay = tl.load(decay_ptr + place, mask=exists, other=0.0)
        tl.store(d_after_ptr + place, d_state, mask=exists)
        d_state = d_local + passed_gradient(d_state, before, decay, local, JOIN)
    tl.store(d_state_0_ptr + sequence * ENTRIES + entry, d_state, mask=exists)


def launch_scan_cotangents(d_local, before, local, decay, d_final, segments, reverse, join):
    """Cotangents of the states after each segment and of the initial states, fp32.

    Args: the cotangents before each segment for zero after it; the states there; what segments
    make of zero, and their decays or None; the cotangents of the final states or None; as above.
    """
    n_sequences = segments.starts.shape[0] - 1
    d_after, entries = local.new_empty(local.shape), local[0].numel()
    d_state_0 = local.new_empty((n_sequences, *local.shape[1:]))
    scan_cotangents_kernel[(n_sequences, _cdiv(entries, 128))](  # noqa: F821
        d_local,
        before,
        local,
        decay,
        _contiguous(d_final),  # noqa: F821
        d_after,
        d_state_0,
        segments.starts,
        ENTRIES=entries,
        JOIN=join,
        HAS_DECAY=decay is not None,
        HAS_d_final=d_final is not None,
        REVERSE=reverse,
        BLOCK=128,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return d_after, d_state_0
