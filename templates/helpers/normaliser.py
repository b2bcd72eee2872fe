"""Beside a normaliser, which runs the kernels again with ones for values."""

import torch


def _widened(*tensors):
    """Each in float32, as half-precision tiles miss the error limit; what is absent stays so."""
    return tuple(None if tensor is None else tensor.float() for tensor in tensors)


def _add_row_sums(sums, more, kept, groups):
    """Row sums [planes, ...] of two launches: ``kept`` planes, then ``groups`` of them.

    A group has a part per block, of which values and ones may have different numbers.
    """

    def whole(x):
        return torch.cat((x[:kept], x[kept:].unflatten(0, (groups, -1)).sum(1)))

    return sums + more if sums.shape == more.shape else whole(sums) + whole(more)
