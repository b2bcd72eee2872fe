"""The chunkwise schedule for one decay per key channel and an erase (KDA, RWKV-7).

As in the vector schedule scores of pairs of rows carry decays inside their operands, and as in the
delta schedule what a chunk adds to the state is the solution of a triangular system: one kernel
scores the pairs, one solves the system for whatever state comes in; then states pass from chunk to
chunk, and outputs and gradients are parallel over chunks.
"""

from __future__ import annotations

from seqgen.gpu.table import Gpu
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.structure import Structure
from seqgen.plan.gates import gate_notes
from seqgen.plan.knobs import Config, KernelSpace, Knob
from seqgen.plan.linear import BLOCKS, TILES, has_async_products, row_spaces
from seqgen.plan.linear_epilogue import plan_epilogue
from seqgen.plan.linear_rows import plan_rows
from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.plan.vector import strong_space
from seqgen.plan.vector_delta_calls import VectorDeltaCalls
from seqgen.plan.vector_delta_kernels import plan_vector_delta_kernels
from seqgen.plan.vector_delta_roles import find_erase_roles

LARGE = (
    ("vector_delta_scores", "kernels/vector_delta_scores.py.jinja"),
    ("vector_delta_scores", "kernels/vector_delta_scores_launch.py.jinja"),
    ("vector_delta_scores_strong", "kernels/vector_delta_scores_levels.py.jinja"),
    ("vector_delta_scores_strong", "kernels/vector_delta_scores_strong.py.jinja"),
    ("vector_delta_solve", "kernels/vector_delta_solve.py.jinja"),
    ("vector_delta_state", "kernels/vector_delta_state.py.jinja"),
    ("vector_delta_output", "kernels/vector_delta_output.py.jinja"),
    ("vector_delta_states", "kernels/vector_delta_states.py.jinja"),
    ("vector_delta_values", "kernels/vector_delta_values.py.jinja"),
    (
        "vector_delta_gradients",
        "kernels/vector_delta_gradients.py.jinja",
    ),  # one kernel in two parts
    ("vector_delta_gradients", "kernels/vector_delta_gradients_writers.py.jinja"),
    ("vector_delta_gradients", "kernels/vector_delta_gradients_launch.py.jinja"),
    ("vector_delta_gradients_strong", "kernels/vector_delta_gradients_products.py.jinja"),
    ("vector_delta_gradients_strong", "kernels/vector_delta_gradients_levels.py.jinja"),
    ("vector_delta_gradients_strong", "kernels/vector_delta_gradients_strong.py.jinja"),
)
HELPERS = (
    "keep",
    "linear",
    "linear_host",
    "vector",
    "vector_middle",
    "delta_solve",
    "vector_delta",
)


def plan_vector_delta(recurrence: Recurrence, structure: Structure, gpu: Gpu) -> SchedulePlan:
    """The chunkwise schedule, for the calls that fit it.

    Raises:
        NoFastFormError: the schedule does not cover the operator.
    """
    roles = find_erase_roles(recurrence, structure)
    rows = plan_rows(roles)
    epilogue = plan_epilogue(roles)
    (component,) = structure.components
    plan = plan_vector_delta_kernels(roles, rows, epilogue, component.step.inner != "D", gpu)
    calls = VectorDeltaCalls(roles, rows, epilogue, plan)
    parts = [KernelPart(name, template, plan) for name, template in LARGE]
    small = [t for t in (rows.forward, rows.backward, epilogue.backward) if t is not None]
    parts += [KernelPart(tiles.name, TILES, tiles) for tiles in small]
    parts.append(KernelPart("vector_delta", "kernels/vector_delta_calls.py.jinja", calls.plan()))
    call = f"{', '.join(calls.arguments)}, cu_seqlens, sizes"
    results = f"{roles.output.name}, {roles.state.name}_final"
    forward = f"{results} = _vector_delta_forward({call}, want_final, kept)"
    backward = f"gradients = _vector_delta_backward({call}, {', '.join(calls.cotangents)}, kept)"
    sums = ["linear_decay"] if plan.write else []
    return SchedulePlan(
        name="vector_delta",
        helpers=(*HELPERS, *sums),
        kernels=tuple(parts),
        fits=calls.fits,
        forward_call=(forward,),
        backward_call=(backward,),
        spaces=(*vector_delta_spaces(gpu, plan.own), *row_spaces(small)),
        notes=gate_notes(recurrence, structure),
        fallback=calls.fallback,
        keeps=calls.keeps,
    )


def vector_delta_spaces(gpu: Gpu, own: bool) -> list[KernelSpace]:
    """The knobs of the large kernels; ``own`` as in their plan."""
    hopper = has_async_products(gpu)
    # As in the vector schedule: no products with 32 channels there, unless seen to be right.
    channels, warps = Knob("KI", (64,) if hopper else (32, 64)), Knob("num_warps", (4,))
    block = 64 if hopper and own else 32
    blocks = channels if hopper and own else Knob("KI", (32, 64))
    keys, values = Knob("BK", BLOCKS), Knob("BV", BLOCKS)
    columns, walks = Knob("BV", (16, 32, 64)), Knob("num_stages", (2, 3))
    stages = Knob("num_stages", (1, 2, 3))
    registers = Knob("maxnreg", (0, 168) if hopper else (0,))
    limit = 168 if hopper else 0  # three programs at a time
    scores: Config = {"KI": 32 if own else 64, "maxnreg": 0, "num_stages": 2, "num_warps": 4}
    solve: Config = {"BK": 64, "BV": 64, "maxnreg": limit, "num_warps": 4}
    state: Config = {"BV": 32, "num_stages": 3, "num_warps": 4}
    states: Config = {"BV": 32, "num_stages": 3 if hopper else 2, "num_warps": 4}
    output: Config = {"BK": 128, "BV": 128, "num_warps": 4}
    of_values: Config = {"BK": 64, "BV": 128, "num_stages": 1, "num_warps": 4}
    three = 0 if block == 64 else limit
    gradients: Config = {"KI": block, "BV": 64, "maxnreg": three, "num_stages": 2, "num_warps": 4}
    strong: Config = {"KI": block, "BV": 64, "num_stages": 2, "num_warps": 4}
    return [
        KernelSpace(
            "vector_delta_scores", "fwd", (Knob("KI", (32, 64)), registers, stages, warps), scores
        ),
        strong_space(
            "vector_delta_scores_strong", "fwd", {"KI": 64, "num_stages": 2, "num_warps": 4}
        ),
        KernelSpace("vector_delta_solve", "fwd", (keys, values, registers, warps), solve),
        KernelSpace("vector_delta_state", "fwd", (columns, walks, warps), state),
        KernelSpace("vector_delta_output", "fwd", (keys, values, warps), output),
        KernelSpace("vector_delta_states", "bwd", (columns, walks, warps), states),
        KernelSpace("vector_delta_values", "bwd", (keys, values, stages, warps), of_values),
        KernelSpace(
            "vector_delta_gradients", "bwd", (blocks, values, registers, stages, warps), gradients
        ),
        strong_space("vector_delta_gradients_strong", "bwd", strong),
    ]
