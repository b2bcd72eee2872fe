"""A recurrence cut in two: what later states take of earlier ones becomes their input.

States that depend on each other in one direction can run one after the other: the front computes
the earlier ones for all tokens, and the rest takes what it needs of them like any tensor. A stage
of its own may have a chunkwise schedule where the whole has none.

The cut goes where little crosses. Of every expression that the rest needs and that reads earlier
states, either its value crosses or, if these are smaller, what its operands need. A value that the
rest can make of another one as small (an exponential, a negation) stays with the rest: decays so
cross as their logarithms, and keep them exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from seqgen.ir.expr import Apply, Expand, Expr, IfPresent, Number, Ref, references, walk
from seqgen.ir.recurrence import Assignment, Output, Recurrence, Tensor
from seqgen.passes.components import Program
from seqgen.passes.ranges import ANY, bounds
from seqgen.passes.sharing import prune
from seqgen.passes.structure import Component, Structure

REPEATED = {"exp": "log_", "sigmoid": "logit_", "neg": "minus_", "sub": "less_"}
"""Operations that the rest repeats, ``sub`` of a number; what a named value's operand is called."""


class NotStagedError(Exception):
    """There are other states, but no useful cut; ``str`` is the reason."""


@dataclass(frozen=True)
class Stages:
    """A recurrence as two.

    Attributes:
        front: the earlier states; its outputs are ``crossing`` and those of the whole that need
            no later state. One that crosses as it is has its own name.
        rest: the later states, with ``crossing`` among its inputs.
        crossing: what the front gives to the rest, in the order of the front's outputs.
        exact: whether a gate is made of what the front reads of a matrix: products of rounded
            operands are not enough for that.
    """

    front: Recurrence
    rest: Recurrence
    crossing: tuple[Tensor, ...]
    exact: bool


def cut_stages(recurrence: Recurrence, structure: Structure, bare: bool = False) -> Stages | None:
    """``recurrence`` cut before its last matrix state; None if that has no others before it.

    Args:
        recurrence: the operator.
        structure: what it is made of.
        bare: whether reads of earlier matrices cross as they are: the rest makes of them what it
            needs, and the front has no more to do than a chunkwise schedule can.

    Raises:
        NotStagedError: the other states need that one, or nothing is gained.
    """
    matrices = [c for c in structure.components if c.form is not None and c.form.value_axes]
    if not matrices:
        return None
    last = matrices[-1]
    fused = next((group for group in structure.fused if last.states[0] in group), last.states)
    alone = [c for c in matrices if c is not last and c.states[0] in fused]
    earlier = frozenset(c.states[0] for c in matrices[:-1])
    cut = _Cut(recurrence, last, frozenset(last.states if alone else fused), earlier, bare)
    return cut.stages() if cut.front else None


@dataclass
class _Cut:
    recurrence: Recurrence
    component: Component
    rest: frozenset[str]
    matrices: frozenset[str]
    """Those of the front."""
    bare: bool
    """Whether reads of them cross as they are."""
    exact: bool = False
    crossing: dict[Expr, Tensor] = field(default_factory=dict)
    values: dict[str, Expr] = field(default_factory=dict)
    """What the rest's assignments have become."""
    made: list[Assignment] = field(default_factory=list)
    """What the rest makes of bare reads, under a name: roles are products of named values."""
    costs: dict[str, float] = field(default_factory=dict)
    """Entries that cross if the rest computes a named value itself."""

    def __post_init__(self) -> None:
        rec = self.recurrence
        self.program = Program(rec)
        self.definitions = self.program.definitions
        self.owner = dict(self.program.owner)
        self.owner |= {state.incoming: state.name for state in rec.states if state.delay}
        self.sizes = {axis.name: axis.size for axis in rec.axes}
        self.read: dict[str, frozenset[str]] = {}
        self.front = frozenset(s.name for s in rec.states) - self.rest
        form = self.component.form
        assert form is not None
        self.heads = form.head_axes
        self.inner = frozenset((*form.key_axes, *form.value_axes))
        self.decay = frozenset(part for s in form.steps for part in self.spread(s.decay.factor))
        self.taken = {t.name for t in rec.tensors} | {t.value for t in rec.tensors}
        self.taken |= set(self.definitions) | set(self.owner) | set(self.sizes)
        self.taken |= {output.name for output in rec.outputs}

    def spread(self, expr: Expr | None) -> Iterable[Expr]:
        """All parts of ``expr``, and of the values that it names."""
        for node in () if expr is None else walk(expr):
            yield node
            if isinstance(node, Ref) and node.name in self.locals:
                yield from self.spread(self.definitions[node.name])

    @property
    def locals(self) -> frozenset[str]:
        """Names of assignments that are no state's value."""
        return frozenset(self.definitions) - frozenset(self.owner)

    def states_in(self, expr: Expr) -> frozenset[str]:
        """States that ``expr`` reads, directly or through locals; delays are states here."""
        return frozenset().union(*(self.states_of(name) for name in references(expr)))

    def states_of(self, name: str) -> frozenset[str]:
        if name in self.owner:
            return frozenset([self.owner[name]])
        if name not in self.read:
            value = self.definitions.get(name)
            self.read[name] = frozenset() if value is None else self.states_in(value)
        return self.read[name]

    # Both stages ------------------------------------------------------------------------------

    def stages(self) -> Stages:
        rec = self.recurrence
        for state in sorted(self.front):
            for version in self.program.versions.get(state, ("",))[1:]:
                if self.states_in(self.definitions[version]) & self.rest:
                    raise NotStagedError(f"{state} depends on {' and '.join(sorted(self.rest))}")
        finals = {name: value for name, value in rec.final if name in self.rest}
        for value in finals.values():
            self.define(value)
        late = tuple(o for o in rec.outputs if self.states_in(o.value) & self.rest)
        late = tuple(replace(o, value=self.cut(o.value)) for o in late)
        early = tuple(o for o in rec.outputs if not self.states_in(o.value) & self.rest)
        given = [Output(t.name, t.axes, e, t.dtype) for e, t in self.crossing.items()]
        early = tuple(o for o in early if o not in given)
        tensors = tuple(self.crossing.values())
        front = self.stage(rec.assignments, self.front, (*given, *early))
        values = {a.name: self.values.get(a.name, a.value) for a in rec.assignments}
        rewritten = [replace(a, value=values[a.name]) for a in rec.assignments]
        plain = [a for a in rewritten if not self.states_of(a.name) & self.rest]
        own = [a for a in rewritten if self.states_of(a.name) & self.rest]
        rest = self.stage([*plain, *self.made, *own], self.rest, late, tensors)
        for stage, which in ((front, "earlier"), (rest, "later")):
            io = [t for t in stage.inputs if t.required and t not in tensors]
            if not any(t.dtype is None for t in io) and (stage is rest or not io):
                raise NotStagedError(f"the {which} ones take no tensor of their own")
        return Stages(front, rest, tensors, self.exact)

    def stage(
        self,
        assignments: Iterable[Assignment],
        states: frozenset[str],
        outputs: tuple[Output, ...],
        more: tuple[Tensor, ...] = (),
    ) -> Recurrence:
        """The recurrence of ``states`` and ``outputs``; ``more`` are further inputs."""
        rec = self.recurrence
        finals = tuple((name, value) for name, value in rec.final if name in states)
        roots = {value for _, value in finals}
        roots |= {name for output in outputs for name in references(output.value)}
        needed = prune(list(assignments), roots)
        values = [*(a.value for a in needed), *(output.value for output in outputs)]
        used = roots | {name for value in values for name in references(value)}
        asked = {n.name for value in values for n in walk(value) if isinstance(n, IfPresent)}

        def takes(tensor: Tensor) -> bool:
            return tensor.value in used or tensor.name in asked

        late = {a.name for a in rec.update}

        def updates(a: Assignment) -> bool:
            """Whether ``a`` reads one of the states; what does not is a ``let``."""
            own = self.owner.get(a.name) in states
            return own or (a.name in late and bool(self.states_of(a.name) & states))

        return replace(
            rec,
            inputs=(*filter(takes, rec.inputs), *more),
            parameters=tuple(filter(takes, rec.parameters)),
            states=tuple(state for state in rec.states if state.name in states),
            let=tuple(a for a in needed if not updates(a)),
            update=tuple(a for a in needed if updates(a)),
            final=finals,
            outputs=outputs,
            require=None,
            micro=None,
        )

    # The cut ----------------------------------------------------------------------------------

    def define(self, name: str) -> None:
        """Rewrites the assignment ``name``, of which the rest needs the value."""
        if name not in self.values:
            late = bool(self.states_of(name) & self.rest)
            self.values[name] = self.cut(self.definitions[name], late)

    def cut(self, expr: Expr, late: bool = True) -> Expr:
        """``expr`` as the rest computes it; ``late`` where it stands beside the rest's state."""
        states = self.states_in(expr)
        if not states:
            return expr
        if states & self.rest:
            return self.inside(expr, late)
        if self.bare and states & self.matrices and not math.isinf(self.parts(expr)):
            return self.make(expr) if late else self.inside(expr, late)
        return self.cross(expr, "") if self.crosses(expr) else self.inside(expr, late)

    def make(self, expr: Expr) -> Expr:
        """The name under which the rest has ``expr``, which it computes from bare reads."""
        value = self.inside(expr, False)
        if isinstance(value, Ref):
            return value
        self.made.append(Assignment(self.unique(""), value))
        return Ref(self.made[-1].name, expr.axes)

    def inside(self, expr: Expr, late: bool) -> Expr:
        if isinstance(expr, Ref):
            if expr.name in self.definitions and self.states_of(expr.name):
                self.define(expr.name)
            return expr
        return expr.with_children(tuple(self.cut(child, late) for child in expr.children))

    def crosses(self, expr: Expr) -> bool:
        """Whether the value of ``expr``, which reads earlier states only, crosses as a whole."""
        whole, parts = self.size(expr), self.parts(expr)
        if isinstance(expr, Expand) and expr.child in self.heads:
            return False
        if isinstance(expr, Apply) and expr.op == "mul":
            return whole < parts
        return whole <= parts

    def cost(self, expr: Expr) -> float:
        """Entries per token that cross for ``expr``."""
        if not self.states_in(expr):
            return 0
        return min(self.size(expr), self.parts(expr))

    def size(self, expr: Expr) -> float:
        entries = math.prod(self.sizes[axis] for axis in expr.axes)
        return math.inf if self.program.wide(expr) else entries

    def parts(self, expr: Expr) -> float:
        """Entries that cross if the rest computes ``expr`` itself."""
        if isinstance(expr, Ref):
            if expr.name not in self.costs:
                local = expr.name in self.locals
                cost = self.parts(self.definitions[expr.name]) if local else math.inf
                self.costs[expr.name] = cost
            return self.costs[expr.name]
        return sum(self.cost(child) for child in dict.fromkeys(expr.children))

    def cross(self, expr: Expr, name: str) -> Expr:
        """What the rest has in place of ``expr``: the value that crosses, or its equal."""
        meaning = expr
        if isinstance(expr, Ref):
            name = expr.name
            meaning = self.definitions[name] if name in self.locals else expr
        small = not self.inner & set(expr.axes)
        gate = expr in self.decay or (small and isinstance(meaning, Apply))
        if gate and isinstance(meaning, Apply) and meaning.op in REPEATED:
            *numbers, operand = meaning.args
            if all(isinstance(number, Number) for number in numbers):
                inner = self.cross(operand, f"{REPEATED[meaning.op]}{name}" if name else "")
                return meaning.with_children((*numbers, inner))
        if math.isinf(self.size(expr)):
            states = " and ".join(sorted(self.states_in(expr)))
            raise NotStagedError(f"the whole of {states} is taken")
        if expr not in self.crossing:
            exact = small or expr in self.decay
            self.exact |= exact and bool(self.states_in(expr) & self.matrices)
            # What is computed is not rounded before it enters a product; copies need no more.
            dtype = None if isinstance(meaning, Ref) and not exact else "float32"
            axes = self.layout(expr.axes)
            outputs = self.recurrence.outputs
            same = (o.name for o in outputs if o == Output(o.name, axes, expr, dtype))
            own = next(same, "") or self.unique(name)
            found = bounds(expr, self.recurrence)
            limits = None if found == ANY else found
            self.crossing[expr] = Tensor(own, axes, "input", own, dtype, limits)
        tensor = self.crossing[expr]
        return Ref(tensor.value, tensor.axes)

    def unique(self, name: str) -> str:
        """A name for a value that crosses, from the user's for it or none."""
        count = 1
        while not name and f"front_{count}" in self.taken:
            count += 1
        found = f"front_{name or count}"
        while found in self.taken:
            found += "_"
        self.taken.add(found)
        return found

    def layout(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Axes in the order of the first state or input that has them all."""
        rec = self.recurrence
        for own in [*(s.axes for s in rec.states), *(t.axes for t in rec.inputs)]:
            if set(axes) <= set(own):
                return tuple(axis for axis in own if axis in axes)
        return rec.order(axes)
