"""The large kernels of the delta schedule: what their templates place.

Backward leaves row sums [planes, chunks, H, 64], of which linear_rows_backward makes the gradients
of decays and weights. NB is the number of blocks of keys; the planes of a group are to be added:

* for the decay: 2 of sums over pairs j < i, per token i and per token j; NB of what erases and NB
  of what reads find in the state; NB of what tokens leave in it, and NB of zeros; NB of what passes
  through the chunk (at token 0), and NB of zeros;
* for each weight that is given, of write, read and erase: NB of sums over pairs (block 0 has them
  all; for the write also of what tokens leave), and NB of what is found (for the write zeros).
"""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.plan.delta_norms import PLAIN, Norm
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import LinearPlan, Lines, plan_kernels
from seqgen.plan.linear_roles import Roles
from seqgen.plan.linear_rows import WEIGHTS, Rows


@dataclass(frozen=True)
class DeltaPlan:
    """Everything that the templates kernels/delta_*.py.jinja of large kernels place.

    Attributes:
        base: what they share with the linear schedule.
        write: whether writes have a weight, given or made of a norm; ``read`` and ``erase``
            likewise.
        write_plane: Triton text: first plane of the sums for the gradient of the weight of writes
            that is given; ``read_plane`` and ``erase_plane`` likewise; "" without such a weight.
        sums: whether decays or weights that are given have gradients, which are made of row sums.
        erase_sum: whether sums over what the erases find in the state are needed.
        read_sum: whether sums over what the queries find there are needed.
        weigh: Triton text that multiplies pairs [j, i] by the weight of write j.
        by_write: Triton text that multiplies by the weights of writes, or ""; ``by_read`` and
            ``by_erase`` likewise.
        row_parameters: parameters of the decay and the weights that are given.
        row_arguments: the same, in launchers.
        loads: Triton lines that load the decays and the weights that exist.
        write_text: Triton text of the weight of writes, or "one" without; ``read_text`` and
            ``erase_text`` likewise.
        planes: Python text: how many planes of sums there are.
        factors: what planes the solve makes, as a comment.
        factor_planes: how many, as Python text.
        norms: whether kernels compute norms.
        norm_lines: Triton lines of the solve that compute them.
        key_norm: the equation of the norm of the keys, or ""; ``query_norm`` likewise.
        k_rnorm: Triton text that multiplies by the norms of the keys, or ""; ``q_rnorm`` likewise.
        norm_launches: lines of the backward launcher for gradients through norms over several
            blocks of keys.
        factors_argument: the factors in the signature of the backward launcher, where it has them.
    """

    base: LinearPlan
    write: bool
    read: bool
    erase: bool
    write_plane: str
    read_plane: str
    erase_plane: str
    sums: bool
    erase_sum: bool
    read_sum: bool
    weigh: str
    by_write: str
    by_read: str
    by_erase: str
    row_parameters: Lines
    row_arguments: Lines
    loads: Lines
    write_text: str
    read_text: str
    erase_text: str
    planes: str
    factors: str
    factor_planes: str
    norms: bool
    norm_lines: Lines
    key_norm: str
    query_norm: str
    k_rnorm: str
    q_rnorm: str
    norm_launches: Lines
    factors_argument: str


def plan_delta_kernels(
    roles: Roles, rows: Rows, epilogue: Epilogue, norms: tuple[Norm, ...]
) -> DeltaPlan:
    """The plan of all large kernels; ``norms`` are those that ``roles`` have no more."""
    base = plan_kernels(roles, rows, epilogue)
    values = (roles.write, roles.read, roles.erase)
    given = [kind for kind, value in zip(WEIGHTS, values, strict=True) if value is not None]
    start = "2 + 3 * NS + " if rows.decay_gradient else ""
    planes = {kind: f"{start}{n} * NS + b" for n, kind in enumerate(given)}
    count = f"{2 * len(given)} * n_blocks"
    if rows.decay_gradient:
        count = f"2 + {6 + 2 * len(given)} * n_blocks"
    decays = []
    if roles.decay is not None:
        decays = [
            f"{name} = load_decay(decay_ptr, chunk, h, {at}, PLANE, H, EXACT)"
            for name, at in _DECAYS
        ]
    by_role = {norm.role: norm for norm in norms}
    weights = _weights(given, by_role)
    rnorms = [
        f"{_RNORMS[norm.role]} = tl.load(factors_ptr + {norm.plane} * PLANE + in_rows * 64 + i)"
        for norm in norms
    ]
    row_names = [*(["decay"] if roles.decay is not None else []), *given]
    return DeltaPlan(
        base=base,
        write="write" in weights,
        read="read" in weights,
        erase="erase" in weights,
        write_plane=planes.get("write", ""),
        read_plane=planes.get("read", ""),
        erase_plane=planes.get("erase", ""),
        sums=rows.decay_gradient or bool(given),
        erase_sum=rows.decay_gradient or "erase" in given,
        read_sum=rows.decay_gradient or "read" in given,
        weigh=" * write[:, None]" if "write" in weights else "",
        by_write=" * write" if "write" in weights else "",
        by_read=" * read" if "read" in weights else "",
        by_erase=" * erase" if "erase" in weights else "",
        row_parameters=tuple(f"{name}_ptr,  # {_COMMENTS[name]}" for name in row_names),
        row_arguments=tuple(f"{name}," for name in row_names),
        loads=(*decays, *rnorms, *(f"{kind} = {text}" for kind, text in weights.items())),
        write_text=weights.get("write", "one"),
        read_text=weights.get("read", "one"),
        erase_text=weights.get("erase", "one"),
        planes=count,
        factors=_factors(norms),
        factor_planes=str(PLAIN + len(norms)),
        norms=bool(norms),
        norm_lines=tuple(line for norm in norms for line in _norm_lines(norm)),
        key_norm=by_role["key"].equation if "key" in by_role else "",
        query_norm=by_role["query"].equation if "query" in by_role else "",
        k_rnorm=" * k_rnorm" if "key" in by_role else "",
        q_rnorm=" * q_rnorm" if "query" in by_role else "",
        norm_launches=_norm_launches(norms),
        factors_argument=" factors," if norms else "",
    )


_DECAYS = (("high, low", "i"), ("end_high, end_low", "63"))
_COMMENTS = {
    "decay": "[planes, chunks, H, 64], log2",
    "write": "[chunks, H, 64], weight of each write",
    "read": "[chunks, H, 64], weight of each read",
    "erase": "[chunks, H, 64], weight of each erase",
}
_RNORMS = {"key": "k_rnorm", "query": "q_rnorm"}
_NORMED = {"write": "key", "read": "query", "erase": "key"}


def _weights(given: list[str], norms: dict[str, Norm]) -> dict[str, str]:
    """Triton text of each weight there is: what is given, times the norm."""
    weights = {}
    for kind in WEIGHTS:
        factors = [f"tl.load({kind}_ptr + in_rows * 64 + i)"] if kind in given else []
        factors += [_RNORMS[_NORMED[kind]]] if _NORMED[kind] in norms else []
        if factors:
            weights[kind] = " * ".join(factors)
    return weights


def _norm_lines(norm: Norm) -> Lines:
    name = _RNORMS[norm.role]
    letter, heads = ("k", "HK") if norm.role == "key" else ("q", "HQ")
    return (
        f"# {norm.equation}",
        f"{name} = rnorm({letter}_ptr, rows, valid, {heads} * K, K, BK, {norm.eps!r})",
        f"tl.store(factors_ptr + {norm.plane} * PLANE, {name})",
    )


def _norm_launches(norms: tuple[Norm, ...]) -> Lines:
    if not norms:
        return ()
    calls = [f"    launch_norm_gradient({x}, d_{x}, {eps!r})" for x, eps in map(_of_norm, norms)]
    return ("if n_blocks > 1:  # of channels, each in a program of its own", *calls)


def _of_norm(norm: Norm) -> tuple[str, float]:
    return ("k" if norm.role == "key" else "q"), norm.eps


def _factors(norms: tuple[Norm, ...]) -> str:
    """What the solve makes per token, as a comment."""
    names = ["of the erase, the read and the write", *(f"1 / |{n.role}|" for n in norms)]
    return f"[{PLAIN + len(norms)}, chunks, H, 64], {'; '.join(names)}"
