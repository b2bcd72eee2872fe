"""The plan of a whole generated file: header, configurations, kernels, PyTorch side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seqgen import __version__
from seqgen.ir.printer import spec_hash
from seqgen.ir.recurrence import Recurrence
from seqgen.plan.op import OpPlan, literal, plan_op
from seqgen.plan.schedule import SchedulePlan

Entry = Mapping[str, object]


@dataclass(frozen=True)
class ModulePlan:
    """Everything that templates/module.py.jinja places."""

    name: str
    version: str
    origin: str
    spec_hash: str
    family: str
    gpu: str
    schedule: SchedulePlan
    op: OpPlan
    description: tuple[str, ...]
    """Lines of SPEC: axes, arguments, states and outputs, for programs that make inputs."""
    configs: tuple[tuple[str, tuple[str, ...]], ...]
    """(kernel, one line of Python per entry)."""


def plan_module(
    recurrence: Recurrence,
    family: str,
    schedule: SchedulePlan,
    gpu: str,
    tuned: Mapping[str, Sequence[Entry]],
) -> ModulePlan:
    """The plan of the file for ``recurrence``.

    Args:
        recurrence: the operator.
        family: what the structure pass found, for the header.
        schedule: kernels and calls.
        gpu: name of the GPU that the configurations are for.
        tuned: entries of CONFIGS by kernel, best knowledge first; the default is added.
    """
    configs = []
    for space in schedule.spaces:
        default = {"config": dict(space.default), "origin": "default"}
        entries = [*map(dict, tuned.get(space.kernel, ())), default]
        configs.append((space.kernel, tuple(f"{entry!r}," for entry in entries)))
    return ModulePlan(
        name=recurrence.name,
        version=__version__,
        origin=recurrence.origin,
        spec_hash=spec_hash(recurrence),
        family=family,
        gpu=gpu,
        schedule=schedule,
        op=plan_op(recurrence, schedule.forward_call, schedule.backward_call),
        description=_describe(recurrence),
        configs=tuple(configs),
    )


def _describe(recurrence: Recurrence) -> tuple[str, ...]:
    lines = ['"axes": {']
    for axis in recurrence.axes:
        fields = {key: getattr(axis, key) for key in ("size", "parent", "twin", "derived", "fixed")}
        lines.append(f'"{axis.name}": {fields!r},')
    lines += ["},", '"arguments": {']
    for tensor in recurrence.argument_order():
        fields = {key: getattr(tensor, key) for key in ("kind", "axes", "dtype", "required")}
        span = "None"
        if tensor.range is not None:
            span = f"({literal(tensor.range[0])}, {literal(tensor.range[1])})"
        inner = repr(fields)[1:-1]
        lines.append(f'"{tensor.name}": {{{inner}, "range": {span}}},')
    lines += ["},", '"states": {']
    lines += [f'"{state.name}": {state.axes!r},' for state in recurrence.states]
    lines += ["},", '"outputs": {']
    lines += [f'"{output.name}": {output.axes!r},' for output in recurrence.outputs]
    return (*lines, "},")
