"""Norms that the kernels of the delta schedule compute themselves.

``l2norm(k, K)`` is the tile ``k`` and a row factor, ``rsqrt(sum(k * k, K) + eps)``. The solve has
all channels of a token at hand and makes the factor on its way; backward, where it has all of the
gradient of the tile, subtracts what the factor makes of it. So no row kernel reads keys or queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from seqgen.ir.expr import Apply, Expr, Number, Reduce, mul
from seqgen.ir.printer import show
from seqgen.passes.affine import factors_of, product, remove
from seqgen.passes.simplify import simplify
from seqgen.plan.linear_roles import Role, Roles

PLAIN = 3
"""Planes of the factors that the solve makes in any case: of the erase, the read and the write."""


@dataclass(frozen=True)
class Norm:
    """The norm of one role's tile.

    Attributes:
        role: "key" or "query".
        eps: what is added to the sum of squares.
        equation: where it comes from, in the user's words.
        plane: where the kernels find the factors, among those that the solve makes.
    """

    role: str
    eps: float
    equation: str
    plane: int


def take_norms(roles: Roles) -> tuple[Roles, tuple[Norm, ...]]:
    """The norms of tensors that are keys or queries, and ``roles`` with weights without them."""
    query, key, _ = roles.tiles
    norms: list[Norm] = []
    for role, kinds in ((key, ("write", "erase")), (query, ("read",))):
        weights = {kind: getattr(roles, kind) for kind in kinds}
        for factor, eps in _norms(role, weights[kinds[0]]):
            rest = {kind: _without(weight, factor) for kind, weight in weights.items()}
            if None not in rest.values():
                given = {kind: None if w == Number(1.0) else w for kind, w in rest.items()}
                roles = replace(roles, **given)
                plane = PLAIN + len(norms)
                norms.append(Norm(role.name, eps, _equation(roles, factor), plane))
                break
    return roles, tuple(norms)


def _norms(role: Role, weight: Expr | None) -> Iterator[tuple[Expr, float]]:
    """Factors of ``weight`` that norm the tensor that is the tile of ``role``, with their eps."""
    if role.leaf is None or weight is None:
        return
    squares = Reduce("sum", mul(role.tile, role.tile), role.axis)
    for factor in factors_of(weight)[1]:
        match factor:
            case Apply("rsqrt", (Apply("add", (found, Number(eps))),)) if found == squares:
                yield factor, eps


def _without(weight: Expr | None, factor: Expr) -> Expr | None:
    """``weight`` without a factor; None if it has no such factor."""
    if weight is None:
        return None
    number, factors = factors_of(weight)
    rest = remove(factors, (factor,))
    return None if rest is None else simplify(product(rest, number))


def _equation(roles: Roles, factor: Expr) -> str:
    text = show(factor)
    lets = roles.recurrence.let
    return next((a.equation for a in lets if a.equation and text in show(a.value)), text)
