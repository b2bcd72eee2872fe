"""The large kernels of the vector schedule: what their templates place."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.passes.ranges import bounds
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
        own: whether that is beside the read of the state, which is before the update.
        until: Triton text: how a gate's row compares to rows that read the state it decays.
        nearest: how far apart the nearest rows are between which something decays.
        signed: whether gates may be above 0: nothing proves that they are not.
        bonus: what weighs a token's own write, for a comment; "" if nothing does.
        bonus_heads: launcher text: how many heads the bonus has in memory.
    """

    base: LinearPlan
    gate: str
    strict: bool
    diagonal: bool
    own: bool
    until: str
    nearest: int
    signed: bool
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
        own=roles.strict and roles.diagonal,
        until="<" if roles.strict else "<=",
        nearest=2 if roles.strict else 1,
        signed=bounds(roles.tiles[3].tile, roles.recurrence)[1] > 0.0,
        bonus=f"{bonus.tensor.name} {shape_comment(bonus)}" if bonus else "",
        bonus_heads=lead_text(roles, bonus.lead) if bonus else "",
        bonus_argument=" bonus," if bonus else "",
        bonus_note=", and of the bonus [1, chunks, H, K]" if bonus else "",
        bonus_result=", d_bonus" if bonus else "",
    )
