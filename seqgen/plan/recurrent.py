"""The universal schedule: any recurrence, token after token, with its gradients."""

from __future__ import annotations

from seqgen.ir.recurrence import Recurrence
from seqgen.plan.recurrent_forward import plan_recurrent_forward
from seqgen.plan.recurrent_program import Program
from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.plan.tiling import elements


def plan_recurrent(recurrence: Recurrence) -> SchedulePlan:
    """Kernels, launchers and calls that run ``recurrence`` serially in time."""
    program = Program(recurrence)
    forward = plan_recurrent_forward(program)
    return SchedulePlan(
        name="recurrent",
        helpers=("arithmetic", "recurrent"),
        kernels=(KernelPart(forward.name, "kernels/recurrent_forward.py.jinja", forward),),
        forward_call=_forward_call(program),
        backward_call=("raise NotImplementedError",),
        defaults={"operator": {"C": 32}, forward.name: _default(program, 1024)},
    )


def _default(program: Program, lanes: int) -> dict[str, int]:
    """Blocks that give a warp about ``lanes`` elements of the widest tile; warps to fit.

    One warp keeps reductions free of shared memory; 32 fp32 registers a thread hold 1024.
    """
    config = {}
    tile = 1
    for knob, axis, _ in program.tiling.knobs:
        widest = max(program.largest_tiles(axis), key=len, default=(axis,))
        others = elements([program.recurrence.axis(name) for name in widest if name != axis])
        config[knob] = max(4 if others > 1 else 64, min(64, lanes // others))
        tile = others * config[knob]
    if not program.tiling.knobs:
        tiles = program.largest_tiles()
        tile = max((elements([program.recurrence.axis(a) for a in t]) for t in tiles), default=1)
    warps = 1
    while warps < 16 and tile > 2 * lanes * warps:
        warps *= 2
    return {**config, "num_warps": warps, "num_stages": 2}


def _forward_call(program: Program) -> tuple[str, ...]:
    rec = program.recurrence
    names = [t.name for t in program.tensors] + [f"{s.name}_0" for s in rec.states]
    results = [o.name for o in rec.outputs] + [f"{s.name}_final" for s in rec.states]
    ignored = ["_"] * len(rec.states)
    return (
        f"{', '.join([*results, *ignored])} = launch_recurrent_forward(",
        f"    {', '.join(names)}, cu_seqlens, sizes, want_final, False",
        ")",
    )
