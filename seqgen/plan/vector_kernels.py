"""The large kernels of the vector schedule: what their templates place."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import LinearPlan, operand, plan_kernels
from seqgen.plan.linear_roles import Roles
from seqgen.plan.linear_rows import Rows
from seqgen.plan.linear_tiles import lead_text, shape_comment


@dataclass(frozen=True)
class VectorPlan:
    """Everything that the templates kernels/vector_*.py.jinja of large kernels place.

    Attributes:
        base: what they share with the linear schedule.
        gate: what the gate is, for a comment.
        strict: whether the state is read before the token's update.
        diagonal: whether a token reads its own write.
        bonus: what weighs a token's own write, for a comment; "" if nothing does.
        bonus_heads: launcher text: how many heads the bonus has in memory.
    """

    base: LinearPlan
    gate: str
    strict: bool
    diagonal: bool
    bonus: str
    bonus_heads: str
    bonus_argument: str
    bonus_note: str
    bonus_result: str


def plan_vector_kernels(roles: Roles, rows: Rows, epilogue: Epilogue) -> VectorPlan:
    """The plan of all large kernels."""
    bonus = roles.bonus
    return VectorPlan(
        base=plan_kernels(roles, rows, epilogue),
        gate=f"{operand(roles.tiles[3])}, natural logarithms",
        strict=roles.strict,
        diagonal=roles.diagonal,
        bonus=f"{bonus.tensor.name} {shape_comment(bonus)}" if bonus else "",
        bonus_heads=lead_text(roles, bonus.lead) if bonus else "",
        bonus_argument=" bonus," if bonus else "",
        bonus_note=", and of the bonus [1, chunks, H, K]" if bonus else "",
        bonus_result=", d_bonus" if bonus else "",
    )
