"""The kernels that only the forward of the transposed schedule has: what their templates place."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.passes.ranges import bounds
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import LinearPlan, operand, plan_kernels
from seqgen.plan.linear_roles import Role, Roles
from seqgen.plan.linear_rows import Rows

Lines = tuple[str, ...]


@dataclass(frozen=True)
class TransposedPlan:
    """Everything that the templates kernels/transposed_*.py.jinja of kernels place.

    Attributes:
        base: what they share with the linear schedule.
        key: what queries are multiplied with, for comments; ``value`` what that weighs.
        gate: what the gates are, for comments.
        signed: whether gates may be above 0: nothing proves that they are not.
        weight: Triton text: what multiplies scores, the scale of the read, weights of the writes.
        write_parameters: of kernels, the weights; ``write_arguments`` and ``write_launch`` those of
            launchers and of kernels there.
        end: Triton lines that make the output of ``read`` and store it.
    """

    base: LinearPlan
    key: str
    value: str
    gate: str
    signed: bool
    weight: str
    write_parameters: Lines
    write_arguments: str
    write_launch: Lines
    end: Lines


def plan_transposed_kernels(
    roles: Roles, rows: Rows, epilogue: Epilogue, key: str, value: Role
) -> TransposedPlan:
    """The plan of these kernels; ``key`` as in it, and ``value``."""
    write = roles.write is not None
    gate = roles.tiles[3]
    store = "store_rows(output_ptr + (first * H + h) * V, {}, rows, valid, r_v, H * V, V)"
    end: Lines = (store.format("read"),)
    if epilogue.lines:
        lines = ("m_v = r_v < V", *epilogue.lines)
        indented = (f"    {line}" for line in lines)
        end = ("result = read", "if EPILOGUE:", *indented, store.format("result"))
    return TransposedPlan(
        base=plan_kernels(roles, rows, epilogue),
        key=key,
        value=operand(value),
        gate=f"{operand(gate)}, natural logarithms",
        signed=bounds(gate.tile, roles.recurrence)[1] > 0.0,
        weight="scale" + " * tl.load(write_ptr + in_rows * 64 + i)[None, :]" * write,
        write_parameters=("write_ptr,  # [chunks, H, 64], weight of each write",) * write,
        write_arguments=" write," * write,
        write_launch=("write,",) * write,
        end=end,
    )
