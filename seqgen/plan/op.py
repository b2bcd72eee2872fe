"""What the PyTorch side of a generated file says: arguments, checks, reference, custom ops.

Every string here is final; the templates only place them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from seqgen.ir.printer import number
from seqgen.ir.recurrence import Recurrence, State, Tensor
from seqgen.plan.op_reference import ReferencePlan, plan_reference


@dataclass(frozen=True)
class Argument:
    """One tensor argument of the operator."""

    name: str
    layout: str  # "[B, T, H, K]"
    required: bool
    bound: str  # statement that learns or checks its sizes
    bound_in_step: str  # the same without T
    taken: str  # text that checks it and makes it contiguous
    about: str


@dataclass(frozen=True)
class StateArgument:
    """One state: its layout, and how it starts."""

    name: str
    label: str  # how messages call it
    step_label: str
    layout: str
    layout_tuple: str
    shape: str  # 'sizes["N"], sizes["H"], ...'
    init: str


@dataclass(frozen=True)
class OutputPlan:
    """One result per token."""

    name: str
    layout: str
    shape: str
    step_shape: str
    dtype: str  # text over io


@dataclass(frozen=True)
class OpPlan:
    """The PyTorch side of one operator; templates/op.py.jinja and others place its strings."""

    name: str
    about: str
    equations: tuple[str, ...]
    docstring: tuple[str, ...]
    reference: ReferencePlan
    arguments: tuple[Argument, ...]
    states: tuple[StateArgument, ...]
    outputs: tuple[OutputPlan, ...]
    forward_call: tuple[str, ...]
    backward_call: tuple[str, ...]
    required: str
    optional: str
    note: str  # text literal behind messages on states, where there are optional arguments
    note_argument: str  # of one state: a tensor is no tuple of several
    names: str
    labels: str  # of all tensors, as messages call them
    all_step_labels: str
    first: str
    first_index: int
    tensors: int  # how many arguments and initial states there are
    first_casts: bool
    size_checks: tuple[str, ...]
    step_size_checks: tuple[str, ...]
    state_names: str
    final_names: str
    output_names: str
    state_labels: str
    state_class: str
    state_docs: str
    several_states: bool
    final_value: str
    cast_results: str
    cotangent_names: str
    typed_arguments: str
    typed_cotangents: str
    forward_result_type: str
    backward_result_type: str
    has_step: bool
    step_optional: str
    step_tensors: str
    step_results: str
    step_result_type: str
    fake_step_results: str
    step_labels: str
    step_return: str
    step_result_docs: str
    typed_step_arguments: str
    mutated_states: str


def plan_op(
    recurrence: Recurrence, forward_call: tuple[str, ...], backward_call: tuple[str, ...]
) -> OpPlan:
    """The PyTorch side of ``recurrence``'s generated file.

    Args:
        recurrence: the operator.
        forward_call: lines that set the outputs and ``<state>_final`` from the tensors by name,
            ``<state>_0``, ``cu_seqlens``, ``want_final``, ``sizes`` and ``kept``.
        backward_call: lines that set ``gradients``, one per argument and state, from the same
            names and the cotangents ``d_<output>``, ``d_<state>_final``.
    """
    ordered = recurrence.argument_order()
    several = len(recurrence.states) > 1
    states = tuple(_state(state, several) for state in recurrence.states)
    outputs = tuple(
        OutputPlan(
            output.name,
            _layout(("B", "T", *output.axes)),
            _shape(("B", "T", *output.axes)),
            _shape(("B", *output.axes)),
            "torch.promote_types(io, torch.float32)" if output.dtype == "float32" else "io",
        )
        for output in recurrence.outputs
    )
    io = [t.name for t in ordered if t.kind == "input" and t.dtype is None and t.required]
    first = io[0] if io else next(t.name for t in ordered if t.kind == "input")
    arguments = tuple(_argument(tensor, first) for tensor in ordered)
    names = [a.name for a in arguments]
    needed = [a.name for a in arguments if a.required]
    options = [a.name for a in arguments if not a.required]
    # A tensor that was given by place is taken for the initial state.
    note = f'" Optional tensors ({", ".join(options)}) are keyword-only."' if options else ""
    size_checks = _size_checks(recurrence)
    finals = [f"{s.name}_final" for s in states]
    results = [o.name for o in outputs]
    state_class = "".join(part.capitalize() for part in recurrence.name.split("_")) + "State"
    typed = [f"{a.name}: {_tensor_type(a.required)}" for a in arguments]
    step_tensors = [
        name
        if t.kind == "parameter"
        else f"{name}.unsqueeze(1)"
        if t.required
        else f"None if {name} is None else {name}.unsqueeze(1)"
        for name, t in zip(names, ordered, strict=True)
    ]
    single = len(outputs) == 1
    cast = [_cast(o) for o in outputs] + finals
    return OpPlan(
        name=recurrence.name,
        about=recurrence.about or f"The operator {recurrence.name}.",
        equations=recurrence.equations,
        docstring=_docstring(recurrence, arguments, states, outputs),
        reference=plan_reference(recurrence, tuple(names)),
        arguments=arguments,
        states=states,
        outputs=outputs,
        forward_call=forward_call,
        backward_call=backward_call,
        required=" ".join(f"{name}," for name in needed),
        optional=" ".join(f"{name}=None," for name in options),
        note=note and f" {note}",
        note_argument=f", note={note}" if note and not several else "",
        names=", ".join(names),
        labels=_quoted([*names, *(s.label for s in states)]),
        all_step_labels=_quoted([*names, *(s.step_label for s in states)]),
        first=first,
        first_index=names.index(first),
        tensors=len(names) + len(states),
        first_casts=bool(io),
        size_checks=size_checks,
        step_size_checks=tuple(line.replace("_NAME", "_STEP") for line in size_checks),
        state_names=", ".join(f"{s.name}_0" for s in states),
        final_names=", ".join(finals),
        output_names=", ".join(results),
        state_labels="".join(f'"{s.label}", ' for s in states).rstrip(" "),
        state_class=state_class,
        state_docs=", ".join(f"{s.name} {s.layout}" for s in states),
        several_states=several,
        final_value=f"{state_class}({', '.join(finals)})" if several else finals[0],
        cast_results=", ".join(cast),
        cotangent_names=", ".join(f"d_{name}" for name in (*results, *finals)),
        typed_arguments=_lines([*typed, *(f"{s.name}_0: Optional[torch.Tensor]" for s in states)]),
        typed_cotangents=_lines(
            [f"d_{name}: Optional[torch.Tensor]" for name in (*results, *finals)]
        ),
        forward_result_type=_tuple_type(len(outputs) + len(states)),
        backward_result_type=_tuple_type(len(arguments) + len(states)),
        has_step=not recurrence.reverse,
        step_optional="".join([", *, ", *(f"{n}=None, " for n in options)]).rstrip(", *"),
        step_tensors=", ".join(step_tensors),
        step_results=(
            "outputs[0].squeeze(1)" if single else "tuple(o.squeeze(1) for o in outputs)"
        ),
        step_result_type="torch.Tensor" if single else _tuple_type(len(outputs)),
        fake_step_results="outputs[0]" if single else "tuple(outputs)",
        step_labels="".join(f'"{s.step_label}", ' for s in states).rstrip(" "),
        step_return="outputs" if single else "*outputs",
        step_result_docs=", ".join(f"{o.name} {o.layout.replace(', T', '')}" for o in outputs),
        typed_step_arguments=_lines([*typed, *(f"{s.name}_0: torch.Tensor" for s in states)]),
        mutated_states="".join(f'"{s.name}_0", ' for s in states).rstrip(" "),
    )


def _cast(output: OutputPlan) -> str:
    """Text that brings an output to its dtype."""
    return f"{output.name}.to({output.dtype})"


def _lines(items: list[str]) -> str:
    return ",\n    ".join(items)


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _tensor_type(required: bool) -> str:
    return "torch.Tensor" if required else "Optional[torch.Tensor]"


def _tuple_type(count: int) -> str:
    return f"Tuple[{', '.join(['torch.Tensor'] * count)}]"


def literal(value: float) -> str:
    """``value`` as Python source, infinities included."""
    return f'float("{value}")' if abs(value) == float("inf") else repr(value)


def _layout(axes: tuple[str, ...]) -> str:
    return "[" + ", ".join(axes) + "]"


def _shape(axes: tuple[str, ...]) -> str:
    return "(" + ", ".join(f'sizes["{axis}"]' for axis in axes) + ("," * (len(axes) == 1)) + ")"


def _names(axes: tuple[str, ...]) -> str:
    return "(" + ", ".join(f'"{axis}"' for axis in axes) + ("," * (len(axes) == 1)) + ")"


def _argument(tensor: Tensor, first: str) -> Argument:
    is_input = tensor.kind == "input"
    declared = not is_input or tensor.dtype == "float32"
    dtype = "torch.float32, also=io" if declared else f'io, cast, like="{first}"'
    taken = f'_take(op_name, "{tensor.name}", {tensor.name}, device, {dtype})'
    if not tensor.required:
        taken = f"None if {tensor.name} is None else {taken}"
    axes = (("B", "T") if is_input else ()) + tensor.axes
    step_axes = (("B",) if is_input else ()) + tensor.axes
    about = []
    if not is_input:
        about.append("parameter")
    if declared:
        about.append("float32 or the io dtype")
    if tensor.range is not None:
        about.append("promised to lie in [{}, {}]".format(*map(number, tensor.range)))
    if tensor.default is not None:
        about.append(f"{number(tensor.default)} where absent")
    elif tensor.optional:
        about.append("may be absent")
    return Argument(
        tensor.name,
        _layout(axes),
        tensor.required,
        _bound("_NAME", tensor, axes),
        _bound("_STEP", tensor, step_axes),
        taken,
        about=", ".join(about),
    )


def _bound(op_name: str, tensor: Tensor, axes: tuple[str, ...]) -> str:
    """The statement that binds ``tensor`` to ``axes``."""
    text = f'_bind({op_name}, sizes, "{tensor.name}", {tensor.name}, {_names(axes)})'
    return text if tensor.required else f"if {tensor.name} is not None:\n        {text}"


def _state(state: State, several: bool) -> StateArgument:
    axes = ("sequences", *state.axes)
    init = literal(state.init)
    label = f"initial_state.{state.name}" if several else "initial_state"
    step_label = f"state.{state.name}" if several else "state"
    return StateArgument(
        state.name, label, step_label, _layout(axes), _names(axes), _shape(axes), init
    )


def _size_checks(recurrence: Recurrence) -> tuple[str, ...]:
    """Lines that complete ``sizes`` and raise ValueError where a relation is broken."""
    seen = {axis for tensor in recurrence.tensors for axis in tensor.axes}
    lines = []
    for axis in recurrence.axes:
        name, own = axis.name, f'sizes["{axis.name}"]'
        if axis.twin is not None:
            wanted, text = f'sizes["{axis.twin}"]', axis.twin
        elif axis.derived is not None:
            wanted, text = re.sub(r"([A-Za-z_]\w*)", r'sizes["\1"]', axis.derived), axis.derived
        else:
            wanted, text = str(axis.size), ""
        if name not in seen:
            lines.append(f"{own} = {wanted}")
        elif axis.parent is not None:
            parent = f'sizes["{axis.parent}"]'
            lines += [
                f"if {own} % max({parent}, 1):",
                f'    raise ValueError(f"{{_NAME}}: {name} = {{{own}}} must be a multiple of "',
                f'        f"{axis.parent} = {{{parent}}}.")',
            ]
        elif text or axis.fixed:
            expected = f"{text} = " if text else ""
            note = "" if text else ", as in the spec"
            lines += [
                f"if {own} != {wanted}:",
                f'    raise ValueError(f"{{_NAME}}: {name} = {{{own}}} must be "',
                f'        f"{expected}{{{wanted}}}{note}.")',
            ]
    return tuple(line.replace('["', "['").replace('"]', "']") for line in lines)


def _docstring(
    recurrence: Recurrence,
    arguments: tuple[Argument, ...],
    states: tuple[StateArgument, ...],
    outputs: tuple[OutputPlan, ...],
) -> tuple[str, ...]:
    lines = [f"    {equation}" for equation in recurrence.equations] + ["", "Args:"]
    for argument in arguments:
        about = f" ({argument.about})" if argument.about else ""
        lines.append(f"    {argument.name}: {argument.layout}{about}.")
    state_text = ", ".join(f"{s.name} {s.layout}" for s in states)
    lines += [
        f"    initial_state: {state_text}, float32; {states[0].init} where None."
        if len(states) == 1
        else f"    initial_state: named tuple of {state_text}, float32; entries may be None.",
        "    output_final_state: whether the states after the last token are returned.",
        "    cu_seqlens: [sequences + 1] int32 or int64, borders of sequences packed in T (B = 1).",
        "",
        "Returns:",
        f"    {', '.join(f'{o.name} {o.layout}' for o in outputs)}, and the final state or None.",
    ]
    if recurrence.reverse:
        lines += ["", "Runs from the last token to the first: flip(op(flip(x))) per sequence."]
    return tuple(lines)
