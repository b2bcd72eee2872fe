"""Expressions that touch a state, as lists of affine terms.

A term is ``number * factors * sum over bound (weight * state)``; without a state it is a plain
product. The update of a state in this form shows its decay (a state term without ``bound``), its
erase (with ``bound``) and its write (no state), whatever the equation looked like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from seqgen.ir.expr import (
    Apply,
    Expand,
    Expr,
    IfPresent,
    Number,
    Reduce,
    Ref,
    Size,
    call,
    div,
    mul,
    neg,
    references,
    union,
)
from seqgen.ir.printer import show

MOST_TERMS = 64  # a longer list means that no fast form will be found


class NotAffineError(Exception):
    """The expression is not affine in the states; ``str`` is the reason, in the user's words.

    ``where`` names the output or state whose read is the reason; "" if none is.
    """

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.where = where


@dataclass(frozen=True)
class Term:
    """``number * product(factors) * sum over bound of product(weight) * state``.

    Attributes:
        state: value name of the state's version, or None for a term without one.
        axes: axes of the state's value where it stands (after ``expand``).
        expand: (parent, child) pairs: the state is seen over the child.
    """

    number: float = 1.0
    factors: tuple[Expr, ...] = ()
    state: str | None = None
    axes: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    weight: tuple[Expr, ...] = ()
    expand: tuple[tuple[str, str], ...] = ()

    @property
    def free(self) -> tuple[str, ...]:
        """Axes of the state that are not contracted."""
        return tuple(axis for axis in self.axes if axis not in self.bound)


def product(factors: Iterable[Expr], number: float = 1.0) -> Expr:
    """One expression for ``number`` times the factors; small numbers of nodes, no ``1 *``."""
    result: Expr | None = None
    inverse: list[Expr] = []
    for factor in factors:
        if isinstance(factor, Apply) and factor.op == "div" and factor.args[0] == Number(1.0):
            inverse.append(factor.args[1])
        else:
            result = factor if result is None else mul(result, factor)
    if result is None:
        result = Number(number)
    elif number == -1.0:
        result = neg(result)
    elif number != 1.0:
        result = mul(Number(number), result)
    for factor in inverse:
        result = div(result, factor)
    return result


def factors_of(expr: Expr) -> tuple[float, tuple[Expr, ...]]:
    """A state-free expression as a number and factors, as the user wrote them."""
    if isinstance(expr, Number):
        return expr.value, ()
    if isinstance(expr, Apply) and expr.op == "neg":
        number, factors = factors_of(expr.args[0])
        return -number, factors
    if isinstance(expr, Apply) and expr.op == "mul":
        (a, left), (b, right) = (factors_of(arg) for arg in expr.args)
        return a * b, left + right
    if isinstance(expr, Apply) and expr.op == "div":
        number, left = factors_of(expr.args[0])
        if isinstance(expr.args[1], Number) and expr.args[1].value:
            return number / expr.args[1].value, left
        return number, (*left, div(Number(1.0), expr.args[1]))
    if isinstance(expr, Expand):
        number, factors = factors_of(expr.arg)
        return number, tuple(_expand(f, expr.parent, expr.child) for f in factors)
    return 1.0, (expr,)


def _expand(factor: Expr, parent: str, child: str) -> Expr:
    return Expand(factor, parent, child) if parent in factor.axes else factor


def atoms(factors: Iterable[Expr]) -> tuple[Expr, ...]:
    """Factors split further, for matching only: ``exp(a + b)`` into ``exp(a)`` and ``exp(b)``."""
    result: list[Expr] = []
    for factor in factors:
        inner, wrap = factor, []
        while isinstance(inner, Expand):
            wrap.append((inner.parent, inner.child))
            inner = inner.arg
        pieces: tuple[Expr, ...] = (inner,)
        if isinstance(inner, Apply) and inner.op == "exp":
            pieces = tuple(call("exp", part) for part in addends(inner.args[0]))
        for piece in pieces:
            for parent, child in reversed(wrap):
                piece = _expand(piece, parent, child)
            result.append(piece)
    return tuple(result)


def addends(expr: Expr) -> tuple[Expr, ...]:
    """The operands of a sum, signs inside."""
    if isinstance(expr, Apply) and expr.op == "add":
        return addends(expr.args[0]) + addends(expr.args[1])
    if isinstance(expr, Apply) and expr.op == "sub":
        return addends(expr.args[0]) + tuple(negative(e) for e in addends(expr.args[1]))
    if isinstance(expr, Apply) and expr.op == "neg":
        return tuple(negative(e) for e in addends(expr.args[0]))
    if isinstance(expr, Expand):
        return tuple(_expand(part, expr.parent, expr.child) for part in addends(expr.arg))
    return (expr,)


def negative(expr: Expr) -> Expr:
    """``-expr`` without two signs in a row."""
    if isinstance(expr, Apply) and expr.op == "neg":
        return expr.args[0]
    return Number(-expr.value) if isinstance(expr, Number) else neg(expr)


def remove(items: tuple[Expr, ...], taken: Iterable[Expr]) -> tuple[Expr, ...] | None:
    """``items`` without ``taken``, each once; None if one of them is not there."""
    rest = list(items)
    for item in taken:
        if item not in rest:
            return None
        rest.remove(item)
    return tuple(rest)


@dataclass(frozen=True)
class Affine:
    """Makes terms.

    Attributes:
        states: value names that count as states.
        wide: whether a state-free expression is too large to be one factor (a sum of outer
            products is split, a sum of vectors is not).
        close: what to do with a piece that is not affine: gives a state-free stand-in, or None
            if there is none.
        read: the same for a factor that is affine and takes states in contractions only.
        may_bind: whether a sum over an axis may become part of the contraction of a term.
    """

    states: frozenset[str]
    wide: Callable[[Expr], bool]
    close: Callable[[Expr], Expr | None] = lambda expr: None
    may_bind: Callable[[Term, str], bool] = lambda term, axis: True
    read: Callable[[tuple[Term, ...]], Expr | None] = lambda terms: None

    def touches(self, expr: Expr) -> bool:
        """Whether the value depends on a state."""
        return not self.states.isdisjoint(references(expr))

    def terms(self, expr: Expr) -> tuple[Term, ...]:
        """The affine form of ``expr``.

        Raises:
            NotAffineError: it has none.
        """
        merged = _merge(self._terms(expr))
        if len(merged) > MOST_TERMS:
            raise NotAffineError(f"{show(expr)[:60]}... has {len(merged)} terms")
        return merged

    def _terms(self, expr: Expr) -> tuple[Term, ...]:
        if not self.touches(expr):
            return self._constant(expr)
        if isinstance(expr, Ref):
            return (Term(state=expr.name, axes=expr.axes),)
        if isinstance(expr, Reduce) and expr.op == "sum":
            terms = self.terms(expr.arg)
            if all(self.may_bind(t, expr.axis) for t in terms if expr.axis in t.free):
                return tuple(_sum(term, expr.axis) for term in terms)
        if isinstance(expr, Expand):
            return tuple(_expand_term(t, expr.parent, expr.child) for t in self.terms(expr.arg))
        if isinstance(expr, IfPresent):
            yes = IfPresent(expr.name, Number(1.0), Number(0.0))
            no = IfPresent(expr.name, Number(0.0), Number(1.0))
            return self._times(expr.then, yes) + self._times(expr.other, no)
        if isinstance(expr, Apply):
            return self._apply(expr)
        return self._closed(expr)

    def _apply(self, expr: Apply) -> tuple[Term, ...]:
        args = expr.args
        if expr.op == "add":
            return self.terms(args[0]) + self.terms(args[1])
        if expr.op == "sub":
            return self.terms(args[0]) + _scaled(self.terms(args[1]), -1.0)
        if expr.op == "neg":
            return _scaled(self.terms(args[0]), -1.0)
        if expr.op == "where" and not self.touches(args[0]):
            yes = call("where", args[0], Number(1.0), Number(0.0))
            no = call("where", args[0], Number(0.0), Number(1.0))
            return self._times(args[1], yes) + self._times(args[2], no)
        if expr.op == "div" and self.touches(args[0]):
            divisor: Expr | None = args[1]
            if self.touches(args[1]):
                divisor = self.close(args[1])
            if divisor is not None:
                return self._times(args[0], div(Number(1.0), divisor))
        if expr.op == "mul":
            first, second = args
            if self.touches(first) and self.touches(second):
                first, second = self._product_of_two(first, second)
            if not self.touches(first):
                first, second = second, first
            if not self.touches(second):
                return self._times(first, second)
        return self._closed(expr)

    def _product_of_two(self, first: Expr, second: Expr) -> tuple[Expr, Expr]:
        """Both touch a state: the side that is no whole state gets a stand-in."""
        if any(t.state is not None and not t.bound for t in self._attempt(first)):
            return first, self._factor(second)
        return self._factor(first), second

    def _factor(self, expr: Expr) -> Expr:
        """``expr`` without states, if that can be."""
        terms = self._attempt(expr)
        contracted = terms and all(t.bound or t.state is None for t in terms)
        closed = self.read(terms) if contracted else self.close(expr)
        return expr if closed is None else closed

    def _attempt(self, expr: Expr) -> tuple[Term, ...]:
        try:
            return self.terms(expr)
        except NotAffineError:
            return ()

    def _closed(self, expr: Expr) -> tuple[Term, ...]:
        closed = self.close(expr)
        if closed is None:
            raise NotAffineError(f"{show(expr)} is not linear in the state")
        return self._constant(closed)

    def _constant(self, expr: Expr) -> tuple[Term, ...]:
        if self.wide(expr):
            if isinstance(expr, Apply) and expr.op in ("add", "sub"):
                sign = 1.0 if expr.op == "add" else -1.0
                return self._constant(expr.args[0]) + _scaled(self._constant(expr.args[1]), sign)
            if isinstance(expr, Apply) and expr.op == "neg":
                return _scaled(self._constant(expr.args[0]), -1.0)
            if isinstance(expr, Apply) and expr.op == "mul":
                left, right = (self._constant(arg) for arg in expr.args)
                return tuple(
                    Term(a.number * b.number, a.factors + b.factors) for a in left for b in right
                )
        number, factors = factors_of(expr)
        return (Term(number, factors),) if number else ()

    def _times(self, expr: Expr, factor: Expr) -> tuple[Term, ...]:
        """``expr`` times a state-free ``factor``."""
        return tuple(
            replace(t, number=t.number * f.number, factors=f.factors + t.factors)
            for t in self.terms(expr)
            for f in self._constant(factor)
        )


def _scaled(terms: tuple[Term, ...], number: float) -> tuple[Term, ...]:
    return tuple(replace(term, number=term.number * number) for term in terms)


def _sum(term: Term, axis: str) -> Term:
    """The sum of ``term`` over ``axis``."""
    with_axis = tuple(f for f in term.factors if axis in f.axes)
    without = tuple(f for f in term.factors if axis not in f.axes)
    if axis in term.free:
        return replace(
            term, factors=without, weight=term.weight + with_axis, bound=(*term.bound, axis)
        )
    weights = tuple(w for w in term.weight if axis in w.axes and axis not in term.bound)
    if weights:
        rest = tuple(w for w in term.weight if w not in weights)
        combined = Reduce("sum", product(weights + with_axis), axis)
        return replace(term, factors=without, weight=(*rest, combined))
    summed: Expr = Reduce("sum", product(with_axis), axis) if with_axis else Size(axis)
    return replace(term, factors=(*without, summed))


def _expand_term(term: Term, parent: str, child: str) -> Term:
    expand, axes = term.expand, term.axes
    if parent in axes:
        axes = tuple(child if axis == parent else axis for axis in axes)
        if parent in term.free:
            expand = (*expand, (parent, child))
    return replace(
        term,
        factors=tuple(_expand(f, parent, child) for f in term.factors),
        weight=tuple(_expand(w, parent, child) for w in term.weight),
        axes=axes,
        expand=expand,
    )


def _merge(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """Adds the numbers of equal terms; drops zeros."""
    result: list[tuple[object, Term]] = []
    for term in terms:
        key = (
            frozenset((a, term.factors.count(a)) for a in term.factors),
            frozenset((a, term.weight.count(a)) for a in term.weight),
            *(term.state, frozenset(term.bound), term.expand),
        )
        for i, (other, found) in enumerate(result):
            if other == key:
                result[i] = (key, replace(found, number=found.number + term.number))
                break
        else:
            result.append((key, term))
    return tuple(term for _, term in result if term.number)


def term_axes(term: Term) -> tuple[str, ...]:
    """Axes of the term's value."""
    inner = union(term.axes, *(w.axes for w in term.weight))
    inner = tuple(axis for axis in inner if axis not in term.bound)
    return union(*(f.axes for f in term.factors), inner)
