"""One expression of a spec -> one expression of the IR: names resolved, axes checked.

The rules are those of the language: ``*`` and ``/`` may form outer products; ``+ - max min where``
and comparisons need one operand's axes to contain the other's; a child axis (``groups_of``)
replaces its parent; reductions name their axes. Built-ins that are no primitive of the IR
(``softmax``, ``l2norm``, ``rotary``, ...) are spelled out here.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from seqgen.errors import Span, SpecError, did_you_mean
from seqgen.ir.expr import (
    Apply,
    Detach,
    Expand,
    Expr,
    IfPresent,
    Index,
    Number,
    Pair,
    Pick,
    Reduce,
    Ref,
    Rename,
    Size,
    add,
    call,
    div,
    mul,
    sub,
    union,
)
from seqgen.ir.recurrence import Axis
from seqgen.spec.model import Expression

BINARY = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
    ast.Mod: "mod",
}
COMPARE = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne"}
CONSTANTS = {"inf": math.inf, "pi": math.pi}
UNARY_CALLS = frozenset(
    [
        "exp",
        "log",
        "log1p",
        "expm1",
        "sqrt",
        "rsqrt",
        "sigmoid",
        "logsigmoid",
        "softplus",
        "silu",
        "tanh",
        "sin",
        "cos",
        "abs",
        "sign",
    ]
)
BINARY_CALLS = frozenset({"max", "min", "logaddexp"})
OUTER = frozenset({"mul", "div", "pow"})  # the operations that may form outer products

# name -> (least, most) number of positional arguments
ARITY: dict[str, tuple[int, int]] = {
    **dict.fromkeys(UNARY_CALLS | {"relu", "detach", "prev", "index"}, (1, 1)),
    **dict.fromkeys(BINARY_CALLS | {"softmax"}, (2, 2)),
    **dict.fromkeys(("sum", "mean", "amax"), (2, 8)),
    "l2norm": (2, 3),
    "clamp": (3, 3),
    "where": (3, 3),
    "rename": (1, 1),
    "position": (0, 0),
    "rotary": (4, 5),
}


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


def type_expression(expression: Expression, names: Names) -> Expr:
    """The IR of ``expression``.

    Raises:
        SpecError: at the smallest wrong piece of the expression.
    """
    return _Typer(expression, names).visit(expression.tree)


class _Typer:
    def __init__(self, expression: Expression, names: Names) -> None:
        self.expression = expression
        self.names = names

    def error(self, node: ast.expr, message: str, label: str = "", hint: str = "") -> SpecError:
        return SpecError(message, self.expression.node_span(node), label=label, hint=hint)

    def text(self, node: ast.expr) -> str:
        return ast.unparse(node)

    def visit(self, node: ast.expr) -> Expr:
        if isinstance(node, ast.Constant):
            return Number(float(node.value))  # type: ignore[arg-type]
        if isinstance(node, ast.Name):
            return self.name(node)
        if isinstance(node, ast.UnaryOp):
            return self.unary(node)
        if isinstance(node, ast.BinOp):
            op = BINARY[type(node.op)]
            left, right = self.visit(node.left), self.visit(node.right)
            if op == "mod" and not self.is_count(node.left):
                raise self.error(node, "'%' is only for position() and index(...).")
            return self.pointwise(node, op, (node.left, left), (node.right, right))
        if isinstance(node, ast.Compare):
            op = COMPARE[type(node.ops[0])]
            left, right = self.visit(node.left), self.visit(node.comparators[0])
            return self.pointwise(node, op, (node.left, left), (node.comparators[0], right))
        if isinstance(node, ast.BoolOp):
            op = "and" if isinstance(node.op, ast.And) else "or"
            result, source = self.visit(node.values[0]), node.values[0]
            for other in node.values[1:]:
                result = self.pointwise(node, op, (source, result), (other, self.visit(other)))
            return result
        if isinstance(node, ast.IfExp):
            return self.conditional(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        raise self.error(node, "This is not part of the language.")

    def is_count(self, node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("position", "index")
        )

    def name(self, node: ast.Name) -> Expr:
        names = self.names
        if node.id in names.values:
            if node.id in names.optional and node.id not in names.present:
                raise self.error(
                    node,
                    f"'{node.id}' is optional and has no value when it is absent.",
                    "used without a choice for the absent case",
                    f"Write '... if {node.id} else ...', or give it a 'default'.",
                )
            return names.values[node.id]
        if node.id in names.axes:
            return Size(node.id)
        if node.id in CONSTANTS:
            return Number(CONSTANTS[node.id])
        if names.unknown is not None:
            raise names.unknown(node.id, self.expression.node_span(node))
        raise self.error(node, f"'{node.id}' is not defined.")

    def unary(self, node: ast.UnaryOp) -> Expr:
        value = self.visit(node.operand)
        if isinstance(node.op, ast.UAdd):
            return value
        if isinstance(node.op, ast.Not):
            return call("not", value)
        return Number(-value.value) if isinstance(value, Number) else call("neg", value)

    def conditional(self, node: ast.IfExp) -> Expr:
        test = node.test
        if not isinstance(test, ast.Name) or test.id not in self.names.optional:
            raise self.error(
                test,
                "The test of '... if ... else ...' must be the bare name of an optional tensor.",
                "not an optional input or parameter",
                "Use 'where(condition, a, b)' to choose by value.",
            )
        hoist, self.names.hoist = self.names.hoist, None  # a branch may not be taken at all
        self.names.present.add(test.id)
        then = self.visit(node.body)
        self.names.present.discard(test.id)
        other = self.visit(node.orelse)
        self.names.hoist = hoist
        then, other = self.align(node, (node.body, then), (node.orelse, other), nested=True)
        return IfPresent(test.id, then, other)

    # Axes ------------------------------------------------------------------------------------

    def align(
        self, node: ast.expr, *operands: tuple[ast.expr, Expr], nested: bool
    ) -> tuple[Expr, ...]:
        """Operands with parents expanded to children; checks that they may meet."""
        everything = union(*(value.axes for _, value in operands))
        values = []
        for source, value in operands:
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
            hint = (
                f"If they are the same numbers, rename({self.text(narrow[0])}, {extra}={lacking[0]})"
                f" makes [{extra}] into [{lacking[0]}]; for an outer product use '*'."
            )
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

    def pointwise(self, node: ast.expr, op: str, *operands: tuple[ast.expr, Expr]) -> Expr:
        return Apply(op, self.align(node, *operands, nested=op not in OUTER))

    def axis(self, node: ast.expr, value: Expr | None = None) -> str:
        if not isinstance(node, ast.Name) or node.id not in self.names.axes:
            text = self.text(node)
            hint = did_you_mean(text, self.names.axes) or f"Axes: {', '.join(self.names.axes)}."
            raise self.error(
                node, f"'{text}' is not an axis.", "expected the name of an axis", hint
            )
        if value is not None and node.id not in value.axes:
            children = [a for a in value.axes if self.names.axes[a].parent == node.id]
            hint = f"It has {show_axes(value.axes)}."
            if children:
                hint = f"It has '{children[0]}', a child of '{node.id}': reduce over that."
            raise self.error(node, f"The value has no axis '{node.id}'.", "not there", hint)
        return node.id

    def once(self, value: Expr) -> Expr:
        """``value`` under a name, if using it several times would compute it several times."""
        if isinstance(value, Ref | Number | Size) or self.names.hoist is None:
            return value
        return self.names.hoist(value)

    # Functions -------------------------------------------------------------------------------

    def call(self, node: ast.Call) -> Expr:
        assert isinstance(node.func, ast.Name)
        name = node.func.id
        if name not in ARITY:
            hint = did_you_mean(name, ARITY) or "docs/language.md lists the functions."
            raise self.error(node.func, f"There is no function '{name}'.", "not a function", hint)
        least, most = ARITY[name]
        if not least <= len(node.args) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise self.error(
                node, f"'{name}' takes {wanted} argument(s), got {len(node.args)}.", "wrong number"
            )
        allowed = {"rotary": {"pairs"}, "l2norm": {"eps"}}.get(name, set())
        for keyword in node.keywords:
            if name != "rename" and keyword.arg not in allowed:
                raise self.error(node, f"'{name}' has no argument '{keyword.arg}'.")
        if name in UNARY_CALLS:
            return call(name, self.visit(node.args[0]))
        if name in BINARY_CALLS or name == "where":
            return self.pointwise(node, name, *((arg, self.visit(arg)) for arg in node.args))
        handler: Callable[[ast.Call], Expr] = getattr(self, f"call_{name}")
        return handler(node)

    def call_relu(self, node: ast.Call) -> Expr:
        return call("max", self.visit(node.args[0]), Number(0.0))

    def call_detach(self, node: ast.Call) -> Expr:
        return Detach(self.visit(node.args[0]))

    def call_clamp(self, node: ast.Call) -> Expr:
        value, low, high = ((arg, self.visit(arg)) for arg in node.args)
        return self.pointwise(node, "min", (node, self.pointwise(node, "max", value, low)), high)

    def call_sum(self, node: ast.Call) -> Expr:
        return self.reduce(node, "sum")

    def call_amax(self, node: ast.Call) -> Expr:
        return self.reduce(node, "amax")

    def call_mean(self, node: ast.Call) -> Expr:
        result = self.reduce(node, "sum")
        for source in node.args[1:]:
            result = div(result, Size(self.axis(source)))
        return result

    def reduce(self, node: ast.Call, op: str) -> Expr:
        value = self.visit(node.args[0])
        for source in node.args[1:]:
            value = Reduce(op, value, self.axis(source, value))
        return value

    def call_softmax(self, node: ast.Call) -> Expr:
        value = self.once(self.visit(node.args[0]))
        axis = self.axis(node.args[1], value)
        weights = self.once(call("exp", sub(value, Detach(Reduce("amax", value, axis)))))
        return div(weights, Reduce("sum", weights, axis))

    def call_l2norm(self, node: ast.Call) -> Expr:
        value = self.once(self.visit(node.args[0]))
        axis = self.axis(node.args[1], value)
        sources = node.args[2:] + [k.value for k in node.keywords]
        eps = self.visit(sources[0]) if sources else Number(1e-6)
        return mul(value, call("rsqrt", add(Reduce("sum", mul(value, value), axis), eps)))

    def call_rename(self, node: ast.Call) -> Expr:
        value = self.visit(node.args[0])
        if not node.keywords:
            raise self.error(node, "'rename' needs a new name.", hint="Write rename(x, K=V).")
        for keyword in node.keywords:
            new = self.axis(keyword.value)
            old = keyword.arg or ""
            if old not in value.axes or new in value.axes:
                raise self.error(
                    node,
                    f"Cannot rename '{old}' to '{new}' in a value with axes {show_axes(value.axes)}.",
                )
            value = Rename(value, old, new)
        return value

    def call_prev(self, node: ast.Call) -> Expr:
        inner, steps = node.args[0], 1
        while (
            isinstance(inner, ast.Call)
            and isinstance(inner.func, ast.Name)
            and inner.func.id == "prev"
            and len(inner.args) == 1
        ):
            inner, steps = inner.args[0], steps + 1
        if not isinstance(inner, ast.Name):
            raise self.error(
                inner, "'prev' takes the name of a state, an input or a let.", "not a name"
            )
        assert self.names.prev is not None
        return self.names.prev("prev " * (steps - 1) + inner.id, self.expression.node_span(inner))

    def call_position(self, node: ast.Call) -> Expr:
        assert self.names.position is not None
        return self.names.position()

    def call_index(self, node: ast.Call) -> Expr:
        return Index(self.axis(node.args[0]))

    def call_rotary(self, node: ast.Call) -> Expr:
        value, angle = self.once(self.visit(node.args[0])), self.once(self.visit(node.args[2]))
        axis, half = self.axis(node.args[1], value), self.axis(node.args[3], angle)
        pairs = "adjacent"
        options = node.args[4:] + [k.value for k in node.keywords]
        if options:
            if not isinstance(options[0], ast.Name) or options[0].id not in ("adjacent", "halves"):
                raise self.error(options[0], "'pairs' is 'adjacent' or 'halves'.")
            pairs = options[0].id
        if (self.names.axes[axis].derived or "").replace(" ", "") not in (
            f"2*{half}",
            f"{half}*2",
        ):
            raise self.error(
                node.args[1],
                f"Axis '{axis}' must be twice '{half}' to be rotated.",
                hint=f"Declare 'axes: {{{axis}: 2*{half}}}'.",
            )
        x0, x1 = (Pick(value, axis, half, part, pairs) for part in (0, 1))
        cos, sin = call("cos", angle), call("sin", angle)

        def times(a: Expr, b: Expr) -> Expr:
            return Apply(
                "mul", self.align(node, (node.args[0], a), (node.args[2], b), nested=False)
            )

        return Pair(
            sub(times(x0, cos), times(x1, sin)),
            add(times(x0, sin), times(x1, cos)),
            axis,
            half,
            pairs,
        )
