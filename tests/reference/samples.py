"""Random tensors for a recurrence, at small sizes."""

import torch

from seqgen.ir.recurrence import Recurrence

DECAYS = {"g", "gk", "gv", "lf", "adt", "w", "A", "g_atk"}
POSITIVE = {"beta_atk"}


def small_sizes(recurrence: Recurrence, size: int = 3) -> dict[str, int]:
    """Every axis a little different, relations kept; unrolled axes as they are."""
    sizes: dict[str, int] = {}
    for i, axis in enumerate(recurrence.axes):
        if axis.fixed:
            sizes[axis.name] = axis.size
        elif axis.parent is None and axis.twin is None and axis.derived is None:
            sizes[axis.name] = 2 + (i + size) % 2
    for axis in recurrence.axes:
        if axis.parent:
            sizes[axis.name] = 2 * sizes[axis.parent]
        if axis.twin:
            sizes[axis.name] = sizes[axis.twin]
        if axis.derived:
            sizes[axis.name] = eval(axis.derived, {}, sizes)
    return sizes


def draw(recurrence: Recurrence, batch=2, length=5, seed=0, absent=(), sizes=None, **options):
    """Inputs and parameters by name, float64; log-decays are at most 0, as far as names tell."""
    generator = torch.Generator().manual_seed(seed)
    sizes = sizes or small_sizes(recurrence)
    tensors = {}
    for tensor in recurrence.tensors:
        if tensor.name in absent:
            continue
        shape = [sizes[axis] for axis in tensor.axes]
        if tensor.kind == "input":
            shape = [batch, length, *shape]
        value = torch.randn(shape, generator=generator, dtype=torch.float64, **options) * 0.7
        if tensor.name in DECAYS or (tensor.range is not None and tensor.range[1] <= 0):
            value = -value.abs()
        if tensor.range == (0.0, 1.0):
            value = value.sigmoid()
        if tensor.name in POSITIVE:
            value = value.abs()
        tensors[tensor.name] = value
    return tensors


def draw_states(recurrence: Recurrence, batch=2, seed=1, sizes=None):
    """Initial states by name; the count of tokens stays zero."""
    generator = torch.Generator().manual_seed(seed)
    sizes = sizes or small_sizes(recurrence)
    states = {}
    for state in recurrence.states:
        if state.name != "position":
            shape = [batch, *(sizes[axis] for axis in state.axes)]
            states[state.name] = torch.rand(shape, generator=generator, dtype=torch.float64)
    return states
