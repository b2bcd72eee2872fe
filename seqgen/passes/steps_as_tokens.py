"""Repeat blocks the other way round: each micro-step becomes a token of its own.

Chunkwise schedules know one step per token. A token with R micro-steps is R such tokens: tensors
with the repeat axis have one row for each, the others repeat theirs, and what stands before or
behind the block happens at the first or the last of them only.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from seqgen.errors import SpecError
from seqgen.ir.recurrence import MicroSteps, Recurrence
from seqgen.spec.expressions import parse_expression
from seqgen.spec.model import Assign, Expression, Repeat, Spec, TensorDecl


@dataclass(frozen=True)
class StepSpec:
    """A spec with one micro-step per token, the repeat axis it lost, and its flags."""

    spec: Spec
    axis: str
    flags: tuple[tuple[str, int], ...]


def with_micro_steps(
    recurrence: Recurrence, spec: Spec, lower: Callable[[Spec], Recurrence]
) -> Recurrence:
    """``recurrence``, lowered from ``spec``, with its ``micro`` where it can have one."""
    try:
        found = steps_as_tokens(spec)
        if found is None:
            return recurrence
        steps = lower(found.spec)
    except SpecError:  # the repeat axis has a use that a single micro-step cannot have
        return recurrence
    count = recurrence.axis(found.axis).size
    micro = MicroSteps(steps, count, found.axis, found.flags)
    return replace(recurrence, micro=micro)


def steps_as_tokens(spec: Spec) -> StepSpec | None:
    """``spec`` with a token for each micro-step; None where that would mean something else."""
    blocks = [item for item in spec.update if isinstance(item, Repeat)]
    if len(blocks) != 1 or any(map(_looks_back, _expressions(spec))):
        return None
    (block,) = blocks
    at = spec.update.index(block)
    before = [item for item in spec.update[:at] if isinstance(item, Assign)]
    behind = [item for item in spec.update[at + 1 :] if isinstance(item, Assign)]
    states = {state.name for state in spec.states}
    locals_ = [a for a in (*before, *behind) if a.target not in states]
    if any(states & _names(a.value) for a in locals_):
        return None  # a local of the state as it is before or behind the block
    first, last = _free("first_step", spec), _free("last_step", spec)

    def only_at(flag: str, assign: Assign) -> Assign:
        if assign.target not in states:
            return assign
        text = f"where({flag} > 0, {assign.value.text}, {assign.target})"
        return replace(assign, value=parse_expression(text, assign.value.span))

    flags = [(n, at) for n, at, items in ((first, 0, before), (last, -1, behind)) if items]
    flag_inputs = [TensorDecl(n, (), spec.span, "input", "float32", (0.0, 1.0)) for n, _ in flags]
    inputs = [replace(t, axes=tuple(a for a in t.axes if a != block.axis)) for t in spec.inputs]
    update = (
        *(only_at(first, item) for item in before),
        *block.body,
        *(only_at(last, item) for item in behind),
    )
    steps = replace(
        spec,
        axes=tuple(axis for axis in spec.axes if axis.name != block.axis),
        inputs=(*inputs, *flag_inputs),
        update=update,
    )
    return StepSpec(steps, block.axis, tuple(flags))


def _expressions(spec: Spec) -> Iterable[Expression]:
    yield from (assign.value for assign in spec.let)
    for item in spec.update:
        body = item.body if isinstance(item, Repeat) else (item,)
        yield from (assign.value for assign in body)
    yield from (output.value for output in spec.outputs)


def _looks_back(expression: Expression) -> bool:
    """Whether it asks for another token: that would be another micro-step here."""
    return bool(_names(expression) & {"prev", "position"})


def _names(expression: Expression) -> set[str]:
    return {node.id for node in ast.walk(expression.tree) if isinstance(node, ast.Name)}


def _free(name: str, spec: Spec) -> str:
    taken = {t.name for t in (*spec.inputs, *spec.parameters)}
    taken |= {state.name for state in spec.states} | {axis.name for axis in spec.axes}
    taken |= set().union(*map(_names, _expressions(spec)))
    while name in taken:
        name += "_"
    return name
