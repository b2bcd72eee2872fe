"""Which states depend on each other: components, in the order in which they can be computed.

Delay states and ``position`` are inputs here. A component may use the states of earlier ones as
values per token if what it takes is no larger than a tensor of the operator (a vector state, or a
contraction of a matrix state); taking a whole matrix state joins the components.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from seqgen.ir.expr import Expr, Ref, references, substitute, walk
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.affine import NotAffineError

MOST_NODES = 4000  # of an expression after inlining


@dataclass
class Program:
    """A recurrence indexed for analysis: who defines what, and which value belongs to a state."""

    recurrence: Recurrence
    definitions: dict[str, Expr] = field(init=False)
    versions: dict[str, tuple[str, ...]] = field(init=False)
    """State -> names of the values it takes: incoming, intermediate ones, final."""
    owner: dict[str, str] = field(init=False)
    """Value name -> state, the reverse of ``versions``."""

    def __post_init__(self) -> None:
        rec = self.recurrence
        self.definitions = {a.name: a.value for a in rec.assignments}
        final = dict(rec.final)
        targets = [a.name for a in rec.update]
        self.versions = {}
        for state in rec.states:
            if not state.delay:
                count = 1
                names = [state.incoming]
                while f"{state.name}_{count}" in targets:
                    names.append(f"{state.name}_{count}")
                    count += 1
                self.versions[state.name] = (*names, final[state.name])
        self.owner = {name: state for state, names in self.versions.items() for name in names}
        self._reads: dict[str, frozenset[str]] = {}
        axes_of = {a.name: a.parent or a.name for a in rec.axes}
        self._parent = axes_of
        self._sizes = [frozenset(axes_of[x] for x in t.axes) for t in rec.tensors]

    def states_read(self, name: str) -> frozenset[str]:
        """States that the value ``name`` takes directly, or through locals."""
        if name in self.owner:
            return frozenset([self.owner[name]])
        if name not in self._reads:
            self._reads[name] = self.states_in(self.definitions.get(name))
        return self._reads[name]

    def states_in(self, expr: Expr | None) -> frozenset[str]:
        """States that ``expr`` reads, directly or through locals."""
        found: set[str] = set()
        for name in references(expr) if expr is not None else ():
            found |= self.states_read(name)
        return frozenset(found)

    def in_user_names(self, text: str) -> str:
        """``text`` with the name of the state for each of its values: no spec has such names."""
        return re.sub(r"\b\w+\b", lambda word: self.owner.get(word[0], word[0]), text)

    def feeds(self, name: str, states: frozenset[str]) -> bool:
        """Whether the update of one of ``states`` takes the value ``name``."""
        todo = [version for state in states for version in self.versions[state][1:]]
        seen = set(todo)
        while todo:
            for other in references(self.definitions[todo.pop()]):
                if other in self.definitions and other not in seen:
                    seen.add(other)
                    todo.append(other)
        return name in seen

    def wide(self, expr: Expr) -> bool:
        """Whether a value is larger than every tensor of the operator."""
        axes = {self._parent[axis] for axis in expr.axes}
        return len(axes) > 1 and not any(axes <= tensor for tensor in self._sizes)

    def inline(self, expr: Expr, states: frozenset[str], stop: frozenset[str]) -> Expr:
        """``expr`` with locals that depend on ``states`` (and wide lets) written out.

        Values in ``stop`` are kept. Raises NotAffineError where the result grows too large.
        """
        for _ in range(1000):
            values = {
                name: self.definitions[name]
                for node in walk(expr)
                if isinstance(node, Ref)
                for name in [node.name]
                if name in self.definitions
                and name not in stop
                and (self._depends(name, states) or self._is_wide_local(node))
            }
            if not values:
                return expr
            expr = substitute(expr, values)
            if sum(1 for _ in walk(expr)) > MOST_NODES:
                raise NotAffineError("its equations, written out, are too long")
        raise AssertionError("assignments are in order, so this ends")

    def _is_wide_local(self, node: Ref) -> bool:
        return node.name not in self.owner and self.wide(node)

    def _depends(self, name: str, states: frozenset[str]) -> bool:
        if name in self.owner:
            return self.owner[name] in states
        return not states.isdisjoint(self.states_read(name))


def find_components(program: Program) -> tuple[tuple[str, ...], ...]:
    """States in components, each after all that it depends on; declaration order inside."""
    states = list(program.versions)
    reads = {state: _dependencies(program, state) for state in states}
    while True:
        components = _strongly_connected(states, reads)
        merged = _whole_reads(program, components)
        if not merged:
            return components
        for a, b in merged:  # an edge back makes one component of the two
            reads[a] |= {b}
            reads[b] |= {a}


def _dependencies(program: Program, state: str) -> frozenset[str]:
    found: set[str] = set()
    for version in program.versions[state][1:]:
        found |= program.states_in(program.definitions[version])
    return frozenset(found - {state})


def _strongly_connected(
    states: list[str], reads: dict[str, frozenset[str]]
) -> tuple[tuple[str, ...], ...]:
    reach: dict[str, set[str]] = {}
    for state in states:
        seen, todo = set(), [state]
        while todo:
            for other in reads[todo.pop()]:
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        reach[state] = seen
    components: list[tuple[str, ...]] = []
    done: set[str] = set()
    while len(done) < len(states):
        for state in states:
            group = {state} | {o for o in reach[state] if state in reach[o]}
            if state not in done and reach[state] - group <= done:
                components.append(tuple(s for s in states if s in group))
                done |= group
                break
    return tuple(components)


def _whole_reads(
    program: Program, components: tuple[tuple[str, ...], ...]
) -> list[tuple[str, str]]:
    """(state, earlier state) where the update takes the whole, large value of the earlier one."""
    found: list[tuple[str, str]] = []
    for component in components:
        own = frozenset(component)

        def visit(expr: Expr, state: str, own: frozenset[str] = own) -> None:
            touched = program.states_in(expr)
            if touched <= own or (not touched & own and not program.wide(expr)):
                return
            if isinstance(expr, Ref):
                owner = program.owner.get(expr.name)
                if owner is not None and owner not in own and program.wide(expr):
                    found.append((state, owner))
                elif owner is None and expr.name in program.definitions:
                    visit(program.definitions[expr.name], state, own)
            for child in expr.children:
                visit(child, state, own)

        for state in component:
            for version in program.versions[state][1:]:
                visit(program.definitions[version], state)
    return found
