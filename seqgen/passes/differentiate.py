"""Reverse-mode differentiation of a token's straight-line program, as a program.

The cotangent of value ``x`` is a value ``d_x``, an expression over forward values (by name) and
the seeds. A gradient has the axes of what it belongs to, or fewer: it is then constant along the
others (the gradient of ``sum(x, K)`` with respect to ``x``).

Where torch's autograd defines the value at a kink, it is followed: ``max`` and ``min`` give half
to each side of a tie, ``amax`` shares evenly. Inside a branch of ``where`` a zero cotangent stays
zero even where the untaken branch overflows (torch makes NaN of it).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from seqgen.ir.expr import (
    COMPARISONS,
    Apply,
    Detach,
    Expr,
    IfPresent,
    Number,
    Pair,
    Pick,
    Reduce,
    Ref,
    add,
    call,
    references,
    rewrite,
    union,
    walk,
)
from seqgen.ir.recurrence import Assignment, Recurrence
from seqgen.passes.adjoint import Adjoint, tidy
from seqgen.passes.derivatives import is_short, kind, operands, partials, plain, through
from seqgen.passes.sharing import Fresh, fresh_names, is_cheap, share
from seqgen.passes.simplify import ONE, ZERO, Product, if_present, simplify

Leaf = tuple[str, tuple[tuple[str, int], ...]]


def differentiate(recurrence: Recurrence) -> Adjoint:
    """The adjoint of one token.

    Seeds are ``d_<output>`` and ``d_<state>_next``, the cotangent of the state's value after this
    token. The gradient of a state's incoming value is what the token before gets as its
    ``d_<state>_next``. The delay state ``position`` has neither.
    """
    taken = {a.name for a in recurrence.assignments} | {leaf.name for leaf in recurrence.leaves()}
    program = list(recurrence.assignments)
    seeds: dict[str, Expr] = {}
    for output in recurrence.outputs:
        name = f"{output.name}_result"  # the output itself may be named as a value is
        while name in taken:
            name += "_"
        program.append(Assignment(name, output.value))
        seeds[name] = Ref(f"d_{output.name}", output.axes)
    for state, final in recurrence.final:
        if state != "position":
            seed = Ref(f"d_{state}_next", recurrence.state(state).axes)
            seeds[final] = add(seeds[final], seed) if final in seeds else seed
    wrt = [leaf for leaf in recurrence.leaves() if leaf.name != "position"]
    return reverse_mode(program, seeds, wrt, tuple(axis.name for axis in recurrence.axes))


def reverse_mode(
    assignments: Sequence[Assignment],
    seeds: Mapping[str, Expr],
    wrt: Iterable[Ref],
    order: Sequence[str],
) -> Adjoint:
    """Gradients of ``wrt`` for the given cotangents.

    Args:
        assignments: a straight-line program.
        seeds: value name -> cotangent, with the axes of the value.
        wrt: the leaves to differentiate by (references to slices of them count as well).
        order: all axes, in the order of the recurrence.
    """
    return _Reverse(assignments, seeds, wrt, order).run()


class _Reverse:
    def __init__(
        self,
        assignments: Sequence[Assignment],
        seeds: Mapping[str, Expr],
        wrt: Iterable[Ref],
        order: Sequence[str],
    ) -> None:
        self.seeds, self.order = dict(seeds), tuple(order)
        self.seed_names = tuple(
            dict.fromkeys(name for seed in seeds.values() for name in references(seed))
        )
        wrt = list(wrt)
        self.names = {a.name for a in assignments} | set(self.seed_names) | {r.name for r in wrt}
        for assignment in assignments:
            self.names.update(references(assignment.value))
        self.given = frozenset(self.names)
        self.fresh: Fresh = fresh_names(self.names)
        program = [replace(a, value=rewrite(simplify(a.value), plain)) for a in assignments]
        self.program = list(share(program, self.fresh))
        self.active = {ref.name for ref in wrt}
        self.axes: dict[str, tuple[str, ...]] = {a.name: a.value.axes for a in self.program}
        """Axes of a value as its readers see them: those of its own expression, or more."""
        for ref in (n for a in self.program for n in walk(a.value) if isinstance(n, Ref)):
            if not ref.at and ref.name in self.axes:
                self.axes[ref.name] = union(self.axes[ref.name], ref.axes)
        for name, seed in seeds.items():
            self.axes[name] = union(self.axes.get(name, ()), seed.axes)
        for assignment in self.program:
            if any(name in self.active for name in references(assignment.value)):
                self.active.add(assignment.name)
        self.cotangents: dict[Leaf, list[Expr]] = {}
        self.leaves: dict[Leaf, Ref] = {(ref.name, ref.at): ref for ref in wrt}
        self.backward: list[Assignment] = []
        self.named: dict[tuple[Expr, tuple[str, ...]], Ref] = {}
        self.extra: list[Assignment] = []
        self.present: tuple[str, ...] = ()
        self.selected = False

    def run(self) -> Adjoint:
        forward: list[Assignment] = []
        for name, seed in self.seeds.items():
            self.cotangents[(name, ())] = [seed]
        for assignment in reversed(self.program):
            own = Ref(assignment.name, assignment.value.axes)
            self.extra, self.named = [], {(assignment.value, ()): own}
            cotangent = self.collect((assignment.name, ()))
            if cotangent is not None and assignment.name in self.active:
                cotangent = self.name(cotangent, f"d_{assignment.name}")
                source = self.axes[assignment.name]
                self.push(assignment.value, self.fit(cotangent, source, assignment.value.axes))
            forward += [self.abbreviated(assignment), *reversed(self.extra)]
        gradients = self.leaf_gradients()
        forward.reverse()
        given = Adjoint(tuple(forward), tuple(self.backward), tuple(gradients), self.seed_names)
        return tidy(given, self.given, self.fresh)

    # Cotangents ------------------------------------------------------------------------------

    def collect(self, leaf: Leaf) -> Expr | None:
        """The sum of all contributions; pairs and groups are joined first."""
        parts = self.cotangents.pop(leaf, [])
        if not parts:
            return None
        sums = [
            simplify(functools.reduce(add, group))
            for _, group in itertools.groupby(sorted(parts, key=kind), kind)
        ]
        return simplify(functools.reduce(add, sums))

    def name(self, value: Expr, wish: str) -> Expr:
        """A name for ``value`` (zero where the branch is not taken), unless it is an atom."""
        if is_cheap(value):
            return value
        while wish in self.names:
            wish += "_total"
        self.names.add(wish)
        for name in reversed(self.present):
            value = if_present(name, value, ZERO)
        self.backward.append(Assignment(wish, value))
        return Ref(wish, value.axes)

    def leaf_gradients(self) -> list[tuple[Ref, Expr]]:
        gradients = []
        for leaf, ref in self.leaves.items():
            total = self.collect(leaf)
            if total is None:
                continue
            wish = f"d_{leaf[0]}" + "".join(f"_m{i}" for _, i in leaf[1])
            gradients.append((ref, self.name(total, wish)))
        return gradients

    def fit(self, cotangent: Expr, source: Sequence[str], target: Sequence[str]) -> Expr:
        """``cotangent`` of a value over ``source``, for an operand that has only ``target``."""
        surplus = [axis for axis in source if axis not in target]
        return Product.of(cotangent).sum(surplus, self.order) if surplus else cotangent

    # Forward values --------------------------------------------------------------------------

    def value(self, expr: Expr) -> Expr:
        """``expr`` as backward reads it: by name, unless it is as short as one."""
        if is_cheap(expr):
            return expr
        key = (expr, self.present)
        if key not in self.named:
            self.named[key] = Ref(self.fresh(), expr.axes)
            self.extra.append(Assignment(self.named[key].name, expr))
        return self.named[key]

    def abbreviated(self, assignment: Assignment) -> Assignment:
        """``assignment`` reading the values that got names; these read each other, too."""
        keys = {ref.name: key for key, ref in self.named.items()}

        def short(expr: Expr, present: tuple[str, ...]) -> Expr:
            return self.named.get((expr, present)) or inside(expr, present)

        def inside(expr: Expr, present: tuple[str, ...]) -> Expr:
            if isinstance(expr, IfPresent):
                then = short(expr.then, (*present, expr.name))
                return IfPresent(expr.name, then, short(expr.other, present))
            if not expr.children:
                return expr
            return expr.with_children(tuple(short(child, present) for child in expr.children))

        def value(name: str) -> Expr:
            expr, present = keys[name]
            result = inside(expr, present)
            for guard in reversed(present):
                result = IfPresent(guard, result, ZERO)
            return result

        # A smaller expression cannot contain a larger one: smallest first is a valid order.
        self.extra.sort(key=lambda a: sum(1 for _ in walk(keys[a.name][0])))
        self.extra = [Assignment(a.name, value(a.name)) for a in self.extra]
        return replace(assignment, value=inside(assignment.value, ()))

    # The walk --------------------------------------------------------------------------------

    def is_active(self, expr: Expr) -> bool:
        if isinstance(expr, Ref):
            return expr.name in self.active
        if isinstance(expr, Detach) or (isinstance(expr, Apply) and expr.op in COMPARISONS):
            return False
        return any(self.is_active(child) for child in expr.children)

    def push(self, expr: Expr, cotangent: Expr) -> None:
        """Hands the cotangent of ``expr`` down to what it was made of."""
        if not self.is_active(expr) or cotangent == ZERO:
            return
        if isinstance(expr, Ref):
            self.leaf(expr, cotangent)
        elif isinstance(expr, Apply):
            self.apply(expr, cotangent)
        elif isinstance(expr, IfPresent):
            self.choice(expr, cotangent)
        elif isinstance(expr, Pair):
            self.pair(expr, cotangent)
        elif isinstance(expr, Reduce) and expr.op == "amax":
            largest = call("eq", self.value(expr.arg), self.value(expr))
            chosen = call("where", largest, ONE, ZERO)
            count = Reduce("sum", chosen, expr.axis)
            each = Product.of(cotangent, Apply("div", (ONE, count))).expr()
            self.push(expr.arg, call("where", largest, self.name(each, self.fresh()), ZERO))
        else:
            (child,) = expr.children
            self.push(child, through(expr, cotangent))

    def leaf(self, ref: Ref, cotangent: Expr) -> None:
        leaf = (ref.name, ref.at)
        self.leaves.setdefault(leaf, ref)
        for name in reversed(self.present):
            cotangent = if_present(name, cotangent, ZERO)
        self.cotangents.setdefault(leaf, []).append(cotangent)

    def choice(self, expr: IfPresent, cotangent: Expr) -> None:
        outer = self.present
        # Absent: the branch must not count where the tensor is there.
        other = if_present(expr.name, ZERO, cotangent)
        if self.is_active(expr.other):
            other = self.name(other, self.fresh())
            self.push(expr.other, self.fit(other, expr.axes, expr.other.axes))
        if self.is_active(expr.then):
            self.present = (*outer, expr.name)
            self.push(expr.then, self.fit(cotangent, expr.axes, expr.then.axes))
            self.present = outer

    def pair(self, expr: Pair, cotangent: Expr) -> None:
        whole = tuple(expr.half if axis == expr.axis else axis for axis in expr.axes)
        for part, child in enumerate((expr.first, expr.second)):
            picked = cotangent
            if expr.axis in cotangent.axes:
                picked = Pick(cotangent, expr.axis, expr.half, part, expr.pairs)
            self.push(child, self.fit(picked, whole, child.axes))

    def apply(self, expr: Apply, cotangent: Expr) -> None:
        if expr.op == "where" and not self.selected:
            self.selected = True
            self.apply(expr, cotangent)
            self.selected = False
            return
        args = operands(expr)
        count = sum(self.is_active(child) for child in args)
        if count > 1 and not is_short(cotangent):
            cotangent = self.name(cotangent, self.fresh())
        if expr.op == "mul":
            terms = [(arg, self.others(args, arg, cotangent)) for arg in dict.fromkeys(args)]
        else:
            terms = partials(expr, cotangent, self.value, self.is_active)
        for operand, factors in terms:
            if not self.is_active(operand):
                continue
            surplus = [axis for axis in expr.axes if axis not in operand.axes]
            product = Product.of(*factors)
            if self.selected and (product.below or len(product.above) > 1):
                safe = call("where", call("ne", cotangent, ZERO), product.expr(), ZERO)
                product = Product.of(safe)
            self.push(operand, product.sum(surplus, self.order))

    def others(self, args: list[Expr], arg: Expr, cotangent: Expr) -> list[Expr]:
        """The factors of the derivative of a product by ``arg``, which may be there repeatedly."""
        rest = list(args)
        rest.remove(arg)
        return [cotangent, Number(float(args.count(arg))), *map(self.value, rest)]


__all__ = ["Adjoint", "differentiate", "reverse_mode"]
