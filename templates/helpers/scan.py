"""States from segment to segment."""

import triton
import triton.language as tl


@triton.jit
def passed(state, decay, local, JOIN: tl.constexpr):
    """The state after a segment, from that before it."""
    if JOIN == "last":
        return local
    if JOIN == "add":
        return tl.where(state == 0.0, 0.0, decay * state) + local  # a decay may be inf
    if JOIN == "max":
        return tl.maximum(decay + state, local)
    return logaddexp(decay + state, local)  # noqa: F821


@triton.jit
def scan_states_kernel(
    local_ptr,  # [segments, ENTRIES]: what each segment makes of zero
    decay_ptr,  # [segments, ENTRIES], or None: nothing decays
    state_0_ptr,  # [sequences, ENTRIES], or None: INIT
    before_ptr,  # [segments, ENTRIES]
    final_ptr,  # [sequences, ENTRIES]
    starts_ptr,  # [sequences + 1]
    ENTRIES: tl.constexpr,
    JOIN: tl.constexpr,
    INIT: tl.constexpr,
    HAS_DECAY: tl.constexpr,
    HAS_STATE_0: tl.constexpr,
    REVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # One program: one sequence, a block of a state's entries.
    sequence = tl.program_id(0).to(tl.int64)
    entry = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    exists = entry < ENTRIES
    first, end = tl.load(starts_ptr + sequence), tl.load(starts_ptr + sequence + 1)
    state = tl.full([BLOCK], INIT, tl.float32)
    if HAS_STATE_0:
        state = tl.load(state_0_ptr + sequence * ENTRIES + entry, mask=exists, other=0.0)
        state = state.to(tl.float32)
    decay = tl.full([BLOCK], (JOIN == "add") * 1.0, tl.float32)  # all is left
    for i in tl.range(0, (end - first).to(tl.int32), num_stages=4):
        place = (end - 1 - i if REVERSE else first + i) * ENTRIES + entry
        local = tl.load(local_ptr + place, mask=exists, other=0.0)
        if HAS_DECAY:
            decay = tl.load(decay_ptr + place, mask=exists, other=0.0)
        tl.store(before_ptr + place, state, mask=exists)
        state = passed(state, decay, local, JOIN)
    tl.store(final_ptr + sequence * ENTRIES + entry, state, mask=exists)


def launch_scan_states(local, decay, state_0, segments, reverse, join, init):
    """States before each segment and after each sequence, fp32.

    Args: what each segment makes of zero, and its decays or None; initial states or None; the
    segments; whether the last of a sequence comes first; how a state and what is made of zero
    meet; the state of a sequence without an initial one.
    """
    n_sequences = segments.starts.shape[0] - 1
    before, entries = local.new_empty(local.shape), local[0].numel()
    final = local.new_empty((n_sequences, *local.shape[1:]))
    scan_states_kernel[(n_sequences, _cdiv(entries, 128))](  # noqa: F821
        local,
        decay,
        _contiguous(state_0),  # noqa: F821
        before,
        final,
        segments.starts,
        ENTRIES=entries,
        JOIN=join,
        INIT=init,
        HAS_DECAY=decay is not None,
        HAS_STATE_0=state_0 is not None,
        REVERSE=reverse,
        BLOCK=128,
        num_warps=4,
        enable_fp_fusion=True,
    )
    return before, final
