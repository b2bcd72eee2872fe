"""How operands meet: axes nest, and a parent axis gives way to its child (``groups_of``)."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field

from seqgen.errors import Span, SpecError
from seqgen.ir.expr import Expand, Expr, union
from seqgen.ir.recurrence import Axis
from seqgen.spec.model import Expression


@dataclass
class Names:
    """What a name means at one point of the spec. ``lower`` keeps it up to date."""

    axes: dict[str, Axis]
    values: dict[str, Expr] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    present: set[str] = field(default_factory=set)
    unknown: Callable[[str, Span], SpecError] | None = None
    """Explains a name that is not in ``values``, where the reason is special."""
    prev: Callable[[str, Span], Expr] | None = None
    position: Callable[[], Expr] | None = None
    hoist: Callable[[Expr], Expr] | None = None
    """Gives a compound expression a name, so that it is not computed twice."""


def show_axes(axes: tuple[str, ...]) -> str:
    """``[H, K]`` as messages print it."""
    return "[" + ", ".join(axes) + "]"


class Aligner:
    """The axis rules, for one expression of the spec."""

    def __init__(self, expression: Expression, names: Names) -> None:
        self.expression = expression
        self.names = names

    def error(self, node: ast.expr, message: str, label: str = "", hint: str = "") -> SpecError:
        return SpecError(message, self.expression.node_span(node), label=label, hint=hint)

    def text(self, node: ast.expr) -> str:
        return ast.unparse(node)

    def align(
        self, node: ast.expr, *operands: tuple[ast.expr, Expr], nested: bool
    ) -> tuple[Expr, ...]:
        """Operands with parents expanded to children; checks that they may meet."""
        everything = union(*(value.axes for _, value in operands))
        values = []
        for source, value in operands:
            self.check_one_child(source, value, everything)
            for child in everything:
                parent = self.names.axes[child].parent
                if parent in value.axes and child not in value.axes:
                    assert parent is not None
                    value = Expand(value, parent, child)
            for axis in value.axes:
                parent = self.names.axes[axis].parent
                if parent is not None and parent in value.axes:
                    raise self.error(
                        source, f"This value would have axis '{axis}' and its parent '{parent}'."
                    )
            values.append(value)
        if nested:
            widest = max(range(len(values)), key=lambda i: len(values[i].axes))
            for i, value in enumerate(values):
                extra = [axis for axis in value.axes if axis not in values[widest].axes]
                if extra:
                    raise self.mismatch(node, operands[i], operands[widest], extra[0])
        return tuple(values)

    def check_one_child(self, source: ast.expr, value: Expr, axes: tuple[str, ...]) -> None:
        """An axis of ``value`` that the others replace by children has only one of them there."""
        for axis in value.axes:
            children = [name for name in axes if self.names.axes[name].parent == axis]
            if len(children) > 1:
                raise self.error(
                    source,
                    f"This value has '{axis}', and the other side has two children of it: "
                    f"'{children[0]}' and '{children[1]}'.",
                    "which of them is meant?",
                )

    def reduced_over(self, source: ast.expr, axis: str, other: str) -> str:
        """The text of a reduction over ``axis``, over ``other`` instead; "" if it is none."""
        if not isinstance(source, ast.Call) or not isinstance(source.func, ast.Name):
            return ""
        if source.func.id not in ("sum", "amax"):
            return ""
        first, *axes = source.args
        named = [a.id for a in axes if isinstance(a, ast.Name)]
        if axis not in named:
            return ""
        axes_text = ", ".join(other if name == axis else name for name in named)
        return f"{source.func.id}({self.text(first)}, {axes_text})"

    def mismatch(
        self,
        node: ast.expr,
        narrow: tuple[ast.expr, Expr],
        wide: tuple[ast.expr, Expr],
        extra: str,
    ) -> SpecError:
        lacking = [axis for axis in wide[1].axes if axis not in narrow[1].axes]
        hint = "Reduce or rename an axis, so that one side's axes contain the other's."
        if lacking:
            renamed = f"rename({self.text(narrow[0])}, {extra}={lacking[0]})"
            hint = (
                f"If they are the same numbers, {renamed} makes [{extra}] into [{lacking[0]}]; "
                "for an outer product use '*'."
            )
            for source, gone, left in (
                (narrow[0], lacking[0], extra),
                (wide[0], extra, lacking[0]),
            ):
                if other := self.reduced_over(source, gone, left):
                    hint = f"Is '{left}' the axis to reduce over? {other} has '{gone}'."
        first, second = (
            (narrow, wide) if narrow[0].col_offset < wide[0].col_offset else (wide, narrow)
        )
        return SpecError(
            f"Axes do not nest: '{self.text(first[0])}' has {show_axes(first[1].axes)}, "
            f"'{self.text(second[0])}' has {show_axes(second[1].axes)}.",
            self.expression.node_span(node),
            label="one side's axes must contain the other's",
            hint=hint,
        )
