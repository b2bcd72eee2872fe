"""Expressions of the IR: mathematics over named axes, for one token.

A value has a set of axes and no order of axes. Operands broadcast by name. The batch of sequences
and the time axis never appear: an expression says what happens at one token. Relations between
axes are explicit here (``Expand``, ``GroupSum``, ``Rename``), so that every other node has the
union of its operands' axes, differentiation is local, and printers need no context.

``axes`` of a node is a tuple without repetition, sorted in the recurrence's axis order by whoever
prints it; two nodes are equal if they are structurally equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property


def union(*axes: tuple[str, ...]) -> tuple[str, ...]:
    """All names, each once, in order of first appearance."""
    return tuple(dict.fromkeys(name for group in axes for name in group))


class Expr:
    """Base of all nodes. ``children`` are the operands; ``axes`` is the value's axis set."""

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    @property
    def axes(self) -> tuple[str, ...]:
        raise NotImplementedError(type(self).__name__)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        """The same operation on other operands."""
        assert not children
        return self


@dataclass(frozen=True)
class Number(Expr):
    """A literal. ``inf``, ``-inf`` are allowed, NaN is not."""

    value: float

    @property
    def axes(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Size(Expr):
    """The run-time size of an axis, as a number."""

    axis: str

    @property
    def axes(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Index(Expr):
    """0, 1, 2, ... along an axis, counted in the axis' own true size."""

    axis: str

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)


@dataclass(frozen=True)
class Ref(Expr):
    """A named value: an input, a parameter, a state's incoming value, or an earlier assignment.

    ``at`` picks one index of an axis that the declared tensor has and this reference lacks
    (micro-steps: ``k[R, H, K]`` at ``R = 1`` is ``Ref("k", ("H", "K"), (("R", 1),))``). Only
    inputs have it.
    """

    name: str
    ref_axes: tuple[str, ...]
    at: tuple[tuple[str, int], ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        return self.ref_axes


@dataclass(frozen=True)
class Apply(Expr):
    """A pointwise operation from ``OPERATIONS``; operands broadcast to the union of axes."""

    op: str
    args: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args

    @cached_property
    def _axes(self) -> tuple[str, ...]:
        return union(*(arg.axes for arg in self.args))

    @property
    def axes(self) -> tuple[str, ...]:
        return self._axes

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Apply(self.op, children)


@dataclass(frozen=True)
class Reduce(Expr):
    """``sum`` or ``amax`` over one axis of the operand, which must have it."""

    op: str  # "sum" or "amax"
    arg: Expr
    axis: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.arg,)

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(name for name in self.arg.axes if name != self.axis)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Reduce(self.op, children[0], self.axis)


@dataclass(frozen=True)
class Rename(Expr):
    """The same numbers along an axis of the same size with another name."""

    arg: Expr
    old: str
    new: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.arg,)

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.new if name == self.old else name for name in self.arg.axes)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Rename(children[0], self.old, self.new)


@dataclass(frozen=True)
class Expand(Expr):
    """A value over ``parent`` seen over its ``child``: child index c reads parent c // group."""

    arg: Expr
    parent: str
    child: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.arg,)

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.child if name == self.parent else name for name in self.arg.axes)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Expand(children[0], self.parent, self.child)


@dataclass(frozen=True)
class GroupSum(Expr):
    """The adjoint of ``Expand``: sums the children of each parent."""

    arg: Expr
    parent: str
    child: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.arg,)

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.parent if name == self.child else name for name in self.arg.axes)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return GroupSum(children[0], self.parent, self.child)


@dataclass(frozen=True)
class Pick(Expr):
    """Half of the entries along ``axis`` (size 2R), as a value along ``half`` (size R).

    ``part`` 0 or 1 of each pair. Pairs are ``adjacent`` (0,1), (2,3), ... or ``halves``
    (0,R), (1,R+1), ...
    """

    arg: Expr
    axis: str
    half: str
    part: int
    pairs: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.arg,)

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.half if name == self.axis else name for name in self.arg.axes)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Pick(children[0], self.axis, self.half, self.part, self.pairs)


@dataclass(frozen=True)
class Pair(Expr):
    """The inverse of two ``Pick``s: puts parts 0 and 1 together along ``axis``."""

    first: Expr
    second: Expr
    axis: str
    half: str
    pairs: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.first, self.second)

    @property
    def axes(self) -> tuple[str, ...]:
        both = union(self.first.axes, self.second.axes)
        return tuple(self.axis if name == self.half else name for name in both)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Pair(children[0], children[1], self.axis, self.half, self.pairs)


@dataclass(frozen=True)
class IfPresent(Expr):
    """``then`` where the optional tensor ``name`` was given, else ``other``; decided per call."""

    name: str
    then: Expr
    other: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.then, self.other)

    @property
    def axes(self) -> tuple[str, ...]:
        return union(self.then.axes, self.other.axes)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return IfPresent(self.name, children[0], children[1])


@dataclass(frozen=True)
class Detach(Expr):
    """The operand, with gradient zero."""

    arg: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.arg,)

    @property
    def axes(self) -> tuple[str, ...]:
        return self.arg.axes

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return Detach(children[0])


# Pointwise operations: name -> number of operands. ``where(c, a, b)`` selects; comparisons give
# 1.0 or 0.0 (a truth value where ``where`` or ``and``/``or``/``not`` reads it).
OPERATIONS: dict[str, int] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "max", "min", "mod", "logaddexp"), 2),
    **dict.fromkeys(("lt", "le", "gt", "ge", "eq", "ne", "and", "or"), 2),
    **dict.fromkeys(("neg", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "abs", "sign"), 1),
    **dict.fromkeys(("sigmoid", "logsigmoid", "softplus", "silu", "tanh", "sin", "cos", "not"), 1),
    "where": 3,
}

COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"})


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node below and including ``expr``, parents first."""
    yield expr
    for child in expr.children:
        yield from walk(child)


def rewrite(expr: Expr, rule: Callable[[Expr], Expr]) -> Expr:
    """``rule`` applied to every node, operands first."""
    children = tuple(rewrite(child, rule) for child in expr.children)
    return rule(expr.with_children(children) if children else expr)


def references(expr: Expr) -> tuple[str, ...]:
    """Names of the values that ``expr`` reads, each once, in order of first appearance."""
    return tuple(dict.fromkeys(node.name for node in walk(expr) if isinstance(node, Ref)))


def substitute(expr: Expr, values: dict[str, Expr]) -> Expr:
    """``expr`` with references replaced by the given expressions."""
    return rewrite(expr, lambda n: values.get(n.name, n) if isinstance(n, Ref) else n)


# Short constructors, for passes that build expressions.
def add(a: Expr, b: Expr) -> Expr:
    return Apply("add", (a, b))


def sub(a: Expr, b: Expr) -> Expr:
    return Apply("sub", (a, b))


def mul(a: Expr, b: Expr) -> Expr:
    return Apply("mul", (a, b))


def div(a: Expr, b: Expr) -> Expr:
    return Apply("div", (a, b))


def neg(a: Expr) -> Expr:
    return Apply("neg", (a,))


def call(op: str, *args: Expr) -> Expr:
    return Apply(op, args)


def total(a: Expr, *axes: str) -> Expr:
    """Sum over several axes."""
    for axis in axes:
        a = Reduce("sum", a, axis)
    return a
