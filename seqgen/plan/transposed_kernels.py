"""The kernels that only the forward of the transposed schedule has: what their templates place."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.passes.ranges import bounds
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import LinearPlan, operand, plan_kernels
from seqgen.plan.linear_roles import Role, Roles
from seqgen.plan.linear_rows import Rows

Lines = tuple[str, ...]
SCORES = "[chunks, H, 64, 64], of queries and keys, 0 where no token reads"
QUERIES = "q_ptr + (first * HQ + h // (H // HQ)) * K"
SCORED_READ = (
    "scores = tl.load(scores_ptr + in_rows * 4096 + i[:, None] * 64 + i[None, :])",
    "read = read_states(",
    f"    {QUERIES}, states_ptr + in_rows * (K * V),",
    "    rows, valid, r_v, HQ * K, K, V, BK, BV, EXACT_V, PRECISION,",
    ")  # fmt: skip",
)


@dataclass(frozen=True)
class TransposedPlan:
    """Everything that the templates kernels/transposed_*.py.jinja of kernels place.

    Attributes:
        base: what they share with the linear schedule.
        key: what queries are multiplied with, or the scores if these are there already;
            ``key_parameter``, ``key_constants`` and ``key_values`` of kernels and their launchers.
        value: what scores weigh, for comments.
        gate: what the gates are, for comments.
        signed: whether gates may be above 0: nothing proves that they are not.
        write_parameters: of kernels, the weights; ``write_arguments`` and ``write_launch`` those of
            launchers and of kernels there.
        states: layout of the states, for comments.
        read: Triton lines that make ``read`` and ``scores`` from states, queries and keys.
        end: Triton lines that make the output of ``read`` and store it.
    """

    base: LinearPlan
    key: str
    key_parameter: str
    key_constants: Lines
    key_values: Lines
    value: str
    gate: str
    signed: bool
    write_parameters: Lines
    write_arguments: str
    write_launch: Lines
    states: str
    read: Lines
    end: Lines


def plan_transposed_kernels(
    roles: Roles, rows: Rows, epilogue: Epilogue, key: str | None, value: Role, gate: Role
) -> TransposedPlan:
    """The plan of these kernels.

    ``key`` is what queries are multiplied with, None if they are decayed and scores are there;
    ``value`` what scores weigh, with the log-decay ``gate``.
    """
    write = roles.write is not None
    scores = key is None
    store = "store_rows(output_ptr + (first * H + h) * V, {}, rows, valid, r_v, H * V, V)"
    end: Lines = (store.format("read"),)
    if epilogue.lines:
        lines = ("m_v = r_v < V", *epilogue.lines)
        indented = (f"    {line}" for line in lines)
        end = ("result = read", "if EPILOGUE:", *indented, store.format("result"))
    base = plan_kernels(roles, rows, epilogue)
    return TransposedPlan(
        base=base,
        key="scores" if scores else "k",
        key_parameter=f"scores_ptr,  # {SCORES}" if scores else f"k_ptr,  # {key}",
        key_constants=() if scores else ("HK: tl.constexpr,", "scale,"),
        key_values=() if scores else ("HK=k.shape[2],", f"scale={base.scale},"),
        value=operand(value),
        gate=f"{operand(gate)}, natural logarithms",
        signed=bounds(gate.tile, roles.recurrence)[1] > 0.0,
        write_parameters=("write_ptr,  # [chunks, H, 64], weight of each write",) * write,
        write_arguments=" write," * write,
        write_launch=("write,",) * write,
        states="[chunks, H, K, V]" if scores else "[chunks, H, V, K]",
        read=SCORED_READ if scores else _read(write),
        end=end,
    )


def _read(write: bool) -> Lines:
    weight = "scale" + " * tl.load(write_ptr + in_rows * 64 + i)[None, :]" * write
    return (
        "read, scores = read_states(",
        f"    {QUERIES}, k_ptr + (first * HK + h // (H // HK)) * K,",
        "    states_ptr + in_rows * (K * V), rows, valid, r_v, HQ * K, HK * K, K, V, BK, BV,",
        f"    EXACT_V, scale, {weight}, PRECISION,",
        ")  # fmt: skip",
    )
