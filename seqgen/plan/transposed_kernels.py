"""The kernels that only the forward of the transposed schedule has: what their templates place."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.passes.ranges import bounds
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import LinearPlan, operand, plan_kernels
from seqgen.plan.linear_roles import Roles
from seqgen.plan.linear_rows import Rows

Lines = tuple[str, ...]


@dataclass(frozen=True)
class TransposedPlan:
    """Everything that the templates kernels/transposed_*.py.jinja of kernels place.

    Attributes:
        base: what they share with the linear schedule.
        gate: what the gates are, for comments.
        signed: whether gates may be above 0: nothing proves that they are not.
        end: Triton lines that make the output of ``read`` and store it.
    """

    base: LinearPlan
    gate: str
    signed: bool
    end: Lines


def plan_transposed_kernels(roles: Roles, rows: Rows, epilogue: Epilogue) -> TransposedPlan:
    """The plan of these kernels."""
    gate = roles.tiles[3]
    store = "store_rows(output_ptr + (first * H + h) * V, {}, rows, valid, r_v, H * V, V)"
    end: Lines = (store.format("read"),)
    if epilogue.lines:
        lines = ("m_v = r_v < V", *epilogue.lines)
        indented = (f"    {line}" for line in lines)
        end = ("result = read", "if EPILOGUE:", *indented, store.format("result"))
    return TransposedPlan(
        base=plan_kernels(roles, rows, epilogue),
        gate=f"{operand(gate)}, natural logarithms",
        signed=bounds(gate.tile, roles.recurrence)[1] > 0.0,
        end=end,
    )
