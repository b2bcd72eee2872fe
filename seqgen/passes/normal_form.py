"""The normal form of one state: decay, erases and writes with separate key and value axes.

    S <- D S + sum_i b_i (a_i . D' S) + sum_j k_j v_j        (``.`` contracts the key axes)

``D`` depends on key and value axes separately, ``a, b, k`` have no value axis and ``v`` no key
axis. A token is one such step, or several in sequence (micro-steps).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from seqgen.ir.expr import Expand, Expr, Index, Number, Ref, add, call, mul, sub, substitute, walk
from seqgen.ir.printer import show
from seqgen.passes.affine import (
    Affine,
    NotAffineError,
    Term,
    atoms,
    factors_of,
    product,
    remove,
)
from seqgen.passes.components import Program
from seqgen.passes.decay import Decay, find_decay
from seqgen.passes.reads import Reader


@dataclass(frozen=True)
class Write:
    """``key * value``: key over head and key axes, value over head and value axes."""

    key: Expr
    value: Expr


@dataclass(frozen=True)
class Erase:
    """``put * (row . D' S)``: both over head and key axes."""

    put: Expr
    row: Expr


@dataclass(frozen=True)
class Delta:
    """``x * (y - r . D' S)``: one erase and one write that share the key ``x``."""

    x: Expr
    r: Expr
    y: Expr


@dataclass(frozen=True)
class Step:
    """One elementary step. ``inner`` is D': ``"D"`` (erases see the decayed state) or ``"I"``."""

    decay: Decay
    inner: str
    erases: tuple[Erase, ...]
    writes: tuple[Write, ...]
    delta: Delta | None


@dataclass(frozen=True)
class NormalForm:
    """Axes in declaration order. ``value_axes`` is empty for a vector state such as a normaliser.

    ``family`` is the fastest one that the form allows; ``not_faster`` says why no faster one.
    """

    head_axes: tuple[str, ...]
    key_axes: tuple[str, ...]
    value_axes: tuple[str, ...]
    steps: tuple[Step, ...]
    family: str
    not_faster: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Raw:
    """A step before its axes are known; ``expr`` is over ``symbol``, the value before it."""

    expr: Expr
    symbol: str
    factor: Expr | None
    erases: tuple[Term, ...]
    writes: tuple[Term, ...]


def normal_form(program: Program, state: str, reader: Reader) -> NormalForm:
    """The normal form of ``state``, whose reads ``reader`` has collected.

    Raises:
        NotAffineError: it has none; the message is the reason.
    """
    return _Former(program, state, reader).form()


class _Former:
    def __init__(self, program: Program, state: str, reader: Reader) -> None:
        self.program, self.state, self.reader = program, state, reader
        self.versions = program.versions[state]
        self.axes = program.recurrence.state(state).axes
        self.affine = Affine(frozenset(self.versions), program.wide)
        self.reads = [read for read in reader.reads if read.state == state]

    # Steps ------------------------------------------------------------------------------------

    def raw_steps(self) -> list[_Raw]:
        own, names = frozenset([self.state]), frozenset(self.versions)
        written: dict[str, Expr] = {}
        steps: list[_Raw] = []
        pending: Expr | None = None
        previous = self.versions[0]
        for name in self.versions[1:]:
            expr = self.program.inline(self.program.definitions[name], own, stop=names)
            written[name] = expr
            used = {n.name for n in walk(expr) if isinstance(n, Ref)} & names
            if used - {previous}:  # reads an older value: one step for all so far
                while used - {self.versions[0]}:
                    expr = substitute(expr, {n: written[n] for n in used if n in written})
                    used = {n.name for n in walk(expr) if isinstance(n, Ref)} & names
                steps, pending, previous = [], None, self.versions[0]
            if pending is not None:
                decayed = mul(pending, Ref(previous, self.axes))
                expr = substitute(expr, {previous: decayed})
            raw, pending = self.raw(expr, previous), None
            if not raw.erases and not raw.writes:
                pending = raw.factor if raw.factor is not None else Number(1.0)
            elif steps and not raw.erases and not steps[-1].erases:
                last = steps.pop()
                steps.append(self.raw(substitute(expr, {previous: last.expr}), last.symbol))
            else:
                steps.append(raw)
            previous = name
        if pending is not None and steps:
            last = steps.pop()
            steps.append(self.raw(mul(pending, last.expr), last.symbol))
        if not steps:
            raise NotAffineError("nothing is written to it")
        return steps

    def raw(self, expr: Expr, symbol: str) -> _Raw:
        terms = self.affine.terms(expr)
        diagonal = [t for t in terms if t.state is not None and not t.bound]
        if not diagonal:
            raise NotAffineError("its update drops the old value")
        if any(t.expand for t in terms):
            raise NotAffineError("its update reads it over a child axis")
        return _Raw(
            expr,
            symbol,
            self.diagonal(diagonal),
            tuple(t for t in terms if t.bound),
            tuple(t for t in terms if t.state is None),
        )

    def diagonal(self, terms: list[Term]) -> Expr | None:
        """The multiplier of the old value; None if that is 1."""
        if len(terms) == 1 and terms[0].number == 1.0 and not terms[0].factors:
            return None
        terms = sorted(terms, key=lambda t: t.number < 0)
        result = product(terms[0].factors, terms[0].number)
        for term in terms[1:]:
            value = product(term.factors, abs(term.number))
            result = sub(result, value) if term.number < 0 else add(result, value)
        return result

    # Axes -------------------------------------------------------------------------------------

    def key_axes(self, steps: list[_Raw]) -> tuple[str, ...]:
        erases = [term for step in steps for term in step.erases]
        bounds = [term.bound for term in erases] or [r.bound for r in self.reads if r.bound]
        if not bounds:
            matrix = self.program.wide(Ref(self.state, self.axes))
            where = self.reads[0].where if self.reads and matrix else ""
            raise NotAffineError(f"no output contracts an axis of {self.state}", where)
        if any(set(b) != set(bounds[0]) for b in bounds) and erases:
            raise NotAffineError("its update contracts it over different axes")
        return self.program.recurrence.order(bounds[0])

    def value_axes(self, steps: list[_Raw], key: tuple[str, ...]) -> tuple[str, ...]:
        """Axes of the state that no key-side factor has; children of head axes only if alone."""
        pieces = [w for s in steps for t in s.erases for w in t.weight]
        pieces += [f for s in steps for t in s.writes for f in t.factors if set(key) & set(f.axes)]
        expanded = {axis for piece in pieces for axis in piece.axes}
        plain = {axis for piece in pieces for axis in _unexpanded(piece)}
        rest = [axis for axis in self.axes if axis not in key]
        found = [axis for axis in rest if axis not in expanded and axis not in plain]
        parents = {a.name: a.parent for a in self.program.recurrence.axes}
        if not found:
            found = [a for a in rest if a not in plain and parents[a] in plain]
        elif len(found) > 1:
            found = [a for a in found if parents[a] not in plain] or found
        return self.program.recurrence.order(tuple(found))

    def check_reads(self, key: tuple[str, ...], value: tuple[str, ...]) -> None:
        for read in self.reads:
            if not read.bound:
                wanted = f"a sum of weight * {self.state} over one axis"
                raise NotAffineError(
                    f"'{read.where}' takes {self.state} otherwise than in {wanted}", read.where
                )
            if set(read.bound) not in (set(key), set(value)):
                raise NotAffineError(
                    f"'{read.where}' contracts {', '.join(read.bound)} of it", read.where
                )
            children = {child for _, child in read.expand}
            extra = set(read.weight.axes) - set(self.axes) - children
            other = set(value if set(read.bound) == set(key) else key) & set(read.weight.axes)
            if extra or other:
                axis = min(extra | other)
                raise NotAffineError(
                    f"the read weight {show(read.weight)} has the axis {axis}", read.where
                )

    # The form ---------------------------------------------------------------------------------

    def form(self) -> NormalForm:
        raws = self.raw_steps()
        key = self.key_axes(raws)
        value = self.value_axes(raws, key)
        steps, reasons = [], []
        for raw in raws:
            step, reason = self.step(raw, key, value)
            steps.append(step)
            reasons.append(reason)
        parents = {a.name: a.parent for a in self.program.recurrence.axes}
        heads = tuple(a for a in self.axes if a not in key and a not in value)
        grouped = [a for a in value if self.is_grouped(a, parents[a], raws, key)]
        if grouped:
            raise NotAffineError(f"its only value axis, {grouped[0]}, is one of groups")
        self.check_reads(key, value)
        family, not_faster = self.family(raws, steps, reasons)
        if family != "delta":
            steps = [replace(step, delta=None) for step in steps]
        return NormalForm(heads, key, value, tuple(steps), family, not_faster)

    def is_grouped(
        self, axis: str, parent: str | None, steps: list[_Raw], key: tuple[str, ...]
    ) -> bool:
        """Whether a value axis is a child of a head axis: keys are shared inside a group."""
        factors = [f for s in steps for t in s.writes for f in t.factors if set(key) & set(f.axes)]
        return parent is not None and any(parent in _unexpanded(f) for f in factors)

    def family(
        self, raws: list[_Raw], steps: list[Step], reasons: list[str]
    ) -> tuple[str, tuple[tuple[str, str], ...]]:
        erases = [term for raw in raws for term in raw.erases]
        if not erases:
            return "linear", ()
        linear = ("linear", f"the update contracts the state over {', '.join(erases[0].bound)}")
        if all(step.delta is not None for step in steps):
            return "delta", (linear,)
        return "dplr", (linear, ("delta", next(reason for reason in reasons if reason)))

    def step(self, raw: _Raw, key: tuple[str, ...], value: tuple[str, ...]) -> tuple[Step, str]:
        decay = find_decay(self.program, self.closed(raw.factor), key, value)
        writes = [self.write(term, key, value) for term in raw.writes]
        number, factors = factors_of(raw.factor) if raw.factor is not None else (1.0, ())
        stripped = [_strip(term, number, factors) for term in raw.erases]
        inner = "D" if all(term is not None for term in stripped) else "I"
        if inner == "I" and decay.log_value is not None:
            raise NotAffineError("the erase reads the state before a decay over the value axes")
        erases = []
        for term, without in zip(raw.erases, stripped, strict=True):
            seen = without if inner == "D" and without is not None else term
            for factor in (*seen.factors, *seen.weight):
                if set(factor.axes) & set(value):
                    raise NotAffineError(
                        f"the erase factor {show(factor)} depends on the value axis "
                        f"{', '.join(value)}"
                    )
            if not any(set(key) & set(f.axes) for f in seen.factors):
                raise NotAffineError(f"what it erases is the same for all {', '.join(key)}")
            erases.append(seen)
        delta, reason = self.delta(erases, list(raw.writes), key, value)
        put = [product(t.factors, t.number) for t in erases]
        rows = [product(t.weight) for t in erases]
        pairs = tuple(Erase(self.close(p), self.close(r)) for p, r in zip(put, rows, strict=True))
        return Step(decay, inner, pairs, tuple(writes), delta), reason

    def write(self, term: Term, key: tuple[str, ...], value: tuple[str, ...]) -> Write:
        on_key = [f for f in term.factors if set(f.axes) & set(key)]
        rest = [f for f in term.factors if not set(f.axes) & set(key)]
        for factor in on_key:
            if set(factor.axes) & set(value):
                raise NotAffineError(
                    f"the write factor {show(factor)} depends on {', '.join(key)} and "
                    f"{', '.join(value)} together"
                )
        left = _over(product(on_key), key)
        right = _over(product(rest, term.number), value)
        return Write(self.close(left), self.close(right))

    def delta(
        self,
        erases: list[Term],
        writes: list[Term],
        key: tuple[str, ...],
        value: tuple[str, ...],
    ) -> tuple[Delta | None, str]:
        """The roles x, r, y, or the reason why there are none."""
        if len(writes) != 1 or len(erases) > 1:
            return None, f"{len(erases)} erases and {len(writes)} writes in one step"
        write = writes[0]
        if not erases:
            pair = self.write(write, key, value)
            return Delta(pair.key, Number(0.0), pair.value), ""
        erase = erases[0]
        for put, source in (
            (erase.factors, write.factors),
            (atoms(erase.factors), atoms(write.factors)),
        ):
            shared = tuple(f for f in put if set(f.axes) & set(key))
            rest = remove(source, shared)
            if rest is None:
                continue
            own: list[Expr] = []
            for factor in put:
                if factor in shared:
                    continue
                without = remove(rest, (factor,))
                if without is None:
                    own.append(factor)
                else:
                    rest = without
            if any(set(f.axes) & set(key) for f in rest):
                continue
            x = product(remove(put, own) or ())
            r = product([*own, *erase.weight], -erase.number)
            y = _over(product(rest, write.number), value)
            return Delta(self.close(x), self.close(r), self.close(y)), ""
        what = product([f for f in erase.factors if set(f.axes) & set(key)])
        wrote = product([f for f in write.factors if set(f.axes) & set(key)])
        return None, f"it erases with key {show(what)} and writes with key {show(wrote)}"

    def closed(self, expr: Expr | None) -> Expr | None:
        return None if expr is None else self.close(expr)

    def close(self, expr: Expr) -> Expr:
        """``expr`` with contractions of earlier states as reads; other names are kept."""
        if not self.program.states_in(expr):
            return expr
        closed = self.reader.close(expr, self.state)
        reads = {read.name for read in self.reader.reads if read.bound}
        names = {node.name for node in walk(closed) if isinstance(node, Ref)}
        return closed if reads & names else expr


def _strip(term: Term, number: float, factors: tuple[Expr, ...]) -> Term | None:
    """``term`` without the decay that it carries; None if it does not carry it."""
    for put, weight, decay in (
        (term.factors, term.weight, factors),
        (atoms(term.factors), atoms(term.weight), atoms(factors)),
    ):
        left, inside = list(put), list(weight)
        for factor in decay:
            if factor in inside:
                inside.remove(factor)
            elif factor in left:
                left.remove(factor)
            else:
                break
        else:
            return replace(
                term, number=term.number / number, factors=tuple(left), weight=tuple(inside)
            )
    return None


def _over(expr: Expr, axes: tuple[str, ...]) -> Expr:
    """``expr``, made to have ``axes`` where it is the same along them."""
    for axis in axes:
        if axis not in expr.axes:
            everywhere = call("ge", Index(axis), Number(0.0))
            expr = call("where", everywhere, expr, Number(0.0))
    return expr


def _unexpanded(expr: Expr) -> set[str]:
    """Axes of ``expr`` before parents were expanded to children."""
    if isinstance(expr, Expand):
        return _unexpanded(expr.arg)
    if not expr.children:
        return set(expr.axes)
    inner = {axis for child in expr.children for axis in _unexpanded(child)}
    gone = {axis for child in expr.children for axis in child.axes} - set(expr.axes)
    return inner - gone
