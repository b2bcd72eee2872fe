"""Rewrites of expressions that keep their values.

Values are kept exactly, up to the rounding of reordered products: nothing is dropped that could
be infinite or NaN.

Rewriting may lose axes (``0 * x`` over K becomes the number 0): a value that lacks an axis is
constant along it, and every user of an expression has to broadcast it anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from seqgen.ir.expr import (
    COMPARISONS,
    Apply,
    Expand,
    Expr,
    GroupSum,
    IfPresent,
    Index,
    Number,
    Pair,
    Pick,
    Reduce,
    Rename,
    Size,
    call,
    div,
    mul,
    neg,
    union,
)

ZERO, ONE = Number(0.0), Number(1.0)
BOUNDED = COMPARISONS | {"sigmoid", "tanh", "sin", "cos", "sign"}
FOLD: dict[str, Callable[..., float]] = {
    "exp": math.exp,
    "log": math.log,
    "log1p": math.log1p,
    "expm1": math.expm1,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1.0 / math.sqrt(x),
    "abs": abs,
    "tanh": math.tanh,
    "sin": math.sin,
    "cos": math.cos,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "max": max,
    "min": min,
}


@dataclass
class Product:
    """``factor * prod(above) / prod(below)``."""

    factor: float = 1.0
    above: list[Expr] = field(default_factory=list)
    below: list[Expr] = field(default_factory=list)

    @staticmethod
    def of(*exprs: Expr) -> Product:
        """The product of ``exprs``, taken apart at ``mul``, ``div``, ``neg`` and numbers."""
        product = Product()
        for expr in exprs:
            product._take(expr, True)
        return product

    def _take(self, expr: Expr, above: bool) -> None:
        if isinstance(expr, Number) and math.isfinite(expr.value) and (above or expr.value):
            self.factor = self.factor * expr.value if above else self.factor / expr.value
        elif isinstance(expr, Apply) and expr.op == "neg":
            self.factor = -self.factor
            self._take(expr.args[0], above)
        elif isinstance(expr, Apply) and expr.op in ("mul", "div"):
            self._take(expr.args[0], above)
            self._take(expr.args[1], above == (expr.op == "mul"))
        else:
            (self.above if above else self.below).append(expr)

    def expr(self) -> Expr:
        """Cheapest order first: a scalar meets a vector before a matrix; the sign outermost."""
        above = sorted(self.above, key=lambda e: len(e.axes))
        below = sorted(self.below, key=lambda e: len(e.axes))
        size = abs(self.factor)
        if size != 1.0 or not above:
            above.insert(0, Number(size))
        result = _chain(above)
        if below:
            result = div(result, _chain(below))
        return neg(result) if math.copysign(1.0, self.factor) < 0 else result

    def sum(self, axes: Iterable[str], order: Sequence[str]) -> Expr:
        """The sum over ``axes``, each taken over only those factors that have it.

        Later axes of ``order`` are summed first among equals, so that sums over the same axes
        come out alike and can be shared.
        """
        left = sorted(axes, key=order.index, reverse=True)
        rest = Product(self.factor, list(self.above), list(self.below))

        def touched(axis: str) -> int:
            return len(union(*(e.axes for e in (*rest.above, *rest.below) if axis in e.axes)))

        while left:
            axis = min(left, key=touched)
            left.remove(axis)
            inner = Product(
                1.0,
                [e for e in rest.above if axis in e.axes],
                [e for e in rest.below if axis in e.axes],
            )
            if not inner.above and not inner.below:
                rest.above.append(Size(axis))
                continue
            rest.above = [e for e in rest.above if axis not in e.axes]
            rest.below = [e for e in rest.below if axis not in e.axes]
            rest.above.append(Reduce("sum", inner.expr(), axis))
        return rest.expr()


def _chain(factors: list[Expr]) -> Expr:
    result = factors[0]
    for factor in factors[1:]:
        result = mul(result, factor)
    return result


def simplify(expr: Expr) -> Expr:
    """``expr`` with constants folded and neutral operations removed."""
    children = tuple(simplify(child) for child in expr.children)
    if isinstance(expr, Apply):
        return _apply(expr.op, children)
    if isinstance(expr, Reduce):
        return _reduce(expr.op, children[0], expr.axis)
    if isinstance(expr, Pair):
        return pair(children[0], children[1], expr)
    if isinstance(expr, IfPresent):
        return if_present(expr.name, children[0], children[1])
    if isinstance(expr, Rename | Expand | GroupSum | Pick):
        return _structural(expr, children[0])
    return expr.with_children(children) if children else expr


def in_order(expr: Expr) -> Expr:
    """``expr`` with one number per product, one sign, and its factors cheapest first."""
    if isinstance(expr, Apply) and expr.op in ("mul", "div", "neg"):
        product = Product.of(expr)
        above, below = ([in_order(e) for e in side] for side in (product.above, product.below))
        if any(isinstance(e, Apply) and e.op in ("neg", "mul", "div") for e in (*above, *below)):
            inner = Product.of(*above, *(div(ONE, e) for e in below))
            return Product(product.factor * inner.factor, inner.above, inner.below).expr()
        return Product(product.factor, above, below).expr()
    if not expr.children:
        return expr
    return expr.with_children(tuple(in_order(child) for child in expr.children))


def if_present(name: str, then: Expr, other: Expr) -> Expr:
    """``IfPresent`` without a choice that was already made outside or makes no difference."""
    if isinstance(then, IfPresent) and then.name == name:
        then = then.then
    if isinstance(other, IfPresent) and other.name == name:
        other = other.other
    return then if then == other else IfPresent(name, then, other)


def pair(first: Expr, second: Expr, like: Pair) -> Expr:
    """``Pair`` of two values of which none need have the half axis."""
    if like.half in union(first.axes, second.axes):
        return Pair(first, second, like.axis, like.half, like.pairs)
    if like.pairs == "halves":
        chosen = call("lt", Index(like.axis), Size(like.half))
    else:
        chosen = call("eq", call("mod", Index(like.axis), Number(2.0)), ZERO)
    return call("where", chosen, first, second)


def _structural(expr: Rename | Expand | GroupSum | Pick, arg: Expr) -> Expr:
    if isinstance(expr, Rename):
        if expr.old not in arg.axes:
            return arg
        if isinstance(arg, Rename) and (arg.old, arg.new) == (expr.new, expr.old):
            return arg.arg
        return Rename(arg, expr.old, expr.new)
    if isinstance(expr, Expand):
        return Expand(arg, expr.parent, expr.child) if expr.parent in arg.axes else arg
    if isinstance(expr, Pick):
        if expr.axis not in arg.axes:
            return arg
        if isinstance(arg, Pair) and (arg.axis, arg.half, arg.pairs) == (
            expr.axis,
            expr.half,
            expr.pairs,
        ):
            return arg.second if expr.part else arg.first
        return expr.with_children((arg,))
    if expr.child not in arg.axes:
        return _apply("mul", (arg, div(Size(expr.child), Size(expr.parent))))
    if isinstance(arg, Apply) and arg.op == "neg":
        return neg(_structural(expr, arg.args[0]))
    return GroupSum(arg, expr.parent, expr.child)


def _reduce(op: str, arg: Expr, axis: str) -> Expr:
    if axis not in arg.axes:
        return _apply("mul", (arg, Size(axis))) if op == "sum" else arg
    if op == "sum":
        product = Product.of(arg)
        outside = [e for e in (*product.above, *product.below) if axis not in e.axes]
        if outside or product.factor != 1.0:
            return product.sum((axis,), (axis,))
    return Reduce(op, arg, axis)


def _apply(op: str, args: tuple[Expr, ...]) -> Expr:
    numbers = [a.value for a in args if isinstance(a, Number)]
    if len(numbers) == len(args) and op in FOLD:
        try:
            value = FOLD[op](*numbers)
        except (ArithmeticError, ValueError):
            value = math.nan
        if isinstance(value, float) and math.isfinite(value):
            return Number(value)
    rule = _RULES.get(op)
    result = rule(*args) if rule else None
    return Apply(op, args) if result is None else result


def _negated(expr: Expr) -> Expr | None:
    """What ``expr`` is the negative of, if it says so."""
    if isinstance(expr, Apply) and expr.op == "neg":
        return expr.args[0]
    if isinstance(expr, Number) and expr.value < 0:
        return Number(-expr.value)
    return None


def _neg(a: Expr) -> Expr | None:
    if isinstance(a, Number):
        return Number(-a.value)
    return _negated(a)


def _add(a: Expr, b: Expr) -> Expr | None:
    if a == ZERO:
        return b
    if b == ZERO:
        return a
    if (inner := _negated(b)) is not None:
        return _apply("sub", (a, inner))
    if (inner := _negated(a)) is not None:
        return _apply("sub", (b, inner))
    return _join(a, b)


def _join(a: Expr, b: Expr) -> Expr | None:
    """One ``IfPresent``, ``Pair`` or ``GroupSum`` for the sum of two alike."""
    if isinstance(a, IfPresent) and isinstance(b, IfPresent) and a.name == b.name:
        thens, others = _apply("add", (a.then, b.then)), _apply("add", (a.other, b.other))
        return if_present(a.name, thens, others)
    if isinstance(a, Pair) and isinstance(b, Pair):
        if (a.axis, a.half, a.pairs) != (b.axis, b.half, b.pairs):
            return None
        firsts, seconds = _apply("add", (a.first, b.first)), _apply("add", (a.second, b.second))
        return pair(firsts, seconds, a)
    if isinstance(a, GroupSum) and isinstance(b, GroupSum) and a.child == b.child:
        return GroupSum(_apply("add", (a.arg, b.arg)), a.parent, a.child)
    return None


def _sub(a: Expr, b: Expr) -> Expr | None:
    if b == ZERO:
        return a
    if a == ZERO:
        return _apply("neg", (b,))
    if (inner := _negated(b)) is not None:
        return _apply("add", (a, inner))
    if isinstance(a, Pair) and isinstance(b, Pair):
        return _join(a, Pair(neg(b.first), neg(b.second), b.axis, b.half, b.pairs))
    if isinstance(a, GroupSum) and isinstance(b, GroupSum) and a.child == b.child:
        return GroupSum(_apply("sub", (a.arg, b.arg)), a.parent, a.child)
    return None


def _mul(a: Expr, b: Expr) -> Expr | None:
    for x, y in ((a, b), (b, a)):
        if x == ONE:
            return y
        if x == ZERO and _bounded(y):
            return ZERO
        if isinstance(x, Number) and x.value == -1.0:
            return _apply("neg", (y,))
        if isinstance(x, Apply) and x.op == "neg":
            return _apply("neg", (_apply("mul", (x.args[0], y)),))
        if isinstance(x, Apply) and x.op == "div" and x.args[0] == ONE:
            return div(y, x.args[1])
    return None


def _bounded(expr: Expr) -> bool:
    """Whether ``expr`` is finite whatever its operands are (NaN aside)."""
    if isinstance(expr, Size | Index):
        return True
    if isinstance(expr, Number):
        return math.isfinite(expr.value)
    return isinstance(expr, Apply) and expr.op in BOUNDED


def _div(a: Expr, b: Expr) -> Expr | None:
    if b == ONE:
        return a
    if isinstance(a, Apply) and a.op == "neg":
        return neg(_apply("div", (a.args[0], b)))
    return None


def _pow(a: Expr, b: Expr) -> Expr | None:
    if not isinstance(b, Number):
        return None
    exponent = b.value
    if exponent == 0.5:
        return call("sqrt", a)
    if exponent == -0.5:
        return call("rsqrt", a)
    if exponent in (1.0, 2.0, 3.0, 4.0):
        return _chain([a] * int(exponent))
    if exponent in (-1.0, -2.0):
        return div(ONE, _chain([a] * int(-exponent)))
    return ONE if exponent == 0.0 else None


def _where(condition: Expr, a: Expr, b: Expr) -> Expr | None:
    if isinstance(condition, Number):
        return a if condition.value else b
    return a if a == b else None


_RULES: dict[str, Callable[..., Expr | None]] = {
    "neg": _neg,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "where": _where,
}
