"""A spec written in Python instead of YAML; both give the same ``Spec``.

    from seqgen.spec.builder import OperatorBuilder

    gla = (
        OperatorBuilder("gla", about="arXiv 2312.06635")
        .axes(K=128, V=128)
        .input("q", "H", "K").input("k", "H", "K").input("v", "H", "V")
        .input("g", "H", "K", dtype="float32", range=(-inf, 0))
        .state("S", "H", "K", "V")
        .let(q="q * K ** -0.5")
        .update("S = exp(g) * S + k * v")
        .output(o="sum(q * S, K)")
        .build()
    )

Errors point at the line of the Python file and, where the text stands there as a literal, at the
wrong piece of it.
"""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Container
from pathlib import Path

from seqgen.errors import Span, SpecError
from seqgen.spec import checks
from seqgen.spec.expressions import parse_lines, parse_statement
from seqgen.spec.model import (
    Assign,
    AxisDecl,
    Expression,
    OutputDecl,
    Repeat,
    Spec,
    StateDecl,
    TensorDecl,
)


class OperatorBuilder:
    """Collects the elements of one operator; every method returns the builder itself."""

    def __init__(self, name: str, about: str = "") -> None:
        place = _Place()
        self._span = place.of(name)
        checks.check_name(name, self._span, "An operator")
        self._name = name
        self._about = about
        self._origin = Path(place.file).name
        self._uses: list[tuple[str, Span]] = []
        self._axes: dict[str, AxisDecl] = {}
        self._tensors: dict[str, TensorDecl] = {}
        self._states: dict[str, StateDecl] = {}
        self._let: dict[str, Assign] = {}
        self._update: list[Assign | Repeat] = []
        self._outputs: dict[str, OutputDecl] = {}
        self._order = "forward"
        self._chunk: int | None = None
        self._require: tuple[str, Span] | None = None
        self._require_schedule: tuple[str, Span] | None = None

    def axes(self, **sizes: int | str) -> OperatorBuilder:
        """Default sizes (``K=128``) or sizes made of other axes (``N="2*R"``)."""
        place = _Place()
        for name, size in sizes.items():
            span = place.of(name)
            if isinstance(size, str):
                self._add_axis(AxisDecl(name, span, derived=place.expression(size)))
            elif isinstance(size, int) and not isinstance(size, bool):
                checks.check_size(size, name, span)
                self._add_axis(AxisDecl(name, span, size=size))
            else:
                raise SpecError(f"The size of axis '{name}' is no whole number.", span)
        return self

    def axis(
        self,
        name: str,
        *,
        groups_of: str | None = None,
        same_as: str | None = None,
        size: int | None = None,
    ) -> OperatorBuilder:
        """An axis that is related to another one: ``axis("HV", groups_of="H")``."""
        place = _Place()
        span = place.of(name)
        checks.check_relation(name, groups_of, same_as, size, span)
        for other in (groups_of, same_as):
            if other is not None:
                self._uses.append((other, place.of(other)))
        self._add_axis(AxisDecl(name, span, size, groups_of, same_as))
        return self

    def input(
        self,
        name: str,
        *axes: str,
        dtype: str | None = None,
        range: tuple[float, float] | None = None,
        optional: bool = False,
        default: float | None = None,
    ) -> OperatorBuilder:
        """A tensor with a value per token; batch and time are implied."""
        self._add_tensor(_Place(), name, axes, "input", dtype, range, optional, default)
        return self

    def parameter(
        self,
        name: str,
        *axes: str,
        dtype: str | None = None,
        range: tuple[float, float] | None = None,
        optional: bool = False,
        default: float | None = None,
    ) -> OperatorBuilder:
        """A tensor without a time axis."""
        self._add_tensor(_Place(), name, axes, "parameter", dtype, range, optional, default)
        return self

    def state(self, name: str, *axes: str, init: float = 0.0) -> OperatorBuilder:
        """A state; ``init`` is its value where no initial state is given."""
        place = _Place()
        span = self._new(place, name, self._states, "A state")
        checks.check_init(init, span)
        self._states[name] = StateDecl(name, self._named(place, axes), span, float(init))
        return self

    def let(self, **definitions: str) -> OperatorBuilder:
        """Values that depend on no state, in order: ``let(k="l2norm(k, K)")``."""
        place = _Place()
        for name, text in definitions.items():
            span = self._new(place, name, self._let, "A name in 'let'")
            value = place.expression(text)
            self._let[name] = Assign(name, value, span)
        return self

    def update(self, *statements: str) -> OperatorBuilder:
        """Statements ``"name = expression"``, in order."""
        place = _Place()
        self._update += [place.statement(text) for text in statements]
        return self

    def repeat(self, axis: str, *statements: str) -> OperatorBuilder:
        """Micro-steps: the statements run once for each index of ``axis``."""
        place = _Place()
        span = place.of(axis)
        checks.check_name(axis, span, "An axis")
        body = tuple(place.statement(text) for text in statements)
        if not body:
            raise SpecError("A repeat block is empty.", span)
        self._update.append(Repeat(axis, body, span))
        return self

    def output(
        self,
        *,
        axes: dict[str, tuple[str, ...]] | None = None,
        dtype: dict[str, str] | None = None,
        **values: str,
    ) -> OperatorBuilder:
        """Results, in order; ``axes`` and ``dtype`` give those of single results by name."""
        place = _Place()
        for name, text in values.items():
            span = self._new(place, name, self._outputs, "An output")
            value = place.expression(text)
            order = self._named(place, axes[name]) if axes and name in axes else None
            kind = dtype.get(name) if dtype else None
            if kind is not None:
                checks.check_choice(kind, checks.DTYPES, place.of(kind), "dtype")
            self._outputs[name] = OutputDecl(name, value, span, order, kind)
        return self

    def scan(self, order: str = "forward", chunk: int | None = None) -> OperatorBuilder:
        """Direction of time, and a fixed chunk length (None: chosen by tuning)."""
        place = _Place()
        checks.check_choice(order, checks.ORDERS, place.of(order), "order")
        if chunk is not None:
            checks.check_chunk(chunk, place.of(str(chunk)))
        self._order, self._chunk = order, chunk
        return self

    def require(self, family: str | None = None, schedule: str | None = None) -> OperatorBuilder:
        """Turns a slower family, or a slower kind of schedule, into an error."""
        place = _Place()
        if family is not None:
            span = place.of(family)
            checks.check_choice(family, checks.FAMILIES, span, "family")
            self._require = (family, span)
        if schedule is not None:
            span = place.of(schedule)
            checks.check_choice(schedule, checks.SCHEDULES, span, "schedule")
            self._require_schedule = (schedule, span)
        return self

    def build(self) -> Spec:
        """The finished spec.

        Raises:
            SpecError: a section is missing, or names clash.
        """
        tensors = self._tensors.values()
        spec = Spec(
            operator=self._name,
            span=self._span,
            about=self._about,
            axes=tuple(self._axes.values()),
            inputs=tuple(tensor for tensor in tensors if tensor.kind == "input"),
            parameters=tuple(tensor for tensor in tensors if tensor.kind == "parameter"),
            states=tuple(self._states.values()),
            let=tuple(self._let.values()),
            update=tuple(self._update),
            outputs=tuple(self._outputs.values()),
            order=self._order,
            chunk=self._chunk,
            require=self._require[0] if self._require else None,
            require_span=self._require[1] if self._require else None,
            require_schedule=self._require_schedule[0] if self._require_schedule else None,
            require_schedule_span=self._require_schedule[1] if self._require_schedule else None,
            origin=self._origin,
        )
        return checks.complete(spec, self._uses)

    # Helpers --------------------------------------------------------------------------------

    def _add_axis(self, axis: AxisDecl) -> None:
        checks.check_name(axis.name, axis.span, "An axis")
        if axis.name in self._axes:
            raise SpecError(f"Axis '{axis.name}' is given twice.", axis.span)
        self._axes[axis.name] = axis

    def _add_tensor(
        self,
        place: _Place,
        name: str,
        axes: tuple[str, ...],
        kind: str,
        dtype: str | None,
        bounds: tuple[float, float] | None,
        optional: bool,
        default: float | None,
    ) -> None:
        span = self._new(place, name, self._tensors, f"A{'n' if kind == 'input' else ''} {kind}")
        if dtype is not None:
            checks.check_choice(dtype, checks.DTYPES, place.of(dtype), "dtype")
        if bounds is not None:
            bounds = checks.check_range(tuple(float(bound) for bound in bounds), span)
        if default is not None:
            checks.check_default(float(default), bounds, span)
            default = float(default)
        names = self._named(place, axes)
        self._tensors[name] = TensorDecl(name, names, span, kind, dtype, bounds, optional, default)

    def _named(self, place: _Place, axes: tuple[str, ...]) -> tuple[str, ...]:
        uses = tuple((axis, place.of(axis)) for axis in axes)
        checks.check_axes(uses)
        self._uses += uses
        return tuple(axes)

    @staticmethod
    def _new(place: _Place, name: str, known: Container[str], what: str) -> Span:
        span = place.of(name)
        checks.check_name(name, span, what)
        if name in known:
            raise SpecError(f"'{name}' is given twice.", span)
        return span


class _Place:
    """The call in the user's Python file that is being carried out."""

    def __init__(self) -> None:
        frame = inspect.currentframe()
        while frame is not None and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        assert frame is not None  # this module is not a program
        self.file = frame.f_code.co_filename
        self.line = frame.f_lineno
        positions = getattr(inspect.getframeinfo(frame, context=0), "positions", None)
        self.last_line = (positions and positions.end_lineno) or self.line
        self.last_column = positions and positions.end_col_offset

    def of(self, text: str) -> Span:
        """Where ``text`` stands in the call; the text alone if it is no literal there."""
        pattern = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")
        for number in range(self.last_line, self.line - 1, -1):
            source = linecache.getline(self.file, number).rstrip("\n").replace("\t", " ")
            end = len(source) if number < self.last_line else self.last_column
            matches = list(pattern.finditer(source[:end]))
            if text and matches:
                column = matches[-1].start() + 1
                return Span(self.file, number, column, len(text), source)
        return Span(self.file, self.line, 1, max(len(text), 1), text)

    def expression(self, text: str) -> Expression:
        return parse_lines(self._lines(text))

    def statement(self, text: str) -> Assign:
        return parse_statement(self._lines(text))

    def _lines(self, text: str) -> tuple[Span, ...]:
        pieces = [line.strip() for line in text.splitlines() if line.strip()]
        if not pieces:
            raise SpecError("There is no expression here.", self.of(""))
        return tuple(self.of(piece) for piece in pieces)
