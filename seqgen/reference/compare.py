"""How far a result is from the truth, and how far it may be.

The error is ``RMS(x - ref) / RMS(ref)`` against the float64 token-by-token reference. Where the
true value vanishes (all gates closed, beta 0) a relative error has no meaning: there the error
is taken relative to ``floor``, which callers derive from the same result at harmless inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from seqgen.ir.expr import Apply, Expr, Ref, references, walk
from seqgen.ir.recurrence import Recurrence

FLOOR = 2.0**-20
"""A result below this fraction of its harmless size counts as zero."""

# io dtype -> kind of result -> largest error
LIMITS: dict[str, dict[str, float]] = {
    "fp32": {"output": 1e-4, "state": 1e-4, "gradient": 1e-4, "gate": 1e-4},
    "fp16": {"output": 5e-3, "state": 5e-3, "gradient": 8e-3, "gate": 2e-2},
    "bf16": {"output": 5e-3, "state": 5e-3, "gradient": 8e-3, "gate": 2e-2},
}

_BENT = frozenset(
    ("exp", "expm1", "log", "log1p", "sigmoid", "logsigmoid", "softplus", "tanh", "logaddexp")
)


@dataclass(frozen=True)
class Comparison:
    """One result against the truth."""

    name: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the error is within its limit (NaN is not)."""
        return self.error <= self.limit

    def __str__(self) -> str:
        relation = "<=" if self.ok else ">"
        return f"{self.name}: error {self.error:.2e} {relation} {self.limit:g}"


def rms(value: Tensor) -> float:
    """Root mean square, in float64; 0 for an empty tensor."""
    return float(value.detach().double().square().mean().sqrt()) if value.numel() else 0.0


def relative_error(value: Tensor, reference: Tensor, floor: float = 0.0) -> float:
    """``RMS(value - reference) / max(RMS(reference), floor)``.

    Infinities must be equal; a NaN on either side, or unequal shapes, is an infinite error. Two
    equal tensors have error 0 even where the reference is 0.
    """
    if value.shape != reference.shape:
        return math.inf
    value, reference = value.detach().double().cpu(), reference.detach().double().cpu()
    same = value == reference
    difference = torch.where(same, 0.0, value - reference)
    scale = max(rms(torch.where(torch.isinf(reference), 0.0, reference)), floor)
    error = rms(difference)
    if error == 0.0:
        return 0.0
    return error / scale if scale > 0.0 and math.isfinite(error) else math.inf


def compare(
    name: str, value: Tensor, reference: Tensor, kind: str, dtype: str, floor: float = 0.0
) -> Comparison:
    """``value`` against ``reference``.

    Args:
        name: what it is called in reports.
        value: the computed result.
        reference: the truth, float64.
        kind: "output", "state", "gradient" or "gate" (gradient of a gate), see ``LIMITS``.
        dtype: the io dtype, "fp32", "fp16" or "bf16".
        floor: smallest RMS that counts as not zero.
    """
    return Comparison(name, relative_error(value, reference, floor), LIMITS[dtype][kind])


def gradient_kind(recurrence: Recurrence, name: str) -> str:
    """Which limit the gradient of a tensor has: "gate" or "gradient".

    A tensor is a gate if it goes into an exponential or the like, or if it has fewer axes than
    some input that it multiplies (a beta per head).
    """
    if any(state.name == name for state in recurrence.states):
        return "gradient"
    tensor = recurrence.tensor(name)
    others = [t for t in recurrence.inputs if set(tensor.axes) < set(t.axes)]
    if others or tensor.kind == "parameter":
        return "gate"
    inside: set[str] = set()
    values = {a.name: a.value for a in recurrence.assignments}
    states = {s.incoming for s in recurrence.states}
    exprs: list[Expr] = [*values.values(), *(o.value for o in recurrence.outputs)]
    for node in (n for e in exprs for n in walk(e)):
        if isinstance(node, Apply) and node.op in _BENT:
            inside.update(_sources(node, values, states))
    return "gate" if tensor.value in inside else "gradient"


def _sources(expr: Expr, values: dict[str, Expr], states: set[str]) -> set[str]:
    """Leaves that ``expr`` depends on, through ``let`` but not through a state."""
    found: set[str] = set()
    todo = list(references(expr))
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        if name in values and not _reads(values[name], states):
            todo += references(values[name])
    return found


def _reads(expr: Expr, names: set[str]) -> bool:
    return any(isinstance(node, Ref) and node.name in names for node in walk(expr))
