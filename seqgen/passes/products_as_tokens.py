"""Several products as tokens: each product that a token writes becomes a token of its own.

Chunkwise schedules know one product per token. ``S = D * S + k1 * v1 + k2 * v2`` is two tokens of
``S = D * S + k * v``, the second without a decay: keys and values are those of the product whose
flag is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from seqgen.ir.expr import Expr, Number, Ref, add, call, mul, references
from seqgen.ir.recurrence import Assignment, MicroSteps, Recurrence, Tensor
from seqgen.passes.affine import factors_of, product
from seqgen.passes.components import Program
from seqgen.passes.normal_form import Step
from seqgen.passes.structure import Structure


def products_as_tokens(recurrence: Recurrence, structure: Structure) -> MicroSteps | None:
    """``recurrence`` with a token for each product.

    None if there is one product only, or if something has to know the tokens: ``prev``,
    ``position``, what reads a state before the token's update. States that depend on each other
    belong to stages of their own first.
    """
    forms = [component.form for component in structure.components]
    steps = [form.steps[0] for form in forms if form is not None and len(form.steps) == 1]
    counts = {len(step.writes) for step in steps}
    coupled = any(component.uses for component in structure.components)
    if structure.family != "linear" or len(steps) < len(recurrence.states) or coupled:
        return None
    if len(counts) > 1 or counts == {1}:
        return None
    (count,) = counts
    program = Program(recurrence)
    names = _free_names(recurrence, count - 1)
    flags = [Ref(name, ()) for name in names]
    final = {value: state for state, value in recurrence.final}
    step_of = {c.states[0]: step for c, step in zip(structure.components, steps, strict=True)}
    axes = {state.name: state.axes for state in recurrence.states}
    update: list[Assignment] = []
    for assignment in recurrence.update:
        if assignment.name in final:
            state = final[assignment.name]
            before = Ref(program.versions[state][0], axes[state])
            value = _one_product(step_of[state], before, flags)
            update.append(replace(assignment, value=value))
        elif assignment.name not in program.owner:
            update.append(assignment)
    inner = set(program.owner) - set(final)
    others = [a.value for a in update if a.name not in final]
    others += [output.value for output in recurrence.outputs]
    if any(inner & set(references(value)) for value in others):
        return None
    inputs = [Tensor(name, (), "input", name, "float32", (0.0, 1.0)) for name in names]
    tokens = replace(recurrence, inputs=(*recurrence.inputs, *inputs), update=tuple(update))
    flagged = tuple((name, number) for number, name in enumerate(names))
    return MicroSteps(replace(tokens, require=None), count, None, flagged)


def _one_product(step: Step, before: Ref, flags: Sequence[Ref]) -> Expr:
    """The state after one product; ``flags`` are those of all products but the last."""
    keys, weights, values = [], [], []
    for write in step.writes:
        number, factors = factors_of(write.value)
        inner = set(before.axes) & set(write.value.axes) - set(write.key.axes)
        keys.append(write.key)
        weights.append(product([f for f in factors if not inner & set(f.axes)], number))
        values.append(product([f for f in factors if inner & set(f.axes)]))
    number, factors = (1.0, ()) if step.decay.factor is None else factors_of(step.decay.factor)
    decays = [*factors, *([Number(number)] if number != 1.0 else [])]  # over keys, or values
    decayed = product([*(_where(flags[0], f, Number(1.0)) for f in decays), before])
    written = mul(_select(flags, keys), mul(_select(flags, weights), _select(flags, values)))
    return add(decayed, written)


def _select(flags: Sequence[Ref], values: Sequence[Expr]) -> Expr:
    """The value of the product whose flag is set."""
    if len(set(values)) == 1:
        return values[0]
    *first, result = values
    for flag, value in reversed(list(zip(flags, first, strict=True))):
        result = _where(flag, value, result)
    return result


def _where(flag: Ref, value: Expr, other: Expr) -> Expr:
    return call("where", call("gt", flag, Number(0.0)), value, other)


def _free_names(recurrence: Recurrence, count: int) -> list[str]:
    """Names of flags: nothing else in the recurrence has them."""
    taken = {t.name for t in recurrence.tensors} | {t.value for t in recurrence.tensors}
    taken |= {a.name for a in recurrence.assignments} | {axis.name for axis in recurrence.axes}
    taken |= {name for state in recurrence.states for name in (state.name, state.incoming)}
    taken |= {output.name for output in recurrence.outputs}
    names = []
    for number in range(1, count + 1):
        name = f"product_{number}"
        while name in taken:
            name += "_"
        names.append(name)
    return names
