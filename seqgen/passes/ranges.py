"""Interval analysis: which values an expression can have, given the declared ranges.

Used to prove that a log-decay is at most 0, or not below what one anchored dot product bears. A
range that a user declares is a promise: what is proved from it licenses cheaper forms, nothing
more. NaN is outside of this analysis: a difference of equal infinities counts as any number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from seqgen.ir.expr import (
    COMPARISONS,
    Apply,
    Expr,
    GroupSum,
    IfPresent,
    Index,
    Number,
    Pair,
    Reduce,
    Ref,
    Size,
    mul,
)
from seqgen.ir.recurrence import Recurrence

Interval = tuple[float, float]
INF = math.inf
ANY: Interval = (-INF, INF)
DEPTH = 6  # how many maxima one difference may be compared with


def bounds(expr: Expr, recurrence: Recurrence) -> Interval:
    """An interval that holds every value of ``expr`` (up to rounding).

    Args:
        expr: an expression over the values of ``recurrence``; unknown names may have any value.
        recurrence: gives ranges of tensors and the definitions behind names.
    """
    return _Ranges(recurrence).of(expr)


@dataclass
class _Ranges:
    recurrence: Recurrence
    known: dict[str, Interval] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rec = self.recurrence
        self.definitions = {a.name: a.value for a in rec.assignments}
        for tensor in rec.tensors:
            self.known[tensor.value] = tensor.range or ANY
            if tensor.range is not None and tensor.default is not None:
                self.known[tensor.value] = _hull(tensor.range, (tensor.default,) * 2)
        for state in rec.states:
            self.known[state.incoming] = (0.0, INF) if state.name == "position" else ANY
        finals = dict(rec.final)
        for state in rec.states:
            if state.delay and state.name != "position":
                source = finals[state.name]  # zero at the start of a sequence
                if source not in finals:
                    self.known[state.name] = _hull(self.of_name(source), (0.0, 0.0))

    def of_name(self, name: str) -> Interval:
        if name not in self.known:
            self.known[name] = ANY  # cuts cycles, of which there are none
            if name in self.definitions:
                self.known[name] = self.of(self.definitions[name])
        return self.known[name]

    def of(self, expr: Expr) -> Interval:
        """The interval of ``expr``."""
        if isinstance(expr, Number):
            return (expr.value, expr.value)
        if isinstance(expr, Size):
            return (1.0, INF)
        if isinstance(expr, Index):
            return (0.0, INF)
        if isinstance(expr, Ref):
            return self.of_name(expr.name)
        if isinstance(expr, IfPresent | Pair):
            return _hull(*(self.of(child) for child in expr.children))
        if isinstance(expr, GroupSum) or (isinstance(expr, Reduce) and expr.op == "sum"):
            low, high = self.of(expr.children[0])
            return (low if low >= 0.0 else -INF, high if high <= 0.0 else INF)
        if isinstance(expr, Apply):
            return self.apply(expr)
        return self.of(expr.children[0])  # the same numbers, elsewhere, or one of them

    def apply(self, expr: Apply) -> Interval:
        if expr.op in ("add", "sub", "neg"):
            return self.linear(Linear.of(expr, self.definitions), DEPTH)
        if expr.op in COMPARISONS:
            return (0.0, 1.0)
        args = [self.of(arg) for arg in expr.args]
        if expr.op in _MONOTONE:
            low, high = (_MONOTONE[expr.op](x) for x in args[0])
            return (low, high)
        if expr.op == "where":
            return _hull(args[1], args[2])
        if expr.op == "mul":
            return self.product(expr, args)
        if expr.op == "div":
            low, high = args[1]
            if _is_share(expr, self.definitions) and args[0][0] >= 0.0:
                return (0.0, 1.0)
            return _times(args[0], (1 / high, _inverse(low))) if low >= 0.0 < high else ANY
        rule = _RULES.get(expr.op)
        return rule(*args) if rule else ANY

    def product(self, expr: Apply, args: list[Interval]) -> Interval:
        a, b = expr.args
        if a == b:
            low, high = _times(args[0], args[0])
            return (max(low, 0.0), high) if args[0][0] < 0.0 < args[0][1] else (low, high)
        if _is_normalised(a, b, self.definitions) or _is_normalised(b, a, self.definitions):
            return (-1.0, 1.0)
        return _times(*args)

    def linear(self, form: Linear, depth: int) -> Interval:
        """Of a sum; ``x - max(x, y)`` is at most 0 though neither has bounds."""
        low = high = form.constant
        for atom, factor in form.terms.items():
            a, b = _times(self.of(atom), (factor, factor))
            low, high = _plus(low, a, -INF), _plus(high, b, INF)
        if depth == 0:
            return (low, high)
        for atom, factor in form.terms.items():
            above, below = _comparable(_resolve(atom, self.definitions))
            for other, at_least in [*((o, True) for o in above), *((o, False) for o in below)]:
                # atom >= other (or <=): putting it in bounds the sum from one side.
                a, b = self.linear(form.replaced(atom, other, self.definitions), depth - 1)
                if at_least == (factor > 0.0):
                    low = max(low, a)
                else:
                    high = min(high, b)
        return (low, high)


@dataclass(frozen=True)
class Linear:
    """``constant + sum(factor * atom)``, without sums inside atoms."""

    constant: float
    terms: dict[Expr, float]

    @staticmethod
    def of(expr: Expr, definitions: dict[str, Expr]) -> Linear:
        """``expr`` taken apart; names that stand for sums are looked through."""
        terms: dict[Expr, float] = {}
        constant = _collect(expr, 1.0, terms, definitions)
        return Linear(constant, {atom: f for atom, f in terms.items() if f != 0.0})

    def replaced(self, atom: Expr, other: Expr, definitions: dict[str, Expr]) -> Linear:
        """With ``other`` in place of ``atom``."""
        terms = dict(self.terms)
        factor = terms.pop(atom)
        constant = self.constant + _collect(other, factor, terms, definitions)
        return Linear(constant, {a: f for a, f in terms.items() if f != 0.0})


def _collect(
    expr: Expr, factor: float, terms: dict[Expr, float], definitions: dict[str, Expr]
) -> float:
    """Adds the terms of ``factor * expr``; returns its constant."""
    if isinstance(expr, Number) and math.isfinite(expr.value):
        return factor * expr.value
    if isinstance(expr, Ref) and expr.name in definitions:
        inner = definitions[expr.name]
        if isinstance(inner, Ref) or (isinstance(inner, Apply) and inner.op in _SUMS):
            return _collect(inner, factor, terms, definitions)
    if isinstance(expr, Apply) and expr.op in _SUMS:
        if expr.op == "neg":
            return _collect(expr.args[0], -factor, terms, definitions)
        sign = -1.0 if expr.op == "sub" else 1.0
        return _collect(expr.args[0], factor, terms, definitions) + _collect(
            expr.args[1], sign * factor, terms, definitions
        )
    terms[expr] = terms.get(expr, 0.0) + factor
    return 0.0


_SUMS = frozenset(("add", "sub", "neg"))


def _comparable(expr: Expr) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """Expressions that ``expr`` is never below, and never above."""
    if isinstance(expr, Apply) and expr.op in ("max", "logaddexp"):
        return expr.args, ()
    if isinstance(expr, Apply) and expr.op == "min":
        return (), expr.args
    if isinstance(expr, Reduce) and expr.op == "amax":
        return (expr.arg,), ()
    return (), ()


def _resolve(expr: Expr, definitions: dict[str, Expr]) -> Expr:
    while isinstance(expr, Ref) and expr.name in definitions:
        expr = definitions[expr.name]
    return expr


def _is_normalised(x: Expr, scale: Expr, definitions: dict[str, Expr]) -> bool:
    """Whether ``scale`` is rsqrt(sum(x * x) + something positive): l2norm."""
    scale = _resolve(scale, definitions)
    if not (isinstance(scale, Apply) and scale.op == "rsqrt"):
        return False
    inner = _resolve(scale.args[0], definitions)
    if not (isinstance(inner, Apply) and inner.op == "add"):
        return False
    squares, eps = inner.args
    positive = isinstance(eps, Number) and eps.value >= 0.0
    return positive and isinstance(squares, Reduce) and squares.arg == mul(x, x)


def _is_share(expr: Apply, definitions: dict[str, Expr]) -> bool:
    """Whether ``expr`` is a / sum(a): softmax."""
    below = _resolve(expr.args[1], definitions)
    return isinstance(below, Reduce) and below.op == "sum" and below.arg == expr.args[0]


def _hull(*intervals: Interval) -> Interval:
    return (min(low for low, _ in intervals), max(high for _, high in intervals))


def _plus(a: float, b: float, undecided: float) -> float:
    total = a + b
    return undecided if math.isnan(total) else total


def _times(a: Interval, b: Interval) -> Interval:
    """Products; 0 * inf is 0, for an infinite end is a limit that is not reached together."""
    corners = [0.0 if x == 0.0 or y == 0.0 else x * y for x in a for y in b]
    return (min(corners), max(corners))


def _inverse(x: float) -> float:
    return INF if x == 0.0 else 1.0 / x


def _exp(x: float) -> float:
    return INF if x > 709.0 else math.exp(x)


def _log(x: float) -> float:
    return -INF if x <= 0.0 else math.log(x)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + _exp(-x)) if x >= 0.0 else _exp(x) / (1.0 + _exp(x))


def _softplus(x: float) -> float:
    return x if x > 30.0 else math.log1p(_exp(x))


_MONOTONE: dict[str, Callable[[float], float]] = {
    "exp": _exp,
    "expm1": lambda x: INF if x > 709.0 else math.expm1(x),
    "log": _log,
    "log1p": lambda x: -INF if x <= -1.0 else math.log1p(x),
    "sqrt": lambda x: math.sqrt(max(x, 0.0)) if x < INF else INF,
    "sigmoid": _sigmoid,
    "logsigmoid": lambda x: -_softplus(-x),
    "softplus": _softplus,
    "tanh": math.tanh,
    "sign": lambda x: float((x > 0.0) - (x < 0.0)),
}


def _abs(a: Interval) -> Interval:
    low, high = sorted((abs(a[0]), abs(a[1])))
    return (0.0 if a[0] < 0.0 < a[1] else low, high)


def _power(a: Interval, b: Interval) -> Interval:
    if a[0] > 0.0 or (a[0] == 0.0 and b[0] >= 0.0):
        corners = [_raise(x, y) for x in a for y in b]
        return (min(corners), max(corners))
    even = b[0] == b[1] and b[0] % 2.0 == 0.0
    return (0.0, INF) if even else ANY


def _raise(x: float, y: float) -> float:
    try:
        return math.pow(x, y)
    except OverflowError:
        return INF


_RULES: dict[str, Callable[..., Interval]] = {
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "logaddexp": lambda a, b: (max(a[0], b[0]), max(a[1], b[1]) + math.log(2.0)),
    "abs": _abs,
    "sin": lambda a: (-1.0, 1.0),
    "cos": lambda a: (-1.0, 1.0),
    "silu": lambda a: (0.0 if a[0] >= 0.0 else -0.2785, max(a[1], 0.0)),
    "rsqrt": lambda a: (0.0 if a[1] == INF else a[1] ** -0.5, INF if a[0] <= 0 else a[0] ** -0.5),
    "pow": _power,
    "mod": lambda a, b: (0.0, b[1]) if b[0] > 0.0 else ANY,
}
