"""Micro-steps on a chunkwise schedule: each becomes a token of its own, on the host."""

from __future__ import annotations

from dataclasses import dataclass, replace

from seqgen.ir.recurrence import MicroSteps, Recurrence, Tensor
from seqgen.plan.schedule import KernelPart, SchedulePlan

TEMPLATE = "kernels/micro_steps_calls.py.jinja"


@dataclass(frozen=True)
class MicroStepsPlan:
    """Everything that kernels/micro_steps_calls.py.jinja places."""

    name: str
    arguments: str
    cotangents: str
    tokens: tuple[str, ...]
    """Tensors of the tokens become those of the micro-steps."""
    forward: tuple[str, ...]
    results: str
    seeds: tuple[str, ...]
    backward: tuple[str, ...]
    gradients: tuple[str, ...]


def plan_micro_steps(recurrence: Recurrence, micro: MicroSteps, fast: SchedulePlan) -> SchedulePlan:
    """``fast``, made for ``micro.recurrence``, between what splits tokens and joins them again."""
    tensors = recurrence.argument_order()
    states = [state.name for state in recurrence.states]
    arguments = [*(t.name for t in tensors), *(f"{name}_0" for name in states)]
    outputs = [output.name for output in recurrence.outputs]
    finals = [f"{name}_final" for name in states]
    cotangents = [f"d_{name}" for name in (*outputs, *finals)]
    steps = str(micro.count)
    first_input = next(t.name for t in tensors if t.kind == "input")
    tokens = [
        *(
            f"{flag} = _step_flags({first_input}, sizes, {steps}, {step})"
            for flag, step in micro.flags
        ),
        *(line for t in tensors if (line := _split(t, micro.axis, steps))),
        f"cu_seqlens, sizes = _count_steps(cu_seqlens, sizes, {steps})",
    ]
    found = [f"d_{t.name}" for t in micro.recurrence.argument_order()]
    found += [f"d_{name}_0" for name in states]
    name = "products" if micro.axis is None else "micro"  # one may be inside the other
    plan = MicroStepsPlan(
        name=name,
        arguments=", ".join(arguments),
        cotangents=", ".join(cotangents),
        tokens=tuple(tokens),
        forward=fast.forward_call,
        results=", ".join([*(f"_last_steps({name}, {steps})" for name in outputs), *finals]),
        seeds=tuple(f"d_{name} = _at_last_steps(d_{name}, {steps})" for name in outputs),
        backward=(*fast.backward_call, f"{', '.join(found)} = gradients"),
        gradients=(
            *(_join(t, f"d_{t.name}", micro.axis, steps) for t in tensors),
            *(f"{name}," for name in found[-len(states) :]),
        ),
    )
    what = (
        "products that a token writes" if micro.axis is None else f"{micro.axis} steps of a token"
    )
    note = f"Each of the {what} runs as a token of its own."
    call = f"{plan.arguments}, cu_seqlens, sizes"
    return replace(
        fast,
        helpers=(*fast.helpers, "micro_steps"),
        notes=(*fast.notes, note),
        kernels=(*fast.kernels, KernelPart(f"{name}_steps", TEMPLATE, plan)),
        forward_call=(
            f"{', '.join([*outputs, *finals])} = _{name}_forward({call}, want_final, kept)",
        ),
        backward_call=(f"gradients = _{name}_backward({call}, {plan.cotangents}, kept)",),
    )


def _split(tensor: Tensor, axis: str | None, steps: str) -> str:
    if tensor.kind == "parameter":
        return ""
    if axis is not None and axis in tensor.axes:
        return f"{tensor.name} = _own_steps({tensor.name}, {tensor.axes.index(axis)})"
    return f"{tensor.name} = _each_step({tensor.name}, {steps})"


def _join(tensor: Tensor, gradient: str, axis: str | None, steps: str) -> str:
    if tensor.kind == "parameter":
        return f"{gradient},"
    if axis is not None and axis in tensor.axes:
        return f"_split_steps({gradient}, {steps}, {tensor.axes.index(axis)}),"
    return f"_sum_steps({gradient}, {steps}),"
