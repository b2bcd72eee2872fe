"""The chunkwise schedule of the linear family for one decay per token, head and key channel.

Inside a chunk of 64 tokens a pair's decay differs from channel to channel, so scores are no product
of two matrices with a factor per pair: each level of a binary tree over the rows scores the pairs
that meet at its borders, with decays up to the border inside the operands. One kernel prepares
scores, decayed queries and keys of all chunks; then states pass from chunk to chunk, and outputs
and gradients are parallel over chunks.
"""

from __future__ import annotations

from typing import Literal

from seqgen.gpu.table import Gpu
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.structure import Structure
from seqgen.plan.gates import gate_notes
from seqgen.plan.knobs import Config, KernelSpace, Knob
from seqgen.plan.linear import BLOCKS, TILES, has_async_products, row_spaces
from seqgen.plan.linear_epilogue import plan_epilogue
from seqgen.plan.linear_rows import plan_rows
from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.plan.vector_calls import VectorCalls
from seqgen.plan.vector_kernels import plan_vector_kernels
from seqgen.plan.vector_roles import find_channel_roles

LARGE = (
    ("vector_scores", "kernels/vector_scores.py.jinja"),
    ("vector_scores", "kernels/vector_scores_launch.py.jinja"),
    ("vector_scores_strong", "kernels/vector_scores_levels.py.jinja"),
    ("vector_scores_strong", "kernels/vector_scores_strong.py.jinja"),
    ("vector_state", "kernels/vector_state.py.jinja"),
    ("vector_output", "kernels/vector_output.py.jinja"),
    ("vector_states", "kernels/vector_states.py.jinja"),
    ("vector_values", "kernels/vector_values.py.jinja"),
    ("vector_gradients", "kernels/vector_gradients_products.py.jinja"),
    ("vector_gradients", "kernels/vector_gradients.py.jinja"),
    ("vector_gradients", "kernels/vector_gradients_launch.py.jinja"),
    ("vector_gradients_strong", "kernels/vector_gradients_levels.py.jinja"),
    ("vector_gradients_strong", "kernels/vector_gradients_strong.py.jinja"),
)
HELPERS = ("keep", "linear", "linear_host", "vector", "vector_middle", "vector_walk")


def plan_vector(recurrence: Recurrence, structure: Structure, gpu: Gpu) -> SchedulePlan:
    """The chunkwise schedule, for the calls that fit it.

    Raises:
        NoFastFormError: the schedule does not cover the operator.
    """
    roles = find_channel_roles(recurrence, structure)
    rows = plan_rows(roles)
    epilogue = plan_epilogue(roles)
    plan = plan_vector_kernels(roles, rows, epilogue)
    calls = VectorCalls(roles, rows, epilogue, plan.signed)
    parts = [KernelPart(name, template, plan) for name, template in LARGE]
    small = [t for t in (rows.forward, rows.backward, epilogue.backward) if t is not None]
    parts += [KernelPart(tiles.name, TILES, tiles) for tiles in small]
    parts.append(KernelPart("vector", "kernels/vector_calls.py.jinja", calls.plan()))
    call = f"{', '.join(calls.arguments)}, cu_seqlens, sizes"
    results = f"{roles.output.name}, {roles.state.name}_final"
    forward = f"{results} = _vector_forward({call}, want_final, kept)"
    backward = f"gradients = _vector_backward({call}, {', '.join(calls.cotangents)}, kept)"
    return SchedulePlan(
        name="vector",
        helpers=HELPERS,
        kernels=tuple(parts),
        fits=calls.fits,
        forward_call=(forward,),
        backward_call=(backward,),
        spaces=(*vector_spaces(gpu), *row_spaces(small)),
        notes=gate_notes(recurrence, structure),
        fallback=calls.fallback,
        keeps=calls.keeps,
    )


def vector_spaces(gpu: Gpu) -> list[KernelSpace]:
    """The knobs of the large kernels."""
    # Where products are async, ptxas 12.8 gives operands of 32 bf16 channels wrong addresses: an
    # H200 showed faults.
    wide = has_async_products(gpu)
    channels, warps = Knob("KI", (64,) if wide else (32, 64)), Knob("num_warps", (4, 8))
    keys, values = Knob("BK", BLOCKS), Knob("BV", BLOCKS)
    walks, stages = Knob("num_stages", (2, 3, 4)), Knob("num_stages", (1, 2, 3))
    registers = Knob("maxnreg", (0, 128, 168) if wide else (0,))
    block = 64 if wide else 32
    scores: Config = {"KI": block, "maxnreg": 0, "num_warps": 4}
    state: Config = {"BK": 64, "BV": 32, "num_stages": 4, "num_warps": 4}
    states: Config = {"BK": 64, "BV": 64, "num_stages": 3, "num_warps": 4}
    output: Config = {"BK": 64, "BV": 128, "num_warps": 4}
    of_values: Config = {"BK": 128, "BV": 128, "num_stages": 1, "num_warps": 4}
    # With two stages an H100 loaded values over those that async products still read: repeated
    # runs differed. A block of all values needs no stages.
    most, ahead = (128, 1) if wide else (64, 2)
    gradients: Config = {"KI": block, "BV": most, "maxnreg": 0, "num_stages": ahead, "num_warps": 4}
    strong: Config = {"KI": block, "BV": 64, "num_stages": ahead, "num_warps": 4}
    return [
        KernelSpace("vector_scores", "fwd", (channels, registers, warps), scores),
        strong_space("vector_scores_strong", "fwd", {"KI": block, "num_warps": 4}),
        KernelSpace("vector_state", "fwd", (keys, values, walks, warps), state),
        KernelSpace("vector_output", "fwd", (keys, values, warps), output),
        KernelSpace("vector_states", "bwd", (keys, values, walks, warps), states),
        KernelSpace("vector_values", "bwd", (keys, values, stages, warps), of_values),
        KernelSpace(
            "vector_gradients", "bwd", (channels, values, registers, stages, warps), gradients
        ),
        strong_space("vector_gradients_strong", "bwd", strong),
    ]


def strong_space(kernel: str, role: Literal["fwd", "bwd"], config: Config) -> KernelSpace:
    """A kernel for strong decays has one configuration: what it is raced on need not have any."""
    return KernelSpace(kernel, role, tuple(Knob(n, (v,)) for n, v in config.items()), config)
