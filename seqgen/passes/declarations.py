"""What a spec declares: axes with their relations, and names that keep out of each other's way."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from seqgen.errors import Span, SpecError, did_you_mean
from seqgen.ir.recurrence import Axis
from seqgen.spec.checks import MAX_SIZE
from seqgen.spec.model import Assign, AxisDecl, Expression, Repeat, Spec


def lower_axes(declarations: tuple[AxisDecl, ...]) -> dict[str, Axis]:
    """Axes with their default sizes; relations checked."""
    declared = {axis.name: axis for axis in declarations}
    axes: dict[str, Axis] = {}

    def resolve(name: str, at: Span, busy: tuple[str, ...]) -> Axis:
        if name in axes:
            return axes[name]
        if name not in declared:
            hint = did_you_mean(name, declared)
            raise SpecError(f"Axis '{name}' is not declared.", at, label="unknown axis", hint=hint)
        if name in busy:
            raise SpecError(
                f"The size of axis '{name}' depends on itself.",
                declared[name].span,
                label="a cycle",
            )
        decl, busy = declared[name], (*busy, name)
        if decl.groups_of is not None:
            parent = resolve(decl.groups_of, decl.span, busy)
            if parent.parent is not None:
                raise SpecError(
                    f"'{parent.name}' is itself grouped; groups of groups are not supported.",
                    decl.span,
                )
            size = decl.size if decl.size is not None else parent.size
            if size % parent.size:
                raise SpecError(
                    f"The default size of '{name}' ({size}) is no multiple of "
                    f"'{parent.name}' ({parent.size}).",
                    decl.span,
                )
            axis = Axis(name, size, parent=parent.name)
        elif decl.same_as is not None:
            twin = resolve(decl.same_as, decl.span, busy)
            axis = Axis(name, twin.size, twin=twin.name)
        elif decl.derived is not None:
            sizes = {
                node.id: resolve(node.id, decl.derived.node_span(node), busy).size
                for node in ast.walk(decl.derived.tree)
                if isinstance(node, ast.Name)
            }
            size = _evaluate_size(decl.derived, sizes)
            axis = Axis(name, size, derived=ast.unparse(decl.derived.tree))
        else:
            axis = Axis(name, decl.size if decl.size is not None else 16)
        axes[name] = axis
        return axis

    for decl in declarations:
        resolve(decl.name, decl.span, ())
    return {decl.name: axes[decl.name] for decl in declarations}


def _evaluate_size(expression: Expression, sizes: dict[str, int]) -> int:
    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return sizes[node.id]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add):
                return left + right
            return left - right if isinstance(node.op, ast.Sub) else left * right
        raise SpecError(
            "A size is made of axes and whole numbers with + - *.", expression.node_span(node)
        )

    size = value(expression.tree)
    if not 1 <= size <= MAX_SIZE:
        raise SpecError(f"The default size is {size}, must be 1 to {MAX_SIZE}.", expression.span)
    return size


def flat(item: Assign | Repeat) -> tuple[Assign, ...]:
    """The assignments of a statement."""
    return item.body if isinstance(item, Repeat) else (item,)


def assignments(spec: Spec) -> tuple[Assign, ...]:
    """All assignments of ``update``, each once."""
    return tuple(assign for item in spec.update for assign in flat(item))


def check_axes(axes: tuple[str, ...], declared: dict[str, Axis], span: Span) -> None:
    """A tensor has no axis twice, and never an axis and its parent."""
    for axis in axes:
        if axes.count(axis) > 1:
            raise SpecError(f"Axis '{axis}' is named twice.", span)
        parent = declared[axis].parent
        if parent in axes:
            raise SpecError(
                f"A tensor cannot have '{axis}' and its parent '{parent}'.",
                span,
                hint=f"'{axis}' already counts the groups of '{parent}'.",
            )


def check_names(spec: Spec, axes: dict[str, Axis]) -> None:
    """Every name means one thing, also beside the names that seqgen makes itself."""
    seen: dict[str, str] = {axis.name: "an axis" for axis in spec.axes}
    declared = [("an input", d.name, d.span) for d in spec.inputs]
    declared += [("a parameter", d.name, d.span) for d in spec.parameters]
    declared += [("a state", d.name, d.span) for d in spec.states]
    for what, name, span in declared:
        if name in seen:
            raise SpecError(
                f"'{name}' is {seen[name]} and {what}.",
                span,
                label="name already taken",
                notes=["Axes and tensors share one set of names."],
                hint="Give one of them another name.",
            )
        seen[name] = what
    targets = [*spec.let, *assignments(spec)]
    for assign in targets:
        if assign.target in axes:
            raise SpecError(
                f"'{assign.target}' is an axis; it cannot be assigned.",
                assign.span,
                hint="Choose another name.",
            )
    made = dict(_made_names(spec, axes))
    declared += [("a name in 'let'", a.target, a.span) for a in spec.let]
    declared += [("a name in 'update'", a.target, a.span) for a in assignments(spec)]
    for what, name, span in declared:
        reason = made.get(name, "")
        if re.fullmatch(r"prev\d*_\w+|arg\d+|\w+_m\d+", name):
            reason = "a value that seqgen makes itself"
        if reason:
            raise SpecError(
                f"'{name}' cannot be {what}.", span, label=reason, hint="Choose another name."
            )


def _made_names(spec: Spec, axes: dict[str, Axis]) -> Iterator[tuple[str, str]]:
    """Names of values that lowering makes, and what they are."""
    yield "position", "the state of position()"
    for state in spec.states:
        yield f"{state.name}_prev", f"the value of '{state.name}' before the token"
    inputs = {tensor.name for tensor in (*spec.inputs, *spec.parameters)}
    for assign in spec.let:
        if assign.target in inputs:
            yield f"{assign.target}_in", f"the raw '{assign.target}'"
    counts: Counter[str] = Counter()
    for item in spec.update:
        times = axes[item.axis].size if isinstance(item, Repeat) and item.axis in axes else 1
        for assign in flat(item):
            counts[assign.target] += times
    for name, count in counts.items():
        for version in range(1, count):
            yield f"{name}_{version}", f"a version of '{name}', which is assigned several times"


def check_used(spec: Spec) -> None:
    """What is declared is read: a forgotten gate must not pass as an operator without one."""
    targets = [*spec.let, *assignments(spec)]
    expressions = [(assign.target, assign.value) for assign in targets]
    expressions += [("", output.value) for output in spec.outputs]
    readers: dict[str, set[str]] = {}
    for target, expression in expressions:
        for node in ast.walk(expression.tree):
            if isinstance(node, ast.Name):
                readers.setdefault(node.id, set()).add(target)
    declared = [(d.name, d.span) for d in (*spec.inputs, *spec.parameters) if d.name not in readers]
    made = [(state.name, state.span) for state in spec.states]
    made += [(assign.target, assign.span) for assign in targets]
    for name, span in [*declared, *((n, s) for n, s in made if not readers.get(n, set()) - {n})]:
        raise SpecError(
            f"'{name}' is never used.",
            span,
            label="no other expression reads it",
            hint="Use it, or remove it.",
        )


def explain_unknown(
    spec: Spec, name: str, span: Span, section: str, known: Iterable[str]
) -> SpecError:
    """Why ``name`` has no value in ``section``, where the names ``known`` have one."""
    if name in (state.name for state in spec.states) and section == "let":
        return SpecError(
            f"'let' cannot read the state '{name}'.",
            span,
            label="a state",
            hint="Move this line to 'update': a name assigned there may depend on states.",
        )
    for assign in spec.let:
        if assign.target == name:
            here = assign.span.line == span.line
            return SpecError(
                f"'{name}' is used before it is defined.",
                span,
                label="defined by this line" if here else f"defined in line {assign.span.line}",
                hint="Only an input may be defined from itself."
                if here
                else "'let' is evaluated from top to bottom; move the definition up.",
            )
    for assign in assignments(spec):
        if assign.target == name:
            return SpecError(
                f"'{name}' is used before it is assigned.",
                span,
                label=f"assigned in line {assign.span.line}",
                hint="Move this line to 'update', behind that line."
                if section == "let"
                else "Statements are evaluated from top to bottom.",
            )
    if name in (output.name for output in spec.outputs):
        return SpecError(
            f"'{name}' is an output; outputs cannot be read.",
            span,
            label="an output",
            hint="Assign it in 'update' first and use that name in 'output'.",
        )
    names = dict.fromkeys(known)
    return SpecError(
        f"'{name}' is not defined.",
        span,
        label="unknown name",
        hint=did_you_mean(name, names) or f"Defined here: {', '.join(names)}.",
    )
