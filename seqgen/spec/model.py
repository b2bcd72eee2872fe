"""What the user wrote: one frozen dataclass per element of a spec, each with its place.

Nothing is checked across elements here. ``spec.loader`` and ``spec.builder`` make a ``Spec``;
``passes.lower`` gives it meaning (axes, names, order) and reports mistakes at these spans.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from seqgen.errors import Span


@dataclass(frozen=True)
class Expression:
    """One expression of the language, parsed (by Python's own grammar) but not yet typed.

    ``tree`` holds only node kinds that ``spec.expressions`` allows. ``span`` covers ``text``;
    ``node_span`` finds the place of one node inside it. ``lines`` has the span of each line of an
    expression written over several; ``text`` then joins them by one space each.
    """

    text: str
    tree: ast.expr
    span: Span
    lines: tuple[Span, ...] = ()

    @property
    def first_line(self) -> Span:
        """Where it stands in the user's file (its first line, if it has several)."""
        return self.span_of(0, len(self.text))

    def node_span(self, node: ast.expr) -> Span:
        """Where ``node`` stands in the user's file (its first line, if it has several)."""
        end = node.end_col_offset if node.end_col_offset is not None else node.col_offset + 1
        return self.span_of(node.col_offset, end)

    def span_of(self, start: int, end: int) -> Span:
        """Where columns ``start`` to ``end`` (exclusive) of ``text`` stand in the user's file."""
        return place(self.lines or (self.span,), start, end)


def place(lines: tuple[Span, ...], start: int, end: int) -> Span:
    """The span of ``start`` to ``end`` in the text that joins ``lines`` by one space each."""
    for line in lines[:-1]:
        if start <= line.length:
            return line.inside(start, min(end, line.length) - start)
        start, end = start - line.length - 1, end - line.length - 1
    return lines[-1].inside(start, end - start)


@dataclass(frozen=True)
class AxisDecl:
    """``K: 128``, ``HV: {groups_of: H}``, ``V: {same_as: K}`` or ``N: 2*R``.

    ``size`` is the default; any size may be given at run time.
    """

    name: str
    span: Span
    size: int | None = None
    groups_of: str | None = None
    same_as: str | None = None
    derived: Expression | None = None


@dataclass(frozen=True)
class TensorDecl:
    """An input (has a value per token; B and T are implied) or a parameter (has no time axis).

    ``dtype`` is None for the operator's io dtype, or ``"float32"``. ``range`` is the declared
    closed interval, a promise that licenses cheaper forms. An ``optional`` tensor may be absent;
    with a ``default`` it then counts as that number.
    """

    name: str
    axes: tuple[str, ...]
    span: Span
    kind: str  # "input" or "parameter"
    dtype: str | None = None
    range: tuple[float, float] | None = None
    optional: bool = False
    default: float | None = None


@dataclass(frozen=True)
class StateDecl:
    """A state, kept in fp32. ``init`` is its value where no initial state is given."""

    name: str
    axes: tuple[str, ...]
    span: Span
    init: float = 0.0


@dataclass(frozen=True)
class Assign:
    """``target = value`` in ``let`` or ``update``."""

    target: str
    value: Expression
    span: Span


@dataclass(frozen=True)
class Repeat:
    """``{repeat: R, do: [...]}``: micro-steps; inputs with axis R lose it inside."""

    axis: str
    body: tuple[Assign, ...]
    span: Span


@dataclass(frozen=True)
class OutputDecl:
    """``o: expr`` or ``o: {axes: [...], value: expr, dtype: float32}``."""

    name: str
    value: Expression
    span: Span
    axes: tuple[str, ...] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Spec:
    """A whole spec, in the order in which the user wrote it."""

    operator: str
    span: Span
    about: str = ""
    axes: tuple[AxisDecl, ...] = ()
    inputs: tuple[TensorDecl, ...] = ()
    parameters: tuple[TensorDecl, ...] = ()
    states: tuple[StateDecl, ...] = ()
    let: tuple[Assign, ...] = ()
    update: tuple[Assign | Repeat, ...] = ()
    outputs: tuple[OutputDecl, ...] = ()
    order: str = "forward"
    chunk: int | None = None
    require: str | None = None
    require_span: Span | None = None
    require_schedule: str | None = None
    require_schedule_span: Span | None = None
    origin: str = field(default="<builder>")
    """Name of the file it came from, for messages and provenance (not its folder)."""
