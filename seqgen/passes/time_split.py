"""Whether time can be split: segments of a sequence that run in parallel.

A state ``h = a * h + b`` with ``a`` and ``b`` that do not depend on it passes through a segment
of tokens as ``h_after = decay * h_before + local``: ``local`` is what the segment makes of a zero
state, ``decay`` the product of all ``a``. The same holds for ``max(a + h, b)`` and
``logaddexp(a + h, b)``, where decays add up and -inf is zero. So both can be found without the
state before the segment, for all segments at once.

A state that takes others (its decay, or a delay of an input in its write) needs these first: the
states fall into levels, each of which takes only those below.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from seqgen.ir.expr import Apply, Expr, Number, Ref, add, mul, references, substitute, walk
from seqgen.ir.printer import show
from seqgen.ir.recurrence import Assignment, Recurrence, State
from seqgen.passes.affine import Affine, NotAffineError, Term, product
from seqgen.passes.components import MOST_NODES, Program
from seqgen.passes.sharing import prune
from seqgen.passes.simplify import simplify

ZERO = {"add": 0.0, "last": 0.0, "max": float("-inf"), "logaddexp": float("-inf")}
"""The state of which nothing is left, by what joins it and the rest."""


@dataclass(frozen=True)
class Passage:
    """How a state passes through tokens.

    Attributes:
        state: the state.
        join: what makes one of the decayed state and the rest: "add", "max" or "logaddexp"; or
            "last", where nothing of the state is left after a token (a delay).
        decay: factor of the state at one token (summand where ``join`` is not "add"); None if
            all of it is left.
        total: name of the state, in a level's summary, that holds the decay of a whole segment;
            "" if there is no decay.
    """

    state: State
    join: str
    decay: Expr | None = None
    total: str = ""


@dataclass(frozen=True)
class Level:
    """States that are found together.

    Attributes:
        passages: one for each of them.
        summary: a recurrence without outputs over the tokens of a segment: of states of lower
            levels, which start as they are; of these, which start from zero; and of their decays.
    """

    passages: tuple[Passage, ...]
    summary: Recurrence


def split_time(recurrence: Recurrence) -> tuple[Level, ...] | None:
    """The levels of all states, lowest first; None if some state does not pass like that."""
    return _Split(recurrence).levels()


class _Split:
    def __init__(self, recurrence: Recurrence) -> None:
        self.recurrence = recurrence
        self.program = Program(recurrence)
        self.final = dict(recurrence.final)
        self.owner = {s.incoming: s.name for s in recurrence.states}
        self.read: dict[str, frozenset[str]] = {}
        self.taken = {a.name for a in recurrence.assignments} | set(self.owner)
        self.taken |= {t.name for t in recurrence.tensors} | {t.value for t in recurrence.tensors}
        self.taken |= {axis.name for axis in recurrence.axes} | set(self.final)

    def levels(self) -> tuple[Level, ...] | None:
        rec = self.recurrence
        found: list[Level] = []
        done: list[State] = []
        while len(done) < len(rec.states):
            known = {s.name for s in done}
            ready = [s for s in rec.states if s not in done and self.needs(s) <= known]
            passages = [self.passage(state) for state in ready]
            if not ready or None in passages:
                return None
            level = tuple(passage for passage in passages if passage is not None)
            found.append(Level(level, self.summary(done, level)))
            done += ready
        return tuple(found) or None

    # What a state takes -----------------------------------------------------------------------

    def needs(self, state: State) -> frozenset[str]:
        """Other states that its value after a token takes."""
        return self.states_of(self.final[state.name]) - {state.name}

    def states_of(self, value: str) -> frozenset[str]:
        """States whose incoming values ``value`` is made of."""
        if value in self.owner:
            return frozenset([self.owner[value]])
        if value not in self.read:
            definition = self.program.definitions.get(value)
            names = () if definition is None else references(definition)
            self.read[value] = frozenset().union(*(self.states_of(name) for name in names))
        return self.read[value]

    # How it passes ----------------------------------------------------------------------------

    def passage(self, state: State) -> Passage | None:
        final = self.final[state.name]
        if state.name not in self.states_of(final):
            return Passage(state, "last")
        value = self.written_out(Ref(final, state.axes), state)
        if value is None:
            return None
        join, decay = "add", self.factor(value, state)
        if decay is None and isinstance(value, Apply) and value.op in ZERO:
            inside = [arg for arg in value.args if state.incoming in references(arg)]
            if len(inside) == 1:
                join, decay = value.op, self.summand(inside[0], state)
        if decay is None:
            return None
        if decay == Number(1.0 if join == "add" else 0.0):
            return Passage(state, join)
        return Passage(state, join, decay, self.unique(f"{state.name}_decay"))

    def written_out(self, expr: Expr, state: State) -> Expr | None:
        """``expr`` without names for what depends on ``state``; None if that is too long."""
        while True:
            names = [name for name in references(expr) if name in self.program.definitions]
            names = [name for name in names if state.name in self.states_of(name)]
            if not names:
                return expr
            expr = substitute(expr, {name: self.program.definitions[name] for name in names})
            if sum(1 for _ in walk(expr)) > MOST_NODES:
                return None

    def terms(self, expr: Expr, state: State) -> tuple[Term, ...]:
        """The terms of ``expr`` that hold ``state``, all of them entry by entry."""
        affine = Affine(frozenset([state.incoming]), self.program.wide, may_bind=lambda *_: False)
        try:
            terms = affine.terms(expr)
        except NotAffineError:
            return ()
        own = tuple(term for term in terms if term.state is not None)
        plain = all(not (t.bound or t.weight or t.expand) for t in own)
        return own if plain and all(t.axes == state.axes for t in own) else ()

    def factor(self, expr: Expr, state: State) -> Expr | None:
        """What ``expr`` multiplies ``state`` by; None if it is not affine in it."""
        factors = [product(term.factors, term.number) for term in self.terms(expr, state)]
        if not factors or any(not set(f.axes) <= set(state.axes) for f in factors):
            return None
        total, *others = factors
        for other in others:
            total = add(total, other)
        return simplify(total)

    def summand(self, expr: Expr, state: State) -> Expr | None:
        """What ``expr`` adds to ``state``; None if it is no such sum."""
        if self.terms(expr, state) != (Term(state=state.incoming, axes=state.axes),):
            return None
        rest = _without(expr, state.incoming)
        return simplify(rest) if rest is not None and set(rest.axes) <= set(state.axes) else None

    # The summary of a level -------------------------------------------------------------------

    def summary(self, below: Iterable[State], level: tuple[Passage, ...]) -> Recurrence:
        rec = self.recurrence
        fresh = [replace(p.state, init=ZERO[p.join]) for p in level]
        states = {s.name: s for s in (*below, *fresh)}
        decays, made = [], []
        for p in level:
            if p.decay is not None:
                decays.append(State(p.total, p.state.axes, 1.0 if p.join == "add" else 0.0))
                join = mul if p.join == "add" else add
                value = join(p.decay, Ref(decays[-1].incoming, p.state.axes))
                text = show(value).replace(decays[-1].incoming, p.total)
                made.append(Assignment(p.total, value, f"{p.total} = {text}"))
        final = tuple((name, value) for name, value in rec.final if name in states)
        roots = {value for _, value in final} | {n for a in made for n in references(a.value)}
        needed = prune(list(rec.assignments), roots)
        used = roots | {n for a in needed for n in references(a.value)}
        kept = {a.name for a in needed}
        return replace(
            rec,
            inputs=tuple(t for t in rec.inputs if t.value in used),
            parameters=tuple(t for t in rec.parameters if t.value in used),
            states=(*(states[s.name] for s in rec.states if s.name in states), *decays),
            let=tuple(a for a in rec.let if a.name in kept),
            update=(*(a for a in rec.update if a.name in kept), *made),
            final=(*final, *((s.name, s.name) for s in decays)),
            outputs=(),
            require=None,
            micro=None,
        )

    def unique(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _without(expr: Expr, value: str) -> Expr | None:
    """``expr``, a sum that has ``value`` once for a summand, without it."""
    if isinstance(expr, Ref) and expr.name == value:
        return Number(0.0)
    if isinstance(expr, Apply) and expr.op in ("add", "sub"):
        first, second = expr.args
        if value in references(first):
            rest = _without(first, value)
            return None if rest is None else Apply(expr.op, (rest, second))
        rest = _without(second, value) if expr.op == "add" else None
        return None if rest is None else add(first, rest)
    return None
