"""A linear recurrence with one decay per key or per value channel taken into roles.

The log-decay is a tile over that axis, the gate; row factors are part of the tiles of queries
and keys. With one per key channel, an output that reads the state before the token's update may
add the token's own write, weighed by a bonus per channel: ``sum(q * (prev(S) + u * k * v), K)``.

With one per value channel, the transposed state has one per key channel: see transposed_roles.
With both there are two gates, that of keys first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from seqgen.ir.expr import Apply, Expr, Reduce, Ref, references
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.affine import addends, factors_of, product
from seqgen.passes.simplify import simplify
from seqgen.passes.structure import Structure
from seqgen.plan.linear_roles import (
    Finder,
    Leaf,
    Role,
    Roles,
    check_read_after,
    matrix_component,
    require,
)


def find_channel_roles(recurrence: Recurrence, structure: Structure) -> Roles:
    """The roles of ``recurrence``.

    Raises:
        NoFastFormError: the chunkwise schedule does not cover it.
    """
    component = matrix_component(recurrence, structure)
    require(len(recurrence.states) == 1, "there are several states")
    if "value" in component.decay:
        check_read_after(component)
    return _ChannelFinder(recurrence, component, structure).channel_roles()


class _ChannelFinder(Finder):
    def channel_roles(self) -> Roles:
        roles = self.roles()
        query, key, value = roles.tiles
        decay = self.component.step.decay
        logs = [(self.key, decay.log), (self.value, decay.log_value)]
        gates = [(axis, self.spelled(log)) for axis, log in logs if log is not None]
        names = ("gate", "value_gate")
        tiles = (
            self.unrounded(weighted(query, roles.read)),
            weighted(key, roles.write),
            value,
            *(self.tile(n, a, log, "float32") for n, (a, log) in zip(names, gates, strict=False)),
        )
        roles = replace(roles, tiles=tiles, decay=None, write=None, read=None)
        return self.before(roles) if self.component.reads[0].before else roles

    def unrounded(self, query: Role) -> Role:
        """Queries made of float32 vectors stay that until they enter a product.

        A softmax over many entries is nearly the same number everywhere: rounding it to the io
        dtype once more shows.
        """
        made = references(self.inlined(query.tile))
        vectors = (self.tensors[name] for name in made if name in self.tensors)
        wide = any(t.dtype == "float32" and self.key in t.axes for t in vectors)
        return replace(query, wide=wide and query.leaf is None)

    def before(self, roles: Roles) -> Roles:
        """The roles where the state is read before the token's update."""
        component, output = self.component, roles.output
        parts = (component.query, component.key, component.value)
        numbers, factors = zip(*(factors_of(self.written_out(part)) for part in parts), strict=True)
        own = _Own(roles, numbers[0] * numbers[1] * numbers[2], sum(factors, ()))
        result = own.joined(output.value)
        bonus = None
        if own.bonus is not None:
            bonus = self.bonus(own.bonus)
        return replace(
            roles,
            strict=True,
            diagonal=own.found,
            bonus=bonus,
            output=replace(output, value=result),
        )

    def written_out(self, expr: Expr) -> Expr:
        return self.spelled(self.inlined(expr))

    def bonus(self, expr: Expr) -> Leaf:
        """The bonus as a tensor over the key axis."""
        leaf = None
        if isinstance(expr, Ref) and expr.name in self.tensors:
            leaf = self.leaf(self.tensors[expr.name])
        plain = leaf is not None and not leaf.timed and leaf.tensor.required
        require(plain, "a token's own write has a weight that is no parameter")
        assert leaf is not None
        require(leaf.axes == (self.head, self.key), "a token's own write has another weight")
        return leaf


class _Own:
    """Finds what a token reads of its own write, in an output next to the read of the state.

    Attributes:
        found: whether there is such a term.
        bonus: its weight per channel, None for one.
    """

    def __init__(self, roles: Roles, number: float, factors: tuple[Expr, ...]) -> None:
        self.roles, self.number, self.factors = roles, number, factors
        self.found = False
        self.bonus: Expr | None = None

    def joined(self, expr: Expr) -> Expr:
        """``expr`` with the term as part of the read."""
        if isinstance(expr, Apply) and expr.op in ("add", "sub"):
            parts = addends(expr)
            reads = [p for p in parts if isinstance(p, Ref) and p.name == self.roles.source]
            kept = [p for p in parts if not (reads and self.is_own(p))]
            if len(kept) < len(parts):
                result = kept[0]
                for part in kept[1:]:
                    result = Apply("add", (result, part))
                return result
        children = tuple(self.joined(child) for child in expr.children)
        return expr.with_children(children) if children else expr

    def is_own(self, expr: Expr) -> bool:
        """Whether ``expr`` is the term; there is one at most."""
        number, factors = factors_of(expr)
        sums = [f for f in factors if isinstance(f, Reduce) and f.axis == self.roles.key]
        if self.found or len(sums) != 1 or sums[0].op != "sum":
            return False
        inner, terms = factors_of(sums[0].arg)
        rest = _without((*(f for f in factors if f is not sums[0]), *terms), self.factors)
        if rest is None or number * inner != self.number:
            return False
        self.found = True
        self.bonus = simplify(product(rest)) if rest else None
        return True


def _without(factors: Iterable[Expr], taken: Iterable[Expr]) -> tuple[Expr, ...] | None:
    """``factors`` less each of ``taken`` once; None if one is not there."""
    left = list(factors)
    for factor in taken:
        if factor not in left:
            return None
        left.remove(factor)
    return tuple(left)


def weighted(role: Role, weight: Expr | None) -> Role:
    """A role with its row factor inside the tile."""
    if weight is None:
        return role
    return Role(role.name, role.axis, simplify(product((role.tile, weight))), None)
