"""The large kernels of the vector schedule: what their templates place."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.passes.ranges import bounds
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import LinearPlan, operand, plan_kernels
from seqgen.plan.linear_roles import Leaf, Roles
from seqgen.plan.linear_rows import Rows
from seqgen.plan.linear_tiles import lead_text, shape_comment
from seqgen.plan.vector_operands import Lines, Operands, first_row, plan_operands, row_tile

BONUS = "bonus_ptr + h // (H // HU) * K"
"""Triton text: where the bonus of a head lies."""


@dataclass(frozen=True)
class VectorPlan:
    """Everything that the templates kernels/vector_*.py.jinja of large kernels place.

    Attributes:
        base: what they share with the linear schedule.
        operands: query, key, gate and, if there is one, the bonus.
        strict: whether the state is read before the token's update.
        both: whether values have a decay of their own, beside that of keys. Then the launchers of
            gradients take states that decay along their other axis as well, or ``swapped`` ones.
        own: whether a token reads its own write beside the read of the state, before the update.
        until: Triton text: how a gate's row compares to rows that read the state it decays.
        reads: Triton text: how a row compares to the rows whose writes it reads.
        nearest: how far apart the nearest rows are between which something decays.
        signed: whether gates may be above 0: nothing proves that they are not.
        bonus: whether something weighs a token's own write.
        own_score: Triton lines that add the scores of tokens' own writes over channels.
        own_parameters: of own_weight behind q and k; ``own_arguments`` behind them.
        moved: Triton text: pointers to the first rows of q and k, ``moved_loads`` their tiles,
            ``gate_offset`` where the gates have it.
        own_moved: as own_score, likewise; ``own_moved_arguments`` as own_arguments.
        value_total: Triton text: where the decays of chunks along values are; launchers take
            ``value_total_argument``, and ``swapped_argument``.
        state_parameters: of from_states; ``state_arguments`` behind them, ``state_note`` for its
            docstring.
        own_note: what own_weight does besides, for its docstring.
        bonus_heads: launcher text: how many heads the bonus has in memory.
        bonus_note: that its gradient is a result, for a docstring.
        bonus_result: launcher text: that result.
    """

    base: LinearPlan
    operands: Operands
    strict: bool
    both: bool
    own: bool
    until: str
    reads: str
    nearest: int
    signed: bool
    bonus: bool
    own_score: Lines
    own_parameters: str
    own_arguments: str
    moved: str
    moved_loads: Lines
    gate_offset: str
    own_moved: Lines
    own_moved_arguments: str
    value_total: str
    value_total_argument: str
    swapped_argument: str
    state_parameters: str
    state_arguments: str
    state_note: str
    own_note: str
    bonus_heads: str
    bonus_note: str
    bonus_result: str


def plan_vector_kernels(roles: Roles, rows: Rows, epilogue: Epilogue) -> VectorPlan:
    """The plan of all large kernels."""
    both = len(roles.tiles) > 4  # two gates
    bonus = roles.bonus
    notes = dict(zip("qkg", (operand(roles.tiles[n]) for n in (0, 1, 3)), strict=True))
    notes["g"] += ", natural logarithms"
    own = roles.strict and roles.diagonal
    return VectorPlan(
        base=plan_kernels(roles, rows, epilogue),
        operands=plan_operands(notes, [("bonus", _note(bonus))] if bonus else ()),
        strict=roles.strict,
        both=both,
        own=own,
        until="<" if roles.strict else "<=",
        reads=">=" if roles.diagonal else ">",
        nearest=2 if roles.strict else 1,
        signed=any(bounds(gate.tile, roles.recurrence)[1] > 0.0 for gate in roles.tiles[3:]),
        bonus=bonus is not None,
        own_score=_own_score(bonus, "bonus_ptr") if own else (),
        own_parameters=", bonus_ptr, d_bonus_ptr, r_k, K" if bonus else "",
        own_arguments=", bonus_ptr, d_bonus_ptr + in_rows * K, r_k, K" if bonus else "",
        moved=", ".join(f"{x}_ptr + {first_row(x)}" for x in "qk"),
        moved_loads=tuple(row_tile(x, f"H{x.upper()} * K", moved=True) for x in "qk"),
        gate_offset=first_row("g"),
        own_moved=_own_score(bonus, BONUS) if own else (),
        own_moved_arguments=f", {BONUS}, d_bonus_ptr + in_rows * K, r_k, K" if bonus else "",
        value_total="value_total_ptr" if both else "None",
        value_total_argument=" value_total," * both,
        swapped_argument=" swapped," * both,
        state_parameters=" value_total_ptr, SWAPPED: tl.constexpr," * both,
        state_arguments=" value_total_ptr + in_rows * V, SWAPPED," * both,
        state_note=" Where SWAPPED, states are [V, K]." * both,
        own_note="; stores that of the bonus" if bonus else "",
        bonus_heads=lead_text(roles, bonus.lead) if bonus else "",
        bonus_note=", and of the bonus [1, chunks, H, K]" if bonus else "",
        bonus_result=", d_bonus" if bonus else "",
    )


def _note(bonus: Leaf) -> str:
    return f"{bonus.tensor.name} {shape_comment(bonus)}"


def _own_score(bonus: Leaf | None, pointer: str) -> Lines:
    if bonus is None:
        return ("own += tl.sum(q.to(tl.float32) * k.to(tl.float32), 1)",)
    return (
        f"bonus = tl.load({pointer} + r_k, mask=r_k < K, other=0.0).to(tl.float32)",
        "own += tl.sum(q.to(tl.float32) * k.to(tl.float32) * bonus[None, :], 1)",
    )
