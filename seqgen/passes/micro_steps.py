"""Repeat blocks: what a name means at one micro-step, where the repeat axis has one index."""

from __future__ import annotations

import ast

from seqgen.errors import Span, SpecError, did_you_mean
from seqgen.ir.expr import Expand, Expr, Index, Number, Ref, Rename
from seqgen.ir.recurrence import Assignment, Axis
from seqgen.spec.model import Expression, Repeat

MAX_MICRO_STEPS = 64


def count_steps(block: Repeat, axes: dict[str, Axis]) -> int:
    """How often ``block`` runs: the size of its axis."""
    if block.axis not in axes:
        hint = did_you_mean(block.axis, axes) or "Inputs with one value per step name the axis."
        raise SpecError(f"'{block.axis}' is not an axis.", block.span, hint=hint)
    size = axes[block.axis].size
    if size > MAX_MICRO_STEPS:
        raise SpecError(
            f"A token has at most {MAX_MICRO_STEPS} micro-steps; '{block.axis}' has size {size}.",
            block.span,
            hint=f"Declare a smaller default: 'axes: {{{block.axis}: 2}}'.",
        )
    return size


def check_outside(expression: Expression, values: dict[str, Expr], repeated: set[str]) -> None:
    """A value per micro-step has no meaning outside the block that counts them."""
    for node in ast.walk(expression.tree):
        value = values.get(node.id) if isinstance(node, ast.Name) else None
        axes = repeated.intersection(value.axes) if value is not None else ()
        if axes and isinstance(node, ast.Name):
            raise SpecError(
                f"'{node.id}' has one value per micro-step.",
                expression.node_span(node),
                label=f"has the repeat axis '{min(axes)}'",
                hint="Use it inside the repeat block, or reduce it in 'let'.",
            )


def at_micro_step(
    values: dict[str, Expr], let: list[Assignment], axis: str, index: int, span: Span
) -> dict[str, Expr]:
    """``values`` at one index of the repeat axis; copies of lets are appended to ``let``."""

    def at_index(value: Expr) -> Expr:
        if axis not in value.axes:
            return value
        if isinstance(value, Ref):
            axes = tuple(a for a in value.axes if a != axis)
            source = next((made for made in let if made.name == value.name), None)
            if source is None:
                return Ref(value.name, axes, (*value.at, (axis, index)))
            name = f"{value.name}_m{index}"
            if not any(made.name == name for made in let):
                let.append(Assignment(name, at_index(source.value), source.equation))
            return Ref(name, axes)
        if isinstance(value, Index):
            return Number(float(index))
        if isinstance(value, Rename | Expand) and axis not in value.children[0].axes:
            raise SpecError(f"The repeat axis '{axis}' cannot come from another axis.", span)
        return value.with_children(tuple(at_index(child) for child in value.children))

    return {name: at_index(value) for name, value in values.items()}
