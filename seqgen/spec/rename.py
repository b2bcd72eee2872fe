"""A spec with other names: the same operator, word for word replaced."""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass, replace

from seqgen.errors import Span
from seqgen.spec.model import Assign, AxisDecl, Expression, Repeat, Spec, StateDecl, TensorDecl


@dataclass(frozen=True)
class StandIn:
    """A name of the user's, where it was declared, and the word that stands for it."""

    word: str
    name: str
    what: str
    span: Span


def stand_ins(spec: Spec) -> tuple[StandIn, ...]:
    """One unmistakable word for each name of ``spec``.

    Outputs have words of their own, also where a state-free value has the same name.
    """
    declared: dict[str, tuple[str, Span]] = {axis.name: ("axis", axis.span) for axis in spec.axes}
    for tensor in (*spec.inputs, *spec.parameters):
        declared[tensor.name] = (tensor.kind, tensor.span)
    for state in spec.states:
        declared[state.name] = ("state", state.span)
    for assign in _assignments(spec):
        declared.setdefault(assign.target, ("name", assign.span))
    found = [(name, what, span) for name, (what, span) in declared.items()]
    found += [(output.name, "output", output.span) for output in spec.outputs]
    found += [(spec.operator, "operator", spec.span)]
    return tuple(StandIn(f"zz{i}zz", *entry) for i, entry in enumerate(found))


def with_stand_ins(spec: Spec, words: tuple[StandIn, ...]) -> Spec:
    """``spec`` in which every name is replaced by its stand-in."""
    names = {w.name: w.word for w in words if w.what not in ("output", "operator")}
    results = {w.name: w.word for w in words if w.what == "output"}
    operator = next(w.word for w in words if w.what == "operator")

    def tensor(decl: TensorDecl) -> TensorDecl:
        return replace(decl, name=names[decl.name], axes=_all(decl.axes, names))

    def assign(item: Assign) -> Assign:
        return replace(item, target=names[item.target], value=_expression(item.value, names))

    def statement(item: Assign | Repeat) -> Assign | Repeat:
        if isinstance(item, Assign):
            return assign(item)
        return replace(item, axis=names[item.axis], body=tuple(map(assign, item.body)))

    return replace(
        spec,
        operator=operator,
        axes=tuple(_axis(axis, names) for axis in spec.axes),
        inputs=tuple(map(tensor, spec.inputs)),
        parameters=tuple(map(tensor, spec.parameters)),
        states=tuple(_state(state, names) for state in spec.states),
        let=tuple(map(assign, spec.let)),
        update=tuple(map(statement, spec.update)),
        outputs=tuple(
            replace(
                output,
                name=results[output.name],
                value=_expression(output.value, names),
                axes=None if output.axes is None else _all(output.axes, names),
            )
            for output in spec.outputs
        ),
    )


def _assignments(spec: Spec) -> list[Assign]:
    body = [a for i in spec.update for a in (i.body if isinstance(i, Repeat) else (i,))]
    return [*spec.let, *body]


def _all(axes: tuple[str, ...], names: dict[str, str]) -> tuple[str, ...]:
    return tuple(names[axis] for axis in axes)


def _state(state: StateDecl, names: dict[str, str]) -> StateDecl:
    return replace(state, name=names[state.name], axes=_all(state.axes, names))


def _axis(axis: AxisDecl, names: dict[str, str]) -> AxisDecl:
    return replace(
        axis,
        name=names[axis.name],
        groups_of=names[axis.groups_of] if axis.groups_of else None,
        same_as=names[axis.same_as] if axis.same_as else None,
        derived=_expression(axis.derived, names) if axis.derived else None,
    )


def _expression(expression: Expression, names: dict[str, str]) -> Expression:
    tree = copy.deepcopy(expression.tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.keyword) and node.arg in names:  # rename(x, OLD=NEW)
            node.arg = names[node.arg]
    return replace(expression, text=ast.unparse(tree), tree=tree)
