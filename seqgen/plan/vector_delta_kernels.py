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

Lines = tuple[str, ...]

LETTERS = {"query": "q", "erase_key": "a", "put": "b", "key": "k"}
"""How kernels call the rows over the key axis."""


@dataclass(frozen=True)
class VectorDeltaPlan:
    """Everything that the templates kernels/vector_delta_*.py.jinja of large kernels place.

    Attributes:
        base: what they share with the linear schedule.
        own: whether values are written with keys of their own, not with those of the erase.
        decayed: whether the erase reads the state after its decay.
        until: Triton text: how a gate's row compares to rows whose erase reads what it decays.
        nearest: how far apart the nearest rows are that have a gate between them for the erase.
        signed: whether gates may be above 0: nothing proves that they are not.
        write: whether there is a weight of the keys that are written with.
        matrices: how many matrices of scores there are.
        names: launcher text: the tensors over the key axis, the gates and the weight.
        parameters: of kernels that read these tensors; ``heads`` of their numbers of heads.
        offsets: Triton lines: pointers to the first row of the chunk.
        loads: Triton lines: tiles of q, a, b and, if ``own``, k; ``level_loads`` likewise, in
            functions that get ``pointers`` and ``strides`` as ``stride_parameters``.
        arguments: launcher lines behind ``parameters``; ``values`` behind ``heads``.
        results: parameters for gradients of the tensors over the key axis.
        result_note: what these are, for a docstring.
        early: Triton lines that store the gradient of a, if it has one of its own.
        ends: Triton lines that store the gradients of b and k.
        scores: names of the matrices of scores.
        level_results: names of the gradients that level_gradients takes and gives.
        result_dtype: of the output.
        shared_bytes: how much shared memory a program may have.
        wide: columns of a walk that loads nothing ahead.
    """

    base: LinearPlan
    own: bool
    decayed: bool
    until: str
    nearest: int
    signed: bool
    write: bool
    matrices: int
    names: str
    parameters: Lines
    heads: Lines
    offsets: Lines
    loads: Lines
    level_loads: Lines
    pointers: str
    strides: str
    stride_parameters: str
    arguments: Lines
    values: Lines
    results: Lines
    result_note: str
    early: Lines
    ends: Lines
    scores: Lines
    level_results: Lines
    result_dtype: str
    shared_bytes: int
    wide: int


def rows_of(roles: Roles) -> dict[str, Role]:
    """The tiles over the key axis that kernels read, in order, by letter."""
    named = {role.name: role for role in roles.tiles}
    return {letter: named[name] for name, letter in LETTERS.items() if name in named}


def plan_vector_delta_kernels(
    roles: Roles, rows: Rows, epilogue: Epilogue, decayed: bool, gpu: Gpu
) -> VectorDeltaPlan:
    """The plan of all large kernels."""
    base = plan_kernels(roles, rows, epilogue)
    found = rows_of(roles)
    shared, write = "a" not in found, roles.write is not None
    own = not shared and "k" in found
    gate = roles.tiles[3]
    every = {**found, "g": gate}
    notes = {letter: operand(role) for letter, role in every.items()}
    notes["g"] += ", natural logarithms"
    letters = list(every)
    weight = ["write_ptr,  # [chunks, H, 64], weight of each key"] * write
    return VectorDeltaPlan(
        base=base,
        own=own,
        decayed=decayed,
        until="<=" if decayed else "<",
        nearest=1 if decayed else 2,
        signed=bounds(gate.tile, roles.recurrence)[1] > 0.0,
        write=write,
        matrices=4 if own else 2,
        names=", ".join([*letters, *["write"] * write]),
        parameters=(*(f"{x}_ptr,  # {notes[x]}" for x in letters), *weight),
        heads=tuple(f"H{x.upper()}: tl.constexpr," for x in letters),
        offsets=tuple(
            f"{x}_ptr += (first * H{x.upper()} + h // (H // H{x.upper()})) * K" for x in letters
        ),
        loads=_loads({x: f"H{x.upper()} * K" for x in found}, shared, write),
        level_loads=_loads({x: f"STRIDE_{x.upper()}" for x in found}, shared, write),
        pointers=", ".join([*(f"{x}_ptr" for x in found), *["write"] * write]),
        strides=", ".join(f"H{x.upper()} * K" for x in found),
        stride_parameters=", ".join(f"STRIDE_{x.upper()}: tl.constexpr" for x in found),
        arguments=tuple(f"{x}," for x in (*letters, *["write"] * write)),
        values=tuple(f"H{x.upper()}={x}.shape[2]," for x in letters),
        results=tuple(f"d_{x}_ptr,  # [B, T, H, K]" for x in found),
        result_note=f"{', '.join(found)} and log-decays [B, T, H, K]",
        early=(_store("a"),) if not shared else (),
        ends=_ends(list(found), shared, write),
        scores=("qb", "ab", *(("qk", "ak") if own else ())),
        level_results=("d_q", "d_a", "d_b", *(("d_k",) if own else ())),
        result_dtype=base.result_dtype.replace("v.dtype", "added.dtype"),
        shared_bytes=gpu.smem_optin,
        # With one stage Triton 3.6 gives narrow tiles wrong addresses where products are async.
        wide=64 if has_async_products(gpu) else 32,
    )


def _loads(strides: dict[str, str], shared: bool, write: bool) -> Lines:
    lines = [
        f"{x} = load_rows({x}_ptr, rows, valid, r_k, {stride}, K, EXACT)"
        for x, stride in strides.items()
    ]
    if shared:
        weight = " * write[:, None]" if write else ""
        lines += ["a = -k.to(tl.float32)", f"b = k.to(tl.float32){weight}"]
    return tuple(lines)


def _store(letter: str) -> str:
    return f"store_rows(d_{letter}_ptr + at, d_{letter}, rows, valid, r_k, H * K, K)"


def _ends(letters: list[str], shared: bool, write: bool) -> Lines:
    lines = []
    if shared:
        if write:
            lines += [
                "in_sums = (pid % NK).to(tl.int64) * PLANE + in_rows * 64 + i",
                "tl.store(sums_ptr + in_sums, tl.sum(d_b * k.to(tl.float32), 1))",
                "d_b = d_b * write[:, None]",
            ]
        lines.append("d_k = d_b - d_a")
    return (*lines, *(_store(x) for x in letters if x in ("b", "k")))
