"""Which axes of a recurrence may be split over programs, and which must stay together.

This is the question of the token-serial schedule: one program owns a slice of some axes and walks
over the tokens of a sequence. An axis can be split if nothing in the token program (``let``,
``update``, ``output``) mixes its entries: no reduction over it, no renaming, no pairing. Sequences
are always independent; time never is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from seqgen.ir.expr import Expr, GroupSum, Index, Pair, Pick, Reduce, Ref, Rename, references, walk
from seqgen.ir.recurrence import Assignment, Recurrence


@dataclass(frozen=True)
class AxisPlan:
    """The axes of a token program, each in exactly one of ``grid``, ``parents``, ``coupled``.

    Attributes:
        grid: axes that programs may split, in declaration order. A program owns a block of each
            (one entry or a tile, the schedule's choice). For a child axis (``groups_of``) a block
            must lie inside one group, so that every parent value is one entry per program.
        parents: (parent, child) for each axis that follows from a child in ``grid``: its index
            is ``child index // (child size // parent size)``. It has no blocks of its own.
        coupled: axes that every program holds whole, in declaration order.
        partial: (value name of a leaf, grid axes it lacks), for every tensor and incoming state
            that the program reads and that lacks some. Each program along these axes computes a
            part of the leaf's gradient; the parts are summed (for a child axis whose parent the
            leaf has: only over the children of one parent).
        once: (name of an output or state, grid axes it lacks). All programs along these axes
            compute the same value: any of them may store it. Its incoming gradient must enter
            the backward in one of them only (the first block; of each group for a child axis).
        reasons: (coupled axis, the expression that couples it).
    """

    grid: tuple[str, ...]
    coupled: tuple[str, ...]
    parents: tuple[tuple[str, str], ...] = ()
    partial: tuple[tuple[str, tuple[str, ...]], ...] = ()
    once: tuple[tuple[str, tuple[str, ...]], ...] = ()
    reasons: tuple[tuple[str, Expr | None], ...] = ()

    def missing(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Grid axes that a value with ``axes`` lacks."""
        return tuple(axis for axis in self.grid if axis not in axes)

    def __str__(self) -> str:
        lines = [
            f"grid: {', '.join(self.grid) or '-'}",
            f"coupled: {', '.join(self.coupled) or '-'}",
        ]
        lines += [f"{parent}: one entry per block of {child}" for parent, child in self.parents]
        lines += [f"d{name}: partial over {', '.join(axes)}" for name, axes in self.partial]
        lines += [f"{name}: the same along {', '.join(axes)}" for name, axes in self.once]
        return "\n".join(lines)


def live_assignments(recurrence: Recurrence) -> tuple[Assignment, ...]:
    """The assignments that an output or a final state needs, in order."""
    needed = {name for output in recurrence.outputs for name in references(output.value)}
    needed |= {value for _, value in recurrence.final}
    kept = []
    for assignment in reversed(recurrence.assignments):
        if assignment.name in needed:
            needed.update(references(assignment.value))
            kept.append(assignment)
    return tuple(reversed(kept))


def program_values(recurrence: Recurrence) -> Iterator[Expr]:
    """Every expression that one token evaluates."""
    for assignment in live_assignments(recurrence):
        yield assignment.value
    for output in recurrence.outputs:
        yield output.value


def _mixed_axes(node: Expr) -> tuple[str, ...]:
    """Axes whose entries ``node`` brings together."""
    if isinstance(node, Reduce):
        return (node.axis,)
    if isinstance(node, Rename):
        return (node.old, node.new)
    if isinstance(node, Pick | Pair):
        return (node.axis, node.half)
    if isinstance(node, GroupSum):
        return (node.child,)
    return ()


def split_axes(recurrence: Recurrence) -> AxisPlan:
    """The largest grid that needs no communication between programs in the forward.

    A group is one family of axes: a reduction over a child or a parent makes all of them coupled,
    as does a second child in the same program (a block of one child does not fix the block of
    the other).
    """
    values = list(program_values(recurrence))
    nodes = [node for value in values for node in walk(value)]
    leaves = {node.name for node in nodes if isinstance(node, Ref)}
    used = {axis for node in nodes for axis in node.axes}
    used |= {node.axis for node in nodes if isinstance(node, Index)}
    for state in recurrence.states:
        used.update(state.axes)
    for output in recurrence.outputs:
        used.update(output.axes)

    reasons: dict[str, Expr | None] = {}
    for node in nodes:
        for axis in _mixed_axes(node):
            reasons.setdefault(axis, node)
    for declared in recurrence.axes:
        if declared.fixed and declared.name in used:
            reasons.setdefault(declared.name, None)
    for declared in recurrence.axes:
        children = [a.name for a in recurrence.axes if a.parent == declared.name]
        children = [name for name in children if name in used]
        family = [declared.name, *children]
        cause = next((reasons[name] for name in family if name in reasons), None)
        if len(children) > 1 or any(name in reasons for name in family):
            for name in family:
                if name in used and children:
                    reasons.setdefault(name, cause)

    names = tuple(axis.name for axis in recurrence.axes if axis.name in used)
    free = tuple(name for name in names if name not in reasons)
    parents = {
        axis.parent: axis.name
        for axis in recurrence.axes
        if axis.name in free and axis.parent is not None
    }
    plan = AxisPlan(
        grid=tuple(name for name in free if name not in parents),
        coupled=tuple(name for name in names if name in reasons),
        parents=tuple(parents.items()),
        reasons=tuple((name, reasons[name]) for name in names if name in reasons),
    )
    partial, once = [], []
    for leaf in recurrence.leaves():
        if leaf.name in leaves and (missing := plan.missing(leaf.axes)):
            partial.append((leaf.name, missing))
    results = [(output.name, output.axes) for output in recurrence.outputs]
    results += [(state.name, state.axes) for state in recurrence.states]
    for name, axes in results:
        if missing := plan.missing(axes):
            once.append((name, missing))
    return AxisPlan(
        plan.grid, plan.coupled, plan.parents, tuple(partial), tuple(once), plan.reasons
    )
