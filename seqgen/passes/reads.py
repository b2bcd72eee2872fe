"""Reads: the contractions through which outputs and later states see a state.

``Reader.close`` rewrites an expression so that every contraction of a state is a reference to a
read (``read_o``), and what is left is pointwise arithmetic over reads, inputs and vector states:
the epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from seqgen.ir.expr import Expr, Number, Reduce, Ref, add, references, sub, substitute, union
from seqgen.ir.printer import show
from seqgen.passes.affine import Affine, NotAffineError, Term, product, term_axes
from seqgen.passes.components import Program


@dataclass(frozen=True)
class Read:
    """``name = sum over bound of weight * state``.

    Attributes:
        name: what the epilogue calls it.
        state: the state's name.
        before: whether it reads the state as the token found it, not as it left it.
        bound: contracted axes; empty for a state that is used as it is (``weight`` is 1 then).
        weight: state-free, except that it may contain reads of an earlier stage.
        axes: axes of the result.
        stage: 0, or one more than the latest read inside ``weight``.
        expand: (parent, child) pairs: the state is read over the child (several query heads
            per state head).
        where: name of the output or state whose equation reads it.
    """

    name: str
    state: str
    before: bool
    bound: tuple[str, ...]
    weight: Expr
    axes: tuple[str, ...]
    stage: int
    expand: tuple[tuple[str, str], ...]
    where: str

    def __str__(self) -> str:
        state = f"prev({self.state})" if self.before else self.state
        if not self.bound:
            return f"{self.name} = {state}"
        text = f"{show(self.weight)} * {state}"
        if self.weight == Number(1.0):
            text = state
        for axis in self.bound:
            text = f"sum({text}, {axis})"
        return f"{self.name} = {text}"


@dataclass
class Reader:
    """Collects the reads of a program; equal ones are found again."""

    program: Program
    reads: list[Read] = field(default_factory=list)
    where: str = ""
    _stand_ins: dict[str, Expr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owner = self.program.owner
        self.names = frozenset(owner)
        self._affine = Affine(
            self.names, self.program.wide, self._stand_in, self._may_bind, self._emit
        )

    def close(self, expr: Expr, where: str) -> Expr:
        """``expr`` with contractions of states replaced by reads.

        Raises:
            NotAffineError: the equations, written out, are too long.
        """
        self.where = where
        final = frozenset(self.program.versions)
        incoming = frozenset(names[0] for names in self.program.versions.values())
        inlined = self.program.inline(expr, final, stop=final | incoming)
        return self._restore(self._close(inlined))

    def _restore(self, expr: Expr) -> Expr:
        while any(name in self._stand_ins for name in references(expr)):
            expr = substitute(expr, self._stand_ins)
        return expr

    def _close(self, expr: Expr) -> Expr:
        if not self._affine.touches(expr):
            return expr
        if isinstance(expr, Ref):
            axes = tuple(expr.axes)
            self._read(Term(state=expr.name, axes=axes), name=expr.name)
            return expr
        if isinstance(expr, Reduce) and expr.op == "sum":
            before = len(self.reads), len(self._stand_ins)
            try:
                terms = self._affine.terms(expr)
            except NotAffineError:
                terms = ()
            if terms and all(t.bound or t.state is None for t in terms):
                return self._emit(terms)
            del self.reads[before[0] :]  # found on the way to nothing
            self._stand_ins = dict(list(self._stand_ins.items())[: before[1]])
        return expr.with_children(tuple(self._close(child) for child in expr.children))

    def _stand_in(self, expr: Expr) -> Expr | None:
        """A name for a piece that is not linear in the states."""
        if isinstance(expr, Reduce) and expr.op == "sum":
            closed = expr.with_children((self._close(expr.arg),))
        else:
            closed = self._close(expr)
        if closed == expr and self.program.wide(expr):
            return None
        for name, value in self._stand_ins.items():
            if value == closed:
                return Ref(name, closed.axes)
        name = f"<{len(self._stand_ins)}>"
        self._stand_ins[name] = closed
        return Ref(name, closed.axes)

    def _may_bind(self, term: Term, axis: str) -> bool:
        """A further axis is contracted only while an axis of the state's own remains."""
        if not term.bound:
            return True
        used = union(*(w.axes for w in term.weight), *(f.axes for f in term.factors))
        return any(a != axis and a not in used for a in term.free)

    def _emit(self, terms: tuple[Term, ...]) -> Expr:
        result: Expr | None = None
        for term in terms:
            factors = term.factors
            if term.state is not None:
                factors = (*factors, self._read(term))
            sign = result is not None and term.number < 0
            value = product(factors, -term.number if sign else term.number)
            joined = sub if sign else add
            result = value if result is None else joined(result, value)
        assert result is not None
        return result

    def _read(self, term: Term, name: str = "") -> Expr:
        assert term.state is not None
        weight = self._restore(product(term.weight))
        if not term.weight:
            weight = Number(1.0)
        owner = self.program.owner[term.state]
        inner = Term(1.0, (), term.state, term.axes, term.bound, term.weight, term.expand)
        earlier = {read.name: read.stage for read in self.reads if read.bound}
        stages = [earlier[n] + 1 for n in references(weight) if n in earlier]
        found = Read(
            name,
            owner,
            term.state == self.program.versions[owner][0],
            term.bound,
            weight,
            self.program.recurrence.order(term_axes(inner)),
            max(stages, default=0),
            term.expand,
            self.where,
        )
        for read in self.reads:
            same = (read.state, read.before, read.bound, read.weight, read.expand)
            if same == (owner, found.before, found.bound, weight, found.expand):
                return Ref(read.name, read.axes)
        if not name:
            taken = {read.name for read in self.reads}
            name, count = f"read_{self.where}", 1
            while name in taken:
                count += 1
                name = f"read_{self.where}_{count}"
            found = replace(found, name=name)
        self.reads.append(found)
        return Ref(found.name, found.axes)
