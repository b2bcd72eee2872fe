"""What an operator costs per token, and how fast a GPU could do it at best.

The counts are those of the family's chunk form (or of the equations themselves, token by token):
a floor to compare measured times with, not a model of one schedule. Bytes are compulsory traffic:
every tensor with a time axis once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from seqgen.gpu.table import Gpu
from seqgen.ir.expr import Apply, Expr, Number, Pair, Reduce, Ref, mul, walk
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.axes import live_assignments
from seqgen.passes.components import Program
from seqgen.passes.structure import Component, Structure

DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
DEFAULT_CHUNK = 64
SPECIAL = frozenset(
    "exp log log1p expm1 sqrt rsqrt sigmoid logsigmoid softplus silu tanh sin cos div pow "
    "logaddexp".split()
)
"""Operations that the special-function units compute, one result each."""

ADJOINT = 2.5
"""Pointwise work of a backward relative to its forward: the values again, and their gradients."""


@dataclass(frozen=True)
class Work:
    """Work of one token of one sequence, all heads.

    ``dots`` are floating-point operations of matrix products, ``pointwise`` all others,
    ``special`` results of special functions (also counted once in ``pointwise``).
    """

    bytes: float
    dots: float
    pointwise: float
    special: float

    def limits(self, gpu: Gpu, dtype: str) -> dict[str, float]:
        """Seconds per token on all of ``gpu`` for each of its resources."""
        rate = gpu.fp32_rate if dtype == "fp32" else gpu.bf16_rate
        return {
            "memory": self.bytes / gpu.dram_rate,
            "matrix products": self.dots / rate,
            "arithmetic": self.pointwise / gpu.fp32_rate,
            "special functions": self.special / gpu.mufu_rate,
        }


@dataclass(frozen=True)
class Cost:
    """Work per token forward and backward, for the given sizes of the axes."""

    sizes: Mapping[str, int]
    dtype: str
    chunk: int | None
    """Chunk length of the chunk form; None if the operator has none."""
    forward: Work
    backward: Work
    state_bytes: int
    """One sequence's states, fp32."""

    def floor(self, gpu: Gpu) -> tuple[float, float]:
        """Seconds per token, forward and backward, that no schedule can beat."""
        forward, backward = (
            max(work.limits(gpu, self.dtype).values()) for work in (self.forward, self.backward)
        )
        return forward, backward


def default_sizes(recurrence: Recurrence) -> dict[str, int]:
    """The declared default size of every axis."""
    return {axis.name: axis.size for axis in recurrence.axes}


def token_cost(
    structure: Structure, dtype: str = "bf16", sizes: Mapping[str, int] | None = None
) -> Cost:
    """The cost of one token, for the declared default sizes unless ``sizes`` are given."""
    recurrence = structure.recurrence
    sizes = default_sizes(recurrence) | dict(sizes or {})

    def count(axes: tuple[str, ...]) -> int:
        return math.prod(sizes[axis] for axis in axes)

    io = DTYPE_BYTES[dtype]
    taken = sum(count(t.axes) * (4 if t.dtype else io) for t in recurrence.inputs)
    given = sum(count(o.axes) * (4 if o.dtype else io) for o in recurrence.outputs)
    fast = [c for c in structure.components if c.family in ("linear", "delta", "dplr")]
    chunk = (recurrence.chunk or DEFAULT_CHUNK) if fast else None
    dots, dots_back, special = 0.0, 0.0, 0.0
    for component in fast:
        assert chunk is not None
        forward, backward, exponentials = _chunk_form(component, sizes, chunk)
        dots, dots_back, special = dots + forward, dots_back + backward, special + exponentials
    pointwise = 0.0
    for expr in _pointwise_values(structure, fast):
        plain, transcendental = _operations(expr, sizes)
        pointwise, special = pointwise + plain, special + transcendental
    return Cost(
        sizes,
        dtype,
        chunk,
        Work(taken + given, dots, pointwise, special),
        Work(2 * taken + given, dots_back, ADJOINT * pointwise, ADJOINT * special),
        sum(4 * count(state.axes) for state in recurrence.states),
    )


def _chunk_form(
    component: Component, sizes: Mapping[str, int], chunk: int
) -> tuple[float, float, float]:
    """FLOPs forward and backward, and exponentials, of a matrix component per token."""
    form = component.form
    assert form is not None
    heads, k, v = (
        float(math.prod(sizes[axis] for axis in axes))
        for axes in (form.head_axes, form.key_axes, form.value_axes)
    )
    c = float(chunk)
    steps = len(form.steps)
    if component.family == "linear":
        forward, backward = 2 * c * (k + v) + 4 * k * v, 6 * c * k + 4 * c * v + 10 * k * v
    elif component.family == "delta":
        forward = 4 * c * (k + v) + 6 * k * v + 2 * c * c / 3
        backward = 10 * c * (k + v) + 18 * k * v + 4 * c * c
    else:
        forward = 10 * c * k + 8 * c * v + 8 * k * v + 2 * c * c / 3
        backward = 26 * c * k + 20 * c * v + 24 * k * v + 4 * c * c
    kind = component.decay
    exponentials = 3 * (k if "key" in kind else 0.0) + 3 * (v if "value" in kind else 0.0)
    return heads * steps * forward, heads * steps * backward, heads * exponentials


def _pointwise_values(structure: Structure, fast: list[Component]) -> list[Expr]:
    """What is computed per token besides the chunk forms."""
    recurrence = structure.recurrence
    states = {state for component in fast for state in component.states}
    versions = Program(recurrence).versions
    inside = {name for state in states for name in versions[state]}
    values = [a.value for a in live_assignments(recurrence) if a.name not in inside]
    for component in fast:
        assert component.form is not None
        for step in component.form.steps:
            if step.delta is not None:
                values += [step.delta.x, step.delta.r, step.delta.y]
                continue
            values += [e for erase in step.erases for e in (erase.put, erase.row)]
            values += [e for write in step.writes for e in (write.key, write.value)]
    values += [output.value for output in structure.outputs]
    for read in structure.reads:
        values.append(read.weight)
        if read.bound and read.state not in states:  # contracted token by token
            state = recurrence.state(read.state)
            product = mul(read.weight, Ref(state.incoming, state.axes))
            values.append(Reduce("sum", product, read.bound[0]))
    return values


def _operations(expr: Expr, sizes: Mapping[str, int]) -> tuple[float, float]:
    """Floating-point operations and special functions of one expression."""
    plain = special = 0.0
    for node in walk(expr):
        axes = node.arg.axes if isinstance(node, Reduce) else node.axes
        elements = math.prod(sizes[axis] for axis in axes)
        if isinstance(node, Apply):
            plain += elements
            by_number = node.op in ("div", "pow") and isinstance(node.args[1], Number)
            special += elements if node.op in SPECIAL and not by_number else 0
        elif isinstance(node, Reduce | Pair):
            plain += elements
    return plain, special
