"""The universal schedule: any recurrence, token after token, with its gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from seqgen.ir.recurrence import Recurrence
from seqgen.plan.knobs import KernelSpace, Knob
from seqgen.plan.recurrent_backward import RecurrentBackward, plan_recurrent_backward
from seqgen.plan.recurrent_forward import plan_recurrent_forward
from seqgen.plan.recurrent_program import Lines, Program
from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.plan.tiling import elements

BLOCKS = (2, 4, 8, 16, 32, 64, 128, 256)


def plan_recurrent(recurrence: Recurrence) -> SchedulePlan:
    """Kernels, launchers and calls that run ``recurrence`` serially in time."""
    program = Program(recurrence)
    forward = plan_recurrent_forward(program)
    backward = plan_recurrent_backward(program)
    helpers = ["recurrent"]
    if program.helpers:
        helpers.insert(0, "arithmetic")
    return SchedulePlan(
        name="recurrent",
        helpers=tuple(helpers),
        kernels=(
            KernelPart(forward.name, "kernels/recurrent_forward.py.jinja", forward),
            KernelPart(backward.name, "kernels/recurrent_backward.py.jinja", backward),
        ),
        forward_call=_forward_call(program),
        backward_call=_backward_call(program, backward),
        spaces=(
            KernelSpace("operator", "bwd", (Knob("C", (16, 32, 64, 128)),), {"C": 32}),
            serial_space(forward.name, "fwd", serial_default(program, 8, 1024, 1024)),
            serial_space(backward.name, "bwd", serial_default(program, 16, 1024, 512)),
        ),
        notes=program.notes(),
    )


def serial_space(kernel: str, role: Literal["fwd", "bwd"], default: dict[str, int]) -> KernelSpace:
    """Blocks around the default, one warp to sixteen."""
    values = {"num_warps": (1, 2, 4, 8, 16), "num_stages": (1, 2, 3, 4, 6)}
    knobs = [
        Knob(name, values.get(name, tuple(v for v in BLOCKS if value // 8 <= v <= value * 8)))
        for name, value in default.items()
    ]
    return KernelSpace(kernel, role, tuple(knobs), default)


def serial_default(program: Program, least: int, lanes: int, per_warp: int) -> dict[str, int]:
    """The configuration that needs no measurement.

    Blocks give a program about ``lanes`` elements of the widest tile at default sizes (at least
    ``least`` entries of the axis), warps hold ``per_warp`` of them (32 to a thread are 1024).
    """
    config, tile = {}, 1
    for knob, axis, _ in program.tiling.knobs:
        widest = max(program.largest_tiles(axis), key=len, default=(axis,))
        others = elements([program.recurrence.axis(name) for name in widest if name != axis])
        config[knob] = max(least, min(64, lanes // others))
        tile = others * config[knob]
    if not program.tiling.knobs:
        tiles = program.largest_tiles()
        tile = max((elements([program.recurrence.axis(a) for a in t]) for t in tiles), default=1)
    warps = min(16, max(1, tile // per_warp))
    # Prefetched tokens wait in shared memory; so do states that the backward restores.
    stages = 3 if tile <= 2048 else 2 if tile <= 8192 else 1
    return {**config, "num_warps": warps, "num_stages": stages}


def _forward_call(program: Program) -> tuple[str, ...]:
    rec = program.recurrence
    results = [o.name for o in rec.outputs] + [f"{s.name}_final" for s in rec.states]
    return (
        f"{', '.join([*results, *['_'] * len(rec.states)])} = launch_recurrent_forward(",
        f"    {forward_arguments(program)}, cu_seqlens, sizes, want_final, False",
        ")",
    )


def forward_arguments(program: Program) -> str:
    """Text of what the forward launcher takes: tensors and initial states."""
    names = [t.name for t in program.tensors]
    return ", ".join([*names, *(f"{s.name}_0" for s in program.recurrence.states)])


def _backward_call(program: Program, plan: RecurrentBackward) -> tuple[str, ...]:
    """The forward again, for the states before each chunk, then the backward."""
    rec = program.recurrence
    lines = []
    if plan.checkpoints:
        states = [f"{s.name}_checkpoint" if s.name in plan.checkpoints else "_" for s in rec.states]
        lines += [
            f"*_, {', '.join(states)} = launch_recurrent_forward(",
            f"    {forward_arguments(program)}, cu_seqlens, sizes, False, True",
            ")",
        ]
    finals = [f"d_{name}_final" for name in plan.carried]
    lines += [
        f"{', '.join(f'grad_{name}' for name in plan.gradients)}, = launch_{plan.name}(",
        f"    {backward_arguments(program, plan, finals)}, cu_seqlens, sizes",
        ")",
        "gradients = (",
    ]
    known = {name: f"grad_{name}" for name in plan.gradients}
    return (*lines, *(f"    {line}" for line in gradient_lines(rec, known)), ")")


def backward_arguments(program: Program, plan: RecurrentBackward, finals: Iterable[str]) -> str:
    """Text of what a backward launcher takes; ``finals`` are the cotangents of final states."""
    checkpoints = (f"{name}_checkpoint" for name in plan.checkpoints)
    seeds = (f"d_{name}" for name in plan.seeds)
    return ", ".join([*(t.name for t in program.tensors), *checkpoints, *seeds, *finals])


def gradient_lines(recurrence: Recurrence, known: Mapping[str, str]) -> Lines:
    """One line per tensor and initial state: its text in ``known``, or zeros."""
    lines = []
    for tensor in recurrence.argument_order():
        zero = f"torch.zeros_like({tensor.name})"
        if not tensor.required:
            zero = f"None if {tensor.name} is None else {zero}"
        lines.append(f"{known.get(tensor.name, zero)},")
    for state in recurrence.states:
        zero = f"torch.zeros_like({state.name}_0)"
        zero = f"None if {state.name}_0 is None else {zero}"
        lines.append(f"{known.get(state.name, zero)},")
    return tuple(lines)
