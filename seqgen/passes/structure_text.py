"""A structure as text: the normal form in the user's names."""

from __future__ import annotations

from typing import TypeVar

from seqgen.ir.expr import Expr, Number
from seqgen.ir.printer import show
from seqgen.passes.components import Program
from seqgen.passes.normal_form import NormalForm, Step
from seqgen.passes.structure import Component, Structure

_T = TypeVar("_T")

_LAWS = {
    "linear": "{S} = D * {S}{writes}",
    "delta": "{S} = D * {S} + x * (y - sum(r * {inner}, {key}))",
    "dplr": "{S} = D * {S}{erases}{writes}",
}


def show_structure(structure: Structure) -> str:
    """The normal form of every component, then the outputs."""
    lines = [f"{structure.recurrence.name}: {structure.family}"]
    for component in structure.components:
        lines += ["", *show_component(structure, component), *show_reasons(component)]
    if structure.fused:
        same = (f"{' and '.join(names)} have the same decay and keys" for names in structure.fused)
        lines += ["", *same]
    lines.append("")
    for output in structure.outputs:
        lines.append(f"output {output.name}[{', '.join(output.axes)}] = {show(output.value)}")
    return "\n".join(lines)


def show_component(structure: Structure, component: Component) -> list[str]:
    """Heading, normal form with roles, and reads of one component."""
    recurrence = structure.recurrence
    names = [f"{s}[{', '.join(recurrence.state(s).axes)}]" for s in component.states]
    lines = [f"{', '.join(names)}: {component.family}{_details(component)}"]
    if component.form is not None:
        lines += _form(structure, component, component.form)
    else:
        lines += [f"  {equation}" for equation in _equations(structure, component)]
    lines += [f"  {read}" for read in component.reads if read.bound]
    return lines


def show_reasons(component: Component) -> list[str]:
    """Why the component is in no faster family, one line per reason."""
    return [f"  {reason}" for reason in component.why]


def _equations(structure: Structure, component: Component) -> list[str]:
    """The user's update lines that make the component's states, locals included."""
    program = Program(structure.recurrence)
    own = frozenset(component.states)
    return list(
        dict.fromkeys(
            assignment.equation or f"{assignment.name} = {show(assignment.value)}"
            for assignment in structure.recurrence.update
            if program.states_read(assignment.name) & own
            and program.owner.get(assignment.name, component.states[0]) in own
            and program.feeds(assignment.name, own)
        )
    )


def _details(component: Component) -> str:
    words = []
    form = component.form
    if form is not None:
        words.append(f"key {', '.join(form.key_axes)}")
        words.append(f"value {', '.join(form.value_axes)}" if form.value_axes else "no value axis")
        words.append("no decay" if component.decay == "none" else f"{component.decay} decay")
        if len(form.steps) > 1:
            words.append(f"{len(form.steps)} steps per token")
        if form.steps[0].erases and form.steps[0].inner == "I":
            words.append("erases read the state before the decay")
    elif not component.affine:
        words.append("not affine")
    if component.uses:
        words.append(f"uses {', '.join(component.uses)}")
    return f" ({'; '.join(words)})" if words else ""


def _form(structure: Structure, component: Component, form: NormalForm) -> list[str]:
    lines: list[str] = []
    (state,) = component.states
    for number, step in enumerate(form.steps):
        suffix = f"_m{number}" if len(form.steps) > 1 else ""
        lines.append("  " + _law(state, form, step))
        for name, value in _roles(step):
            order = structure.recurrence.state(state).axes
            axes = ", ".join(axis for axis in order if axis in value.axes)
            lines.append(f"    {name + suffix:<8} = {show(value)}  [{axes}]")
    return lines


def _law(state: str, form: NormalForm, step: Step) -> str:
    inner = f"D * {state}" if step.inner == "D" and step.decay.kind != "none" else state
    key = ", ".join(form.key_axes)
    erases = "".join(f" + b{n} * sum(a{n} * {inner}, {key})" for n, _ in _numbered(step.erases))
    writes = "".join(f" + k{n} * v{n}" for n, _ in _numbered(step.writes))
    law = _LAWS["delta" if step.delta is not None else "dplr" if step.erases else "linear"]
    text = law.format(S=state, inner=inner, key=key, erases=erases, writes=writes)
    return text if step.decay.kind != "none" else text.replace(f"D * {state}", state)


def _roles(step: Step) -> list[tuple[str, Expr]]:
    roles: list[tuple[str, Expr]] = []
    if step.decay.kind != "none":
        if step.decay.log is not None:
            roles.append(("log D", step.decay.log))
        if step.decay.log_value is not None:
            roles.append(
                ("log D'" if step.decay.log is not None else "log D", step.decay.log_value)
            )
    if step.delta is not None:
        roles += [("x", step.delta.x), ("r", step.delta.r), ("y", step.delta.y)]
        return roles
    for n, erase in _numbered(step.erases):
        roles += [(f"b{n}", erase.put), (f"a{n}", erase.row)]
    for n, write in _numbered(step.writes):
        roles.append((f"k{n}", write.key))
        if write.value != Number(1.0):
            roles.append((f"v{n}", write.value))
    return roles


def _numbered(items: tuple[_T, ...]) -> list[tuple[str, _T]]:
    return [(str(i + 1) if len(items) > 1 else "", item) for i, item in enumerate(items)]
