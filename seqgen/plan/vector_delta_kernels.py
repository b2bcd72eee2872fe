"""The large kernels of the vector_delta schedule: what their templates place."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.gpu.table import Gpu
from seqgen.passes.ranges import bounds
from seqgen.plan.linear import has_async_products
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import LinearPlan, operand, plan_kernels
from seqgen.plan.linear_roles import Role, Roles
from seqgen.plan.linear_rows import Rows
from seqgen.plan.vector_operands import Lines, Operands, first_row, plan_operands, row_tile

DECAYED = (
    "decayed_q_ptr,  # [B, T, H, K], scale q e^prefix",
    "decayed_a_ptr,  # [B, T, H, K], a e^prefix",
    "decayed_b_ptr,  # [B, T, H, K], b e^suffix",
    "decayed_k_ptr,  # [B, T, H, K], k e^suffix",
)
"""What the first kernel makes of the rows; the last only where values have keys of their own."""

LETTERS = {"query": "q", "erase_key": "a", "put": "b", "key": "k"}
"""How kernels call the rows over the key axis."""


@dataclass(frozen=True)
class VectorDeltaPlan:
    """Everything that the templates kernels/vector_delta_*.py.jinja of large kernels place.

    Attributes:
        base: what they share with the linear schedule.
        operands: the tensors over the key axis, the gates and the weight of keys.
        own: whether values are written with keys of their own, not with those of the erase.
        before: whether the erase reads the state before its decay.
        until: Triton text: how a gate's row compares to rows whose erase reads what it decays.
        nearest: how far apart the nearest rows are that have a gate between them for the erase.
        signed: whether gates may be above 0: nothing proves that they are not.
        write: whether there is a weight of the keys that are written with.
        decayed: names of the decayed rows; ``decayed_rows`` as parameters of a kernel,
            ``decayed_parameters`` and ``decayed_pointers`` of a function and what it gets.
        scores: names of the matrices of scores, with ``score_dtypes`` and ``score_parameters``.
        matrices: how many matrices of scores there are; ``matrices_note`` which.
        loads: Triton lines: tiles of q, a, b and, if ``own``, k; ``writers`` and ``erase`` those of
            b and k and that of a alone; ``level_loads`` all of them likewise, in
            functions that get ``pointers`` and ``strides`` as ``stride_parameters``.
        moved: Triton text: pointers to the first rows of the chunk, ``moved_loads`` their tiles,
            ``gate_offset`` where the gates have it, ``v_moved`` the values.
        gradients: names of the gradients of rows.
        results: parameters for gradients of the tensors over the key axis.
        result_note: what these are, for a docstring.
        early: Triton lines that store the gradient of a, if it has one of its own.
        after_b: Triton lines that store the gradient of b; ``ends`` those of b and k.
        v_argument: launcher text: the values, where they have keys of their own; Triton text:
            ``v_pointer``, ``v_stride`` and ``v_stride_parameter``.
        ak_argument: launcher text: what else there is then, as are ``qk_arguments`` of the
            output and ``key_arguments`` of the gradients of values.
        v_result: launcher text: the gradient of the values, where it is one of its own.
        z_source: what the solve makes Z of, for a comment; ``z_note`` what its gradient is.
        gate_note: on which rows the decay of a token acts, for a comment.
        result_dtype: of the output.
        shared_bytes: how much shared memory a program may have.
        wide: columns of a walk that loads nothing ahead.
    """

    base: LinearPlan
    operands: Operands
    own: bool
    before: bool
    until: str
    nearest: int
    signed: bool
    write: bool
    decayed: str
    decayed_rows: Lines
    decayed_parameters: str
    decayed_pointers: str
    scores: str
    score_dtypes: str
    score_parameters: Lines
    matrices: int
    matrices_note: str
    loads: Lines
    writers: Lines
    erase: Lines
    level_loads: Lines
    pointers: str
    strides: str
    stride_parameters: str
    moved: str
    moved_loads: Lines
    gate_offset: str
    v_moved: str
    gradients: str
    results: Lines
    result_note: str
    early: Lines
    after_b: Lines
    ends: Lines
    v_argument: str
    v_pointer: str
    v_stride: str
    v_stride_parameter: str
    ak_argument: str
    qk_arguments: str
    key_arguments: str
    v_result: str
    z_source: str
    z_note: str
    gate_note: str
    result_dtype: str
    shared_bytes: int
    wide: int


def rows_of(roles: Roles) -> dict[str, Role]:
    """The tiles over the key axis that kernels read, in order, by letter."""
    named = {role.name: role for role in roles.tiles}
    return {letter: named[name] for name, letter in LETTERS.items() if name in named}


def plan_vector_delta_kernels(
    roles: Roles, rows: Rows, epilogue: Epilogue, before: bool, gpu: Gpu
) -> VectorDeltaPlan:
    """The plan of all large kernels; ``before`` as in it."""
    base = plan_kernels(roles, rows, epilogue)
    found = rows_of(roles)
    shared, write = "a" not in found, roles.write is not None
    own = not shared and "k" in found
    gate = roles.tiles[3]
    notes = {letter: operand(role) for letter, role in {**found, "g": gate}.items()}
    notes["g"] += ", natural logarithms"
    weight = [("write", "[chunks, H, 64], weight of each key")] * write
    decayed = ("decayed_q", "decayed_a", "decayed_b", *(["decayed_k"] * own))
    scores = ("ab", "qb", *(("qk", "ak") if own else ()))
    gradients = ("d_q", "d_a", "d_b", *(["d_k"] * own))
    return VectorDeltaPlan(
        base=base,
        operands=plan_operands(notes, weight),
        own=own,
        before=before,
        until="<" if before else "<=",
        nearest=2 if before else 1,
        signed=bounds(gate.tile, roles.recurrence)[1] > 0.0,
        write=write,
        decayed=", ".join(decayed),
        decayed_rows=DECAYED if own else DECAYED[:-1],
        decayed_parameters=", ".join(f"{name}_ptr" for name in decayed),
        decayed_pointers=", ".join(f"{name}_ptr + at" for name in decayed),
        scores=", ".join(scores),
        score_dtypes=", ".join(["torch.float32", *["io.dtype"] * (len(scores) - 1)]),
        score_parameters=(
            "ab_ptr,  # [chunks, H, 64, 64], fp32, as all of these with the decay between two rows",
            *(f"{name}_ptr,  # [chunks, H, 64, 64]" for name in scores[1:]),
        ),
        matrices=len(scores),
        matrices_note="qb, ab, qk, ak" if own else "qb, ab",
        loads=_loads({x: f"H{x.upper()} * K" for x in found}, shared, write),
        writers=_writers(own, shared, write),
        erase=_erase(shared),
        level_loads=_loads({x: f"STRIDE_{x.upper()}" for x in found}, shared, write),
        pointers=", ".join([*(f"{x}_ptr" for x in found), *["write"] * write]),
        strides=", ".join(f"H{x.upper()} * K" for x in found),
        stride_parameters=", ".join(f"STRIDE_{x.upper()}: tl.constexpr" for x in found),
        moved=", ".join([*(f"{x}_ptr + {first_row(x)}" for x in found), *["write"] * write]),
        moved_loads=_loads({x: f"H{x.upper()} * K" for x in found}, shared, write, moved=True),
        gate_offset=first_row("g"),
        v_moved=" v_ptr + (first * HV + h // (H // HV)) * V," * own,
        gradients=", ".join(gradients),
        results=tuple(f"d_{x}_ptr,  # [B, T, H, K]" for x in found),
        result_note=f"{', '.join(found)} and log-decays [B, T, H, K]",
        early=(_store("a"),) if not shared else (),
        after_b=_after_b(shared, write),
        ends=(*_after_b(shared, write), *([_store("k")] * own)),
        v_argument=" v," * own,
        v_pointer=" v_ptr," * own,
        v_stride="HV * V, " * own,
        v_stride_parameter="STRIDE_V: tl.constexpr, " * own,
        ak_argument=" ak," * own,
        qk_arguments=" v, qk," * own,
        key_arguments=" v, decayed_k, qk, ak, d_states," * own,
        v_result="d_v, " * own,
        z_source="ak v" if own else "v",
        z_note="" if own else ", and of the values",
        gate_note="m <= i, for erases m < i" if before else "m <= i",
        result_dtype=base.result_dtype.replace("v.dtype", "added.dtype"),
        shared_bytes=gpu.smem_optin,
        # With one stage Triton 3.6 gives narrow tiles wrong addresses where products are async.
        wide=64 if has_async_products(gpu) else 32,
    )


def _loads(strides: dict[str, str], shared: bool, write: bool, moved: bool = False) -> Lines:
    lines = [row_tile(x, stride, moved) for x, stride in strides.items()]
    if shared:
        weight = " * write[:, None]" if write else ""
        lines += ["a = -k.to(tl.float32)", f"b = k.to(tl.float32){weight}"]
    return tuple(lines)


def _store(letter: str) -> str:
    return f"store_rows(d_{letter}_ptr + at, d_{letter}, rows, valid, r_k, H * K, K)"


def _writers(own: bool, shared: bool, write: bool) -> Lines:
    if shared:
        weight = " * write[:, None]" if write else ""
        return (row_tile("k", "HK * K"), f"b = k.to(tl.float32){weight}")
    return (row_tile("b", "HB * K"), *([row_tile("k", "HK * K")] * own))


def _erase(shared: bool) -> Lines:
    if not shared:
        return (row_tile("a", "HA * K"),)
    return (row_tile("k", "HK * K"), "a = -k.to(tl.float32)")


def _after_b(shared: bool, write: bool) -> Lines:
    if not shared:
        return (_store("b"),)
    weighed = (
        "in_sums = block.to(tl.int64) * PLANE + in_rows * 64 + i",
        "tl.store(sums_ptr + in_sums, tl.sum(d_b * k.to(tl.float32), 1))",
        "d_b = d_b * write[:, None]",
    )
    return (*(weighed if write else ()), "d_k = d_b - d_a", _store("k"))
