"""Derivatives of single nodes, and what else reverse mode needs to know of one node."""

from __future__ import annotations

from collections.abc import Callable

from seqgen.ir.expr import (
    Apply,
    Detach,
    Expand,
    Expr,
    GroupSum,
    Number,
    Pair,
    Pick,
    Reduce,
    Rename,
    Size,
    add,
    call,
    div,
    mul,
    neg,
    sub,
)
from seqgen.passes.sharing import is_cheap
from seqgen.passes.simplify import ONE, ZERO, Product, pair, simplify

HALF = Number(0.5)
Term = tuple[Expr, list[Expr]]
"""An operand, and factors whose product is its share of the cotangent (the first is alone where
the derivative is a selection)."""


def partials(
    expr: Apply, d: Expr, value: Callable[[Expr], Expr], active: Callable[[Expr], bool]
) -> list[Term]:
    """What each operand of ``expr`` receives from the cotangent ``d``, except for ``mul``.

    Args:
        expr: the operation.
        d: its cotangent.
        value: how to read a forward value; called only for values that are needed.
        active: whether an operand has a gradient.
    """
    if len(expr.args) == 1:
        return [(expr.args[0], [d, *_UNARY[expr.op](expr, expr.args[0], value)])]
    if expr.op == "where":
        condition, a, b = expr.args
        taken = value(condition)
        return [(a, [call("where", taken, d, ZERO)]), (b, [call("where", taken, ZERO, d)])]
    a, b = expr.args
    if expr.op == "add":
        return [(a, [d]), (b, [d])]
    if expr.op == "sub":
        return [(a, [d]), (b, [neg(d)])]
    if expr.op == "div":
        terms: list[Term] = [(a, [d, div(ONE, value(b))])]
        if active(b):
            terms.append((b, [d, neg(value(expr)), div(ONE, value(b))]))
        return terms
    if expr.op in ("max", "min"):
        wins, tie = "gt" if expr.op == "max" else "lt", call("eq", value(a), value(b))
        return [
            (x, [call("where", call(wins, value(x), value(y)), d, _tied(tie, d))])
            for x, y in ((a, b), (b, a))
        ]
    if expr.op == "logaddexp":
        # Two infinities of one sign: their difference is no number.
        tie = call("eq", value(a), value(b))
        return [
            (x, [d, call("where", tie, HALF, call("sigmoid", sub(value(x), value(y))))])
            for x, y in ((a, b), (b, a))
        ]
    if expr.op == "pow":
        return _pow(expr, d, value, active)
    return []  # mod: positions and indices have no gradient


def _tied(tie: Expr, d: Expr) -> Expr:
    return call("where", tie, mul(HALF, d), ZERO)


def _pow(
    expr: Apply, d: Expr, value: Callable[[Expr], Expr], active: Callable[[Expr], bool]
) -> list[Term]:
    base, exponent = expr.args
    terms: list[Term] = []
    if active(base):
        less = simplify(sub(value(exponent), ONE))
        terms.append((base, [d, value(exponent), simplify(call("pow", value(base), less))]))
    if active(exponent):
        # d/de 0**e is 0, not 0 * log(0).
        logarithm = call("log", value(base))
        zero = call("eq", value(base), ZERO)
        terms.append((exponent, [d, value(expr), call("where", zero, ZERO, logarithm)]))
    return terms


Rule = Callable[[Expr, Expr, Callable[[Expr], Expr]], list[Expr]]

# operation -> factors of the derivative, from (the node y, its operand x, how to read a value)
_UNARY: dict[str, Rule] = {
    "neg": lambda y, x, v: [Number(-1.0)],
    "exp": lambda y, x, v: [v(y)],
    "log": lambda y, x, v: [div(ONE, v(x))],
    "log1p": lambda y, x, v: [div(ONE, add(ONE, v(x)))],
    "expm1": lambda y, x, v: [add(v(y), ONE)],
    "sqrt": lambda y, x, v: [HALF, div(ONE, v(y))],
    "rsqrt": lambda y, x, v: [Number(-0.5), v(y), v(y), v(y)],
    "abs": lambda y, x, v: [call("sign", v(x))],
    "sign": lambda y, x, v: [ZERO],
    "sigmoid": lambda y, x, v: [v(y), sub(ONE, v(y))],
    "logsigmoid": lambda y, x, v: [call("sigmoid", neg(v(x)))],
    "softplus": lambda y, x, v: [call("sigmoid", v(x))],
    "tanh": lambda y, x, v: [sub(ONE, mul(v(y), v(y)))],
    "sin": lambda y, x, v: [call("cos", v(x))],
    "cos": lambda y, x, v: [neg(call("sin", v(x)))],
}


def plain(expr: Expr) -> Expr:
    """Operations whose derivative needs an inner value, spelled out so that it gets a name."""
    if isinstance(expr, Apply) and expr.op == "silu":
        return Apply("mul", (expr.args[0], call("sigmoid", expr.args[0])))
    return expr


def operands(expr: Apply) -> list[Expr]:
    """The operands of ``expr``; for a product of several, all its factors."""
    if expr.op != "mul":
        return list(expr.args)
    result: list[Expr] = []
    for arg in expr.args:
        result += operands(arg) if isinstance(arg, Apply) and arg.op == "mul" else [arg]
    return result


def kind(expr: Expr) -> int:
    """Contributions of one kind are joined before others are added."""
    return 2 if isinstance(expr, Pair) else int(isinstance(expr, GroupSum))


def is_short(cotangent: Expr) -> bool:
    """Whether a cotangent may be written several times: a name, or a product of few."""
    product = Product.of(cotangent)
    factors = [*product.above, *product.below]
    return len(factors) <= 2 and all(map(is_cheap, factors))


def through(expr: Expr, cotangent: Expr) -> Expr:
    """The cotangent of the operand of a linear node. ``cotangent`` may lack axes."""
    if isinstance(expr, Rename):
        return simplify(Rename(cotangent, expr.new, expr.old))
    if isinstance(expr, Expand):
        if expr.child in cotangent.axes:
            return GroupSum(cotangent, expr.parent, expr.child)
        ratio = Apply("div", (Size(expr.child), Size(expr.parent)))
        return Product.of(cotangent, ratio).expr()
    if isinstance(expr, GroupSum):
        if expr.parent in cotangent.axes:
            return Expand(cotangent, expr.parent, expr.child)
        return cotangent
    if isinstance(expr, Pick):
        like = Pair(ZERO, ZERO, expr.axis, expr.half, expr.pairs)
        return pair(ZERO, cotangent, like) if expr.part else pair(cotangent, ZERO, like)
    assert isinstance(expr, Reduce | Detach), expr
    return cotangent
