"""The chunkwise schedule of the delta family: one erase and one write with the same key.

Inside a chunk of 64 tokens what each one writes is the solution of a unit lower triangular system,
whose inverse does not depend on the state: one kernel prepares it for all chunks. Then states pass
from chunk to chunk; outputs and the gradients of queries and keys are parallel over chunks.
"""

from __future__ import annotations

from seqgen.gpu.table import Gpu
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.structure import Structure
from seqgen.plan.delta_calls import DeltaCalls
from seqgen.plan.delta_kernels import plan_delta_kernels
from seqgen.plan.delta_norms import take_norms
from seqgen.plan.knobs import KernelSpace, Knob
from seqgen.plan.linear import BLOCKS, TILES, has_async_products, row_spaces
from seqgen.plan.linear_epilogue import plan_epilogue
from seqgen.plan.linear_roles import find_roles
from seqgen.plan.linear_rows import plan_rows
from seqgen.plan.schedule import KernelPart, SchedulePlan

LARGE = (
    ("delta_solve", "kernels/delta_solve.py.jinja"),
    ("delta_state", "kernels/delta_state.py.jinja"),
    ("delta_output", "kernels/delta_output.py.jinja"),
    ("delta_states", "kernels/delta_states.py.jinja"),
    ("delta_backward", "kernels/delta_backward.py.jinja"),  # one kernel in three parts
    ("delta_backward", "kernels/delta_backward_erased.py.jinja"),
    ("delta_backward", "kernels/delta_backward_queries.py.jinja"),
    ("delta_backward", "kernels/delta_backward_launch.py.jinja"),
)
HELPERS = (
    "keep",
    "linear",
    "linear_decay",
    "linear_host",
    "descriptors",
    "delta_solve",
    "delta",
    "delta_adjoint",
)


def plan_delta(recurrence: Recurrence, structure: Structure, gpu: Gpu) -> SchedulePlan:
    """The chunkwise schedule, for the calls that fit it.

    Raises:
        NoFastFormError: the schedule does not cover the operator.
    """
    roles, norms = take_norms(find_roles(recurrence, structure))
    rows = plan_rows(roles)
    epilogue = plan_epilogue(roles)
    calls = DeltaCalls(roles, rows, epilogue, norms)
    plan = plan_delta_kernels(roles, rows, epilogue, norms)
    parts = [KernelPart(name, template, plan) for name, template in LARGE]
    small = [t for t in (rows.forward, rows.backward, epilogue.backward) if t is not None]
    parts += [KernelPart(tiles.name, TILES, tiles) for tiles in small]
    parts.append(KernelPart("delta", "kernels/delta_calls.py.jinja", calls.plan()))
    call = f"{', '.join(calls.arguments)}, cu_seqlens, sizes"
    results = f"{roles.output.name}, {roles.state.name}_final"
    forward = f"{results} = _delta_forward({call}, want_final, kept)"
    backward = f"gradients = _delta_backward({call}, {', '.join(calls.cotangents)}, kept)"
    steps = "" if recurrence.reverse else "decode steps, and "
    fallback = f"{steps}calls with T < 16, {roles.key} outside 16 to 256 or {roles.value} outside "
    return SchedulePlan(
        name="delta",
        helpers=(*HELPERS, *(["delta_norms"] if norms else [])),
        kernels=tuple(parts),
        fits="_delta_fits(sizes)",
        forward_call=(forward,),
        backward_call=(backward,),
        spaces=(*_spaces(gpu), *row_spaces(small)),
        fallback=f"The token-serial kernels take {fallback}16 to 512.",
        keeps=calls.keeps,
    )


def _spaces(gpu: Gpu) -> list[KernelSpace]:
    keys, values = Knob("BK", BLOCKS), Knob("BV", BLOCKS)
    columns, stages = Knob("BV", (16, 32, 64)), Knob("num_stages", (1, 2, 3))
    warps, registers = Knob("num_warps", (4, 8)), Knob("maxnreg", (0, 168))
    described = Knob("descriptors", (False, True))
    # The best of a few on an H200, B2 T16384 H16 D128. Loads by descriptors: the state passes in
    # 0.31 ms instead of 0.40. Back alone, three stages take 0.43 and two 0.58 (H100).
    hopper = has_async_products(gpu)
    solve = {"BK": 128, "num_warps": 4, "maxnreg": 168 if hopper else 0}
    state = {"BV": 32 if hopper else 16, "descriptors": hopper, "num_stages": 3, "num_warps": 4}
    states = {"BV": 32, "descriptors": hopper, "num_stages": 3 if hopper else 2, "num_warps": 4}
    output = {"BK": 128, "BV": 128, "num_warps": 4, "maxnreg": 0}
    backward = {
        "BK": 128,
        "BV": 128,
        "descriptors": hopper,
        "num_warps": 4 if hopper else 8,
        "maxnreg": 0,
    }
    return [
        KernelSpace("delta_solve", "fwd", (keys, warps, registers), solve),
        KernelSpace("delta_state", "fwd", (columns, described, stages, warps), state),
        KernelSpace("delta_output", "fwd", (keys, values, warps, registers), output),
        KernelSpace("delta_states", "bwd", (columns, described, stages, warps), states),
        KernelSpace("delta_backward", "bwd", (keys, values, described, warps, registers), backward),
    ]
