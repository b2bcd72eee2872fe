"""Straight-line programs: names for what is used twice, none for what is not used.

A program is a sequence of assignments, each reading earlier ones. ``share`` names repeated
sub-expressions, ``inline`` puts single uses back in place, ``prune`` drops what nobody reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from seqgen.ir.expr import (
    Apply,
    Detach,
    Expand,
    Expr,
    IfPresent,
    Index,
    Number,
    Pick,
    Ref,
    Rename,
    Size,
    references,
    substitute,
    walk,
)
from seqgen.ir.recurrence import Assignment

Fresh = Callable[[], str]


def fresh_names(taken: Iterable[str]) -> Fresh:
    """A source of ``arg1``, ``arg2``, ... (names that no spec may use) that avoids ``taken``."""
    used = set(taken)
    count = 0

    def fresh() -> str:
        nonlocal count
        count += 1
        while f"arg{count}" in used:
            count += 1
        used.add(f"arg{count}")
        return f"arg{count}"

    return fresh


def is_cheap(expr: Expr) -> bool:
    """Whether repeating ``expr`` costs nothing worth a name: an atom, or another view of one."""
    if isinstance(expr, Ref | Number | Size | Index):
        return True
    if isinstance(expr, Rename | Expand | Pick | Detach):
        return is_cheap(expr.children[0])
    if isinstance(expr, Apply) and expr.op == "neg":
        return is_cheap(expr.args[0])
    return all(isinstance(node, Number | Size | Apply) for node in walk(expr))


def prune(assignments: Sequence[Assignment], roots: Iterable[str]) -> tuple[Assignment, ...]:
    """The assignments that the values named ``roots`` need, in order."""
    needed = set(roots)
    kept: list[Assignment] = []
    for assignment in reversed(assignments):
        if assignment.name in needed:
            needed.update(references(assignment.value))
            kept.append(assignment)
    return tuple(reversed(kept))


def inline(
    assignments: Sequence[Assignment], keep: Iterable[str], named: Iterable[str] = ()
) -> tuple[Assignment, ...]:
    """Cheap values go everywhere, and values used once to their use.

    Args:
        assignments: the program. The order of evaluation may change: it has no side effects.
        keep: names that stay.
        named: names that stay unless their values are cheap.
    """
    kept, visible = set(keep), set(named)
    uses = Counter(n.name for a in assignments for n in walk(a.value) if isinstance(n, Ref))
    values: dict[str, Expr] = {}
    result = []
    for assignment in assignments:
        name, value = assignment.name, substitute(assignment.value, values)
        once = uses[name] < 2 and name not in visible
        if name not in kept and (once or is_cheap(value)):
            values[name] = value
        else:
            result.append(replace(assignment, value=value))
    return tuple(result)


class _Node:
    """One distinct sub-expression of a program."""

    __slots__ = ("children", "expr", "guards", "uses")

    def __init__(self, expr: Expr, children: tuple[_Node, ...], guards: frozenset[str]) -> None:
        self.expr = expr
        self.children = children
        self.guards = guards
        self.uses = 0


def share(assignments: Sequence[Assignment], fresh: Fresh) -> tuple[Assignment, ...]:
    """The same program, with a name for every costly sub-expression that it has twice.

    A sub-expression that occurs only where an optional tensor is present is guarded: its
    assignment reads ``IfPresent(tensor, value, 0)``.
    """
    nodes: dict[object, _Node] = {}

    def intern(expr: Expr, guards: frozenset[str]) -> _Node:
        inner = [guards] * len(expr.children)
        if isinstance(expr, IfPresent):
            inner[0] = guards | {expr.name}
        children = tuple(map(intern, expr.children, inner))
        # Children are compared by identity: the hash of a whole tree would be slow.
        own = expr.with_children((Number(0.0),) * len(children)) if children else expr
        key = (type(expr), _own(own), tuple(map(id, children)))
        node = nodes.get(key)
        if node is None:
            node = nodes[key] = _Node(expr, children, guards)
            for child in children:
                child.uses += 1
        node.guards &= guards
        return node

    roots = [intern(a.value, frozenset()) for a in assignments]
    for root in roots:
        root.uses += 1
    names: dict[int, Ref] = {}
    done: dict[int, Expr] = {}
    result: list[Assignment] = []

    def build(node: _Node) -> Expr:
        if id(node) in names:
            return names[id(node)]
        if id(node) in done:
            return done[id(node)]
        children = tuple(map(build, node.children))
        expr = node.expr.with_children(children) if children else node.expr
        if node.uses > 1 and not is_cheap(node.expr):
            name = fresh()
            result.append(Assignment(name, _guarded(expr, node.guards)))
            expr = names[id(node)] = Ref(name, node.expr.axes)
        done[id(node)] = expr
        return expr

    for assignment, root in zip(assignments, roots, strict=True):
        if id(root) in names or root.uses == 1 or is_cheap(root.expr):
            result.append(replace(assignment, value=build(root)))
            continue
        # The whole value is needed again: its own name serves.
        children = tuple(map(build, root.children))
        result.append(replace(assignment, value=root.expr.with_children(children)))
        names[id(root)] = Ref(assignment.name, root.expr.axes)
    return tuple(result)


def _own(expr: Expr) -> object:
    """What distinguishes a node from others of its type, apart from its operands."""
    return tuple(getattr(expr, name) for name in expr.__dataclass_fields__)  # type: ignore[attr-defined]


def _guarded(value: Expr, guards: Iterable[str]) -> Expr:
    for name in sorted(guards):
        value = IfPresent(name, value, Number(0.0))
    return value
