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

from seqgen.errors import did_you_mean
from seqgen.ir.expr import (
    COMPARISONS,
    OPERATIONS,
    Apply,
    Detach,
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
)
from seqgen.passes.alignment import Aligner, Names, show_axes
from seqgen.spec.functions import FUNCTIONS
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
BINARY_CALLS = frozenset({"max", "min", "logaddexp"})
UNARY_CALLS = frozenset(
    name for name in FUNCTIONS if OPERATIONS.get(name) == 1 and name not in COMPARISONS
)
MOST_AXES = 8  # arguments of one reduction
OUTER = frozenset({"mul", "div", "pow"})  # the operations that may form outer products


def type_expression(expression: Expression, names: Names) -> Expr:
    """The IR of ``expression``.

    Raises:
        SpecError: at the smallest wrong piece of the expression.
    """
    return _Typer(expression, names).visit(expression.tree)


class _Typer(Aligner):
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
        if node.id in FUNCTIONS:
            raise self.error(
                node,
                f"'{node.id}' is a function and no value.",
                "not called",
                f"Write {FUNCTIONS[node.id].signature}.",
            )
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
        outer, self.names.present = self.names.present, {*self.names.present, test.id}
        then = self.visit(node.body)
        self.names.present = outer
        other = self.visit(node.orelse)
        self.names.hoist = hoist
        then, other = self.align(node, (node.body, then), (node.orelse, other), nested=True)
        return IfPresent(test.id, then, other)

    # Axes ------------------------------------------------------------------------------------

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
            hint = f"It has {show_axes(value.axes)}." if value.axes else "It is a single number."
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
        function = FUNCTIONS[name]
        least = len(function.arguments)
        most = MOST_AXES if function.more_axes else least + len(function.options)
        if not least <= len(node.args) <= most:
            wanted = f"{least} or more" if function.more_axes else str(least)
            plural = "" if wanted == "1" else "s"
            raise self.error(
                node,
                f"'{name}' takes {wanted} argument{plural}, got {len(node.args)}.",
                "wrong number",
                f"Write {function.signature}.",
            )
        for keyword in node.keywords:
            if keyword.arg not in function.options and not function.renames:
                raise self.error(
                    keyword.value,
                    f"'{name}' has no argument '{keyword.arg}'.",
                    "unknown argument",
                    f"Write {function.signature}.",
                )
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
        if not isinstance(eps, Number):
            raise self.error(sources[0], "'eps' is a number.", "not a number")
        return mul(value, call("rsqrt", add(Reduce("sum", mul(value, value), axis), eps)))

    def call_rename(self, node: ast.Call) -> Expr:
        value = self.visit(node.args[0])
        if not node.keywords:
            raise self.error(node, "'rename' needs a new name.", hint="Write rename(x, K=V).")
        for keyword in node.keywords:
            new = self.axis(keyword.value)
            old = keyword.arg or ""
            if old not in value.axes:
                raise self.error(
                    node, f"The value has no axis '{old}'.", f"has {show_axes(value.axes)}"
                )
            if new in value.axes:
                raise self.error(
                    keyword.value, f"The value already has axis '{new}'.", "already there"
                )
            if self.same_size(old) != self.same_size(new):
                raise self.error(
                    keyword.value,
                    f"Axes '{old}' and '{new}' may have different sizes.",
                    "not known to be equal",
                    f"Declare 'axes: {{{new}: {{same_as: {old}}}}}'.",
                )
            value = Rename(value, old, new)
        return value

    def same_size(self, axis: str) -> str:
        """The first of all axes that are declared to have the size of ``axis``."""
        twin = self.names.axes[axis].twin
        return axis if twin is None else self.same_size(twin)

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
