"""Segments of sequences that run in parallel, and how states pass from one to the next."""

import torch
import triton
import triton.language as tl

_BUSY = 2**21  # entries of states that keep a GPU busy
_SHORTEST = 64  # tokens of a segment


class _Segments(NamedTuple):  # noqa: F821
    """A call whose sequences are segments of those of another call.

    ``borders`` are its ``cu_seqlens``, or None, and ``sizes`` its sizes. Of the other call,
    sequence n has the segments from ``starts[n]`` to ``starts[n + 1]``.
    """

    borders: Optional[torch.Tensor]  # noqa: F821
    sizes: dict
    starts: torch.Tensor

    def rows(self, tensor):
        """[B, T, ...], or None, as the call has it."""
        if tensor is None:
            return None
        return tensor.reshape(self.sizes["B"], self.sizes["T"], *tensor.shape[2:])


def _segments(tensor, cu_seqlens, sizes, entries):
    """Segments enough to keep a GPU busy; None if the sequences are enough, or short.

    ``tensor`` says which device, ``entries`` is the size of the largest state. Nothing is read
    from the device, so packed sequences get as many segments as they can need, some empty.
    """
    B, T, n_sequences = sizes["B"], sizes["T"], sizes["sequences"]
    length = max(_SHORTEST, _power_of_2(_cdiv(B * T * entries, _BUSY)))  # noqa: F821
    if length >= T or not 0 < 2 * entries * n_sequences <= _BUSY:
        return None
    sequence = torch.arange(n_sequences + 1, device=tensor.device)
    if cu_seqlens is None:
        per_sequence = _cdiv(T, length)  # noqa: F821
        count = n_sequences * per_sequence
        starts = sequence * per_sequence
        if T % length == 0:
            return _Segments(None, {**sizes, "B": count, "T": length, "sequences": count}, starts)
        ends = sequence * T
    else:
        ends = cu_seqlens.long().clamp(0, T)
        count = T // length + n_sequences
        needed = (ends.diff() + length - 1).clamp(min=0) // length
        starts = torch.nn.functional.pad(needed.cumsum(0), (1, 0))
    place = torch.arange(count + 1, device=tensor.device)
    owner = torch.searchsorted(starts, place, right=True) - 1
    borders = torch.minimum(ends[owner] + (place - starts[owner]) * length, ends[-1])
    return _Segments(borders, {**sizes, "B": 1, "T": B * T, "sequences": count}, starts)


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
    before, entries = torch.empty_like(local), local[0].numel()
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
    d_after, entries = torch.empty_like(local), local[0].numel()
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
