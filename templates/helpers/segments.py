"""Segments of sequences, which run in parallel."""

import torch

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
