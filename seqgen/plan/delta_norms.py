"""Norms that the kernels of the delta schedule compute themselves.

``l2norm(k, K)`` is the tile ``k`` and a row factor, ``rsqrt(sum(k * k, K) + eps)``. The solve has
all channels of a token at hand and makes the factor on its way; backward, where it has the whole
gradient of the tile, subtracts what the factor makes of it. So no row kernel reads keys or queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from seqgen.ir.expr import Apply, Expr, Number, Reduce, mul
from seqgen.ir.printer import show
from seqgen.passes.affine import factors_of, product, remove
from seqgen.passes.simplify import simplify
from seqgen.plan.linear_kernels import Lines
from seqgen.plan.linear_roles import Role, Roles

PLAIN = 3
"""Planes that the solve makes in any case: factors of the erase, the read and the write."""


@dataclass(frozen=True)
class Norm:
    """The norm of keys or queries.

    Attributes:
        tile: what kernels call the tile, "k" or "q".
        eps: what is added to the sum of squares.
        equation: where it comes from, in the user's words.
        weights: which row weights have it for a factor, of write, read and erase.
    """

    tile: str
    eps: float
    equation: str
    weights: tuple[str, ...]

    @property
    def factor(self) -> str:
        """What kernels call the row factor."""
        return f"{self.tile}_rnorm"


@dataclass(frozen=True)
class NormsPlan:
    """What the templates of the delta schedule place for norms; all texts are final.

    Attributes:
        any: whether there are norms.
        planes: Python text: how many planes of factors per token the solve makes.
        comment: which ones.
        solve: Triton lines that compute and store norms.
        loads: Triton lines that load them in backward.
        argument: the planes, in the signature of the backward launcher.
        launches: lines of that launcher for gradients through norms, over several blocks of keys.
        key: equation of the norm of the keys, or ""; ``query`` likewise.
        by_key: Triton text that multiplies by it, or ""; ``by_query`` likewise.
    """

    any: bool
    planes: str
    comment: str
    solve: Lines
    loads: Lines
    argument: str
    launches: Lines
    key: str
    query: str
    by_key: str
    by_query: str


def take_norms(roles: Roles) -> tuple[Roles, tuple[Norm, ...]]:
    """``roles`` with weights that have no norms of keys and queries, and these norms.

    A norm is one of the whole tensor that is the tile, as it is; others stay in the weights.
    """
    query, key, _ = roles.tiles
    norms: list[Norm] = []
    if (found := _norm(key, roles.write, roles.erase)) is not None:
        write, erase = (_without(weight, found) for weight in (roles.write, roles.erase))
        roles = replace(roles, write=write, erase=erase)
        norms.append(_described(found, "k", roles, ("write", "erase")))
    if (found := _norm(query, roles.read)) is not None:
        roles = replace(roles, read=_without(roles.read, found))
        norms.append(_described(found, "q", roles, ("read",)))
    return roles, tuple(norms)


def plan_norms(norms: tuple[Norm, ...]) -> NormsPlan:
    """What the templates place for ``norms``."""
    names = ["of the erase, the read and the write", *(f"1 / |{norm.tile}|" for norm in norms)]
    planes = {norm.tile: f"factors_ptr + {PLAIN + n} * PLANE" for n, norm in enumerate(norms)}
    computed: list[str] = []
    for norm in norms:
        call = f"{norm.tile}_ptr, rows, valid, H{norm.tile.upper()} * K, K, BK, {norm.eps!r}"
        computed += [f"# {norm.equation}", f"{norm.factor} = rnorm({call})"]
    # Stored at the end: tiles that are read again after a store are loaded again.
    stored = [f"tl.store({planes[norm.tile]}, {norm.factor})" for norm in norms]
    loads = [f"{n.factor} = tl.load({planes[n.tile]} + in_rows * 64 + i)" for n in norms]
    launches = [f"    launch_norm_gradient({n.tile}, d_{n.tile}, {n.eps!r})" for n in norms]
    equations = {norm.tile: norm.equation for norm in norms}
    factors = {norm.tile: f" * {norm.factor}" for norm in norms}
    return NormsPlan(
        any=bool(norms),
        planes=str(PLAIN + len(norms)),
        comment=f"[{PLAIN + len(norms)}, chunks, H, 64], {'; '.join(names)}",
        solve=(*computed, *stored),
        loads=tuple(loads),
        argument=" factors," if norms else "",
        launches=("if n_blocks > 1:  # no program has all channels", *launches) if norms else (),
        key=equations.get("k", ""),
        query=equations.get("q", ""),
        by_key=factors.get("k", ""),
        by_query=factors.get("q", ""),
    )


def _norm(role: Role, *weights: Expr | None) -> Apply | None:
    """The factor of all ``weights`` that norms the tensor that is the tile of ``role``."""
    if role.leaf is None or None in weights:
        return None
    squares = Reduce("sum", mul(role.tile, role.tile), role.axis)
    first, *others = (factors_of(weight)[1] for weight in weights if weight is not None)
    for factor in first:
        match factor:
            case Apply("rsqrt", (Apply("add", (found, Number())),)) if found == squares:
                if all(factor in other for other in others):
                    return factor
    return None


def _without(weight: Expr | None, factor: Expr) -> Expr | None:
    """What is left of a weight; None if that is nothing."""
    assert weight is not None
    number, factors = factors_of(weight)
    rest = simplify(product(remove(factors, (factor,)) or (), number))
    return None if rest == Number(1.0) else rest


def _described(norm: Apply, tile: str, roles: Roles, weights: tuple[str, ...]) -> Norm:
    (total,) = norm.args
    assert isinstance(total, Apply) and isinstance(total.args[1], Number)
    text, lets = show(norm), roles.recurrence.let
    equation = next((a.equation for a in lets if a.equation and text in show(a.value)), text)
    return Norm(tile, total.args[1].value, equation, weights)
