"""What the reference inside a generated file says, token by token in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.ir.expr import Expr, IfPresent, Ref
from seqgen.ir.recurrence import Recurrence, State
from seqgen.plan.torch_printer import TorchPrinter


@dataclass(frozen=True)
class ReferencePlan:
    """Strings of templates/reference.py.jinja."""

    sizes: tuple[str, ...]
    prologue: tuple[str, ...]
    token: tuple[str, ...]
    state_values: str  # "S, z"
    state_starts: str  # "S_0, z_0", in the printer's axis order
    state_results: str  # "S, z", in the order of memory
    outputs: tuple[tuple[str, str, str], ...]  # name, shape of an empty result, ".flip(1)" or ""
    stacked: str
    sliced_names: str
    sliced_states: str
    emptied_names: str


def plan_reference(recurrence: Recurrence, names: tuple[str, ...]) -> ReferencePlan:
    """The reference of ``recurrence``; ``names`` are the operator's tensor arguments in order."""
    states = recurrence.states
    flip = ".flip(1)" if recurrence.reverse else ""
    outputs = tuple(
        (o.name, f"(sequences, 0, {', '.join(o.axes)})".replace(", )", ")"), flip)
        for o in recurrence.outputs
    )

    def sliced(name: str, cut: str) -> str:
        tensor = recurrence.tensor(name)
        if tensor.kind == "parameter":
            return name
        return (
            f"{name}[{cut}]" if tensor.required else f"{name} if {name} is None else {name}[{cut}]"
        )

    return ReferencePlan(
        sizes=tuple(f'{axis.name} = sizes["{axis.name}"]' for axis in recurrence.axes),
        prologue=_prologue(recurrence),
        token=_token(recurrence, TorchPrinter(recurrence)),
        state_values=", ".join(s.name for s in states),
        state_starts=", ".join(_start(s, recurrence) for s in states),
        state_results=", ".join(f"{s.name}{_to_memory(s, recurrence)}" for s in states),
        outputs=outputs,
        stacked=", ".join(f"torch.stack({o.name}_all, 1)" for o in recurrence.outputs),
        sliced_names=", ".join(sliced(name, ":, start:stop") for name in names),
        sliced_states=", ".join(f"{s.name}_0[index : index + 1]" for s in states),
        emptied_names=", ".join(sliced(name, ":0") for name in names),
    )


def _permute(have: tuple[str, ...], want: tuple[str, ...], lead: int) -> str:
    """``.permute(...)`` from one axis order to another behind ``lead`` leading dimensions."""
    if have == want:
        return ""
    dims = [*range(lead), *(lead + have.index(axis) for axis in want)]
    return f".permute({', '.join(map(str, dims))})"


def _start(state: State, recurrence: Recurrence) -> str:
    """Text of a state's start; a count of tokens has no gradient."""
    count = ".detach()" if state.name == "position" else ""
    return f"{state.name}_0{count}{_to_printer(state, recurrence)}"


def _to_printer(state: State, recurrence: Recurrence) -> str:
    return _permute(state.axes, recurrence.order(state.axes), 1)


def _to_memory(state: State, recurrence: Recurrence) -> str:
    return _permute(recurrence.order(state.axes), state.axes, 1)


def _prologue(recurrence: Recurrence) -> tuple[str, ...]:
    """Arguments in the accumulation dtype and in the printer's axis order."""
    lines = []
    flip = ".flip(1)" if recurrence.reverse else ""
    for tensor in recurrence.argument_order():
        order = recurrence.order(tensor.axes)
        if tensor.kind == "input":
            name, full = f"{tensor.name}_all", ", ".join(("sequences", "length", *order))
            text = f"{tensor.name}.to(dtype){_permute(tensor.axes, order, 2)}{flip}"
        else:
            name, full = tensor.value, ", ".join(("1", *order))
            text = f"{tensor.name}.to(dtype){_permute(tensor.axes, order, 0)}[None]"
        if tensor.default is not None:
            other = f"torch.full(({full},), {tensor.default!r}, dtype=dtype, device=device)"
            text = f"{text} if {tensor.name} is not None else {other}"
        elif not tensor.required:
            text = f"{text} if {tensor.name} is not None else None"
        lines.append(f"{name} = {text}")
    return tuple(lines)


def _token(recurrence: Recurrence, printer: TorchPrinter) -> tuple[str, ...]:
    """One token: reads ``token`` and the states, appends the outputs, leaves the new states."""
    lines = []
    for tensor in recurrence.inputs:
        text = f"{tensor.name}_all[:, token]"
        if not tensor.required and tensor.default is None:
            text = f"{text} if {tensor.name}_all is not None else None"
        lines.append(f"{tensor.value} = {text}")
    for state in recurrence.states:
        if state.incoming != state.name:
            lines.append(f"{state.incoming} = {state.name}")
    known = {t.value for t in recurrence.inputs} | {s.incoming for s in recurrence.states}
    finals = {value for _, value in recurrence.final}
    for assignment in recurrence.assignments:
        text, axes = printer.text(assignment.value), recurrence.order(assignment.value.axes)
        if _per_sequence(assignment.value, known):
            known.add(assignment.name)
        elif assignment.name in finals:
            text = _for_all_sequences(text, axes)
            known.add(assignment.name)
        lines.append(f"{assignment.name} = {text}")
    for output in recurrence.outputs:
        order = recurrence.order(output.axes)
        moved = _permute(order, output.axes, 1)
        text = printer.text(output.value)
        if not _per_sequence(output.value, known):
            text = _for_all_sequences(text, order)
        lines.append(f"{output.name}_all.append({f'({text}){moved}' if moved else text})")
    moves = [(name, value) for name, value in recurrence.final if name != value]
    if moves:
        # All at once: an older tap takes what the younger one held before this token.
        lines.append(f"{', '.join(n for n, _ in moves)} = {', '.join(v for _, v in moves)}")
    return tuple(lines)


def _per_sequence(expr: Expr, known: set[str]) -> bool:
    """Whether the value of ``expr`` has one entry per sequence, whatever tensors are given."""
    if isinstance(expr, Ref):
        return expr.name in known
    if isinstance(expr, IfPresent):
        return all(_per_sequence(child, known) for child in expr.children)
    return any(_per_sequence(child, known) for child in expr.children)


def _for_all_sequences(text: str, axes: tuple[str, ...]) -> str:
    """``text``, a value of parameters alone, repeated for the sequences."""
    shape = ", ".join(("sequences", *axes))
    return f"torch.as_tensor({text}, dtype=dtype, device=device).expand({shape})"
