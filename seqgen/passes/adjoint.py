"""The adjoint of a token as a program, and how it is made short and readable."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from seqgen.ir.expr import Expr, Ref, references, rewrite
from seqgen.ir.recurrence import Assignment
from seqgen.passes.sharing import Fresh, fresh_names, inline, is_cheap, prune, share
from seqgen.passes.simplify import ZERO, in_order, simplify


@dataclass(frozen=True)
class Adjoint:
    """A program for the gradients of one token.

    Attributes:
        forward: the forward assignments that ``backward`` needs. Names mean what they mean in
            the recurrence; sub-expressions that the derivative needs have names of their own.
        backward: assignments of cotangents, reading forward values, leaves and seeds.
        gradients: leaf reference (micro-step slices apart, see ``Ref.at``) and its gradient, for
            every leaf that has one; a leaf that is missing has gradient zero.
        seeds: names of the cotangents that come from outside, in order.
    """

    forward: tuple[Assignment, ...]
    backward: tuple[Assignment, ...]
    gradients: tuple[tuple[Ref, Expr], ...]
    seeds: tuple[str, ...]

    def gradient(self, name: str) -> Expr:
        """The gradient of the leaf with value ``name`` (not of its slices); zero if it has none."""
        return next((g for leaf, g in self.gradients if leaf.name == name and not leaf.at), ZERO)

    def __str__(self) -> str:
        from seqgen.ir.printer import show

        lines = [f"{a.name} = {show(a.value)}" for a in (*self.forward, *self.backward)]
        for leaf, gradient in self.gradients:
            at = "".join(f" at {axis} = {i}" for axis, i in leaf.at)
            lines.append(f"gradient of {leaf.name}{at}: {show(gradient)}")
        return "\n".join(lines)


def tidy(adjoint: Adjoint, given: Collection[str], fresh: Fresh) -> Adjoint:
    """The same gradients: repeated work named, single uses put in place, the rest dropped.

    Args:
        adjoint: as reverse mode wrote it.
        given: names of the differentiated program, which stay.
        fresh: source of names.
    """
    known = {a.value: Ref(a.name, a.value.axes) for a in adjoint.forward if not is_cheap(a.value)}

    def finished(expr: Expr) -> Expr:
        return rewrite(simplify(expr), lambda e: known.get(e, e))

    ends = [Assignment(f"gradient {i}", g) for i, (_, g) in enumerate(adjoint.gradients)]
    named = {a.name for a in adjoint.backward if a.name.startswith("d_")}
    work = [replace(a, value=finished(a.value)) for a in (*adjoint.backward, *ends)]
    program = inline(share(work, fresh), [a.name for a in ends], named)
    program = tuple(replace(a, value=simplify(in_order(a.value))) for a in program)
    backward, results = program[: len(program) - len(ends)], program[len(program) - len(ends) :]
    roots = {name for a in results for name in references(a.value)}
    backward = prune(backward, roots)
    roots |= {name for a in backward for name in references(a.value)}
    leaves = tuple((ref, a.value) for (ref, _), a in zip(adjoint.gradients, results, strict=True))
    return _renamed(Adjoint(prune(adjoint.forward, roots), backward, leaves, adjoint.seeds), given)


def only(adjoint: Adjoint, leaves: Collection[str]) -> Adjoint:
    """What of ``adjoint`` the gradients of ``leaves`` (names of values) need."""
    gradients = tuple((ref, g) for ref, g in adjoint.gradients if ref.name in leaves)
    roots = {name for _, gradient in gradients for name in references(gradient)}
    backward = prune(adjoint.backward, roots)
    roots |= {name for a in backward for name in references(a.value)}
    return Adjoint(prune(adjoint.forward, roots), backward, gradients, adjoint.seeds)


def _renamed(adjoint: Adjoint, given: Collection[str]) -> Adjoint:
    """The same with ``arg1``, ``arg2``, ... in order, and gradients named after leaves."""
    assignments = (*adjoint.forward, *adjoint.backward)
    used = {a.name for a in assignments}
    made = {name for name in used if name not in given and name.startswith("arg")}
    names: dict[str, str] = {}
    for ref, gradient in adjoint.gradients:
        wish = f"d_{ref.name}" + "".join(f"_m{i}" for _, i in ref.at)
        if isinstance(gradient, Ref) and gradient.name in made and wish not in used | set(given):
            names.setdefault(gradient.name, wish)
    fresh = fresh_names(given)
    for assignment in assignments:
        if assignment.name in made:
            names.setdefault(assignment.name, fresh())
    names |= {f"d_{old}": f"d_{new}" for old, new in names.items() if f"d_{old}" in used}

    def rename(expr: Expr) -> Expr:
        if isinstance(expr, Ref) and expr.name in names:
            return Ref(names[expr.name], expr.ref_axes)
        return expr

    def program(part: Sequence[Assignment]) -> tuple[Assignment, ...]:
        return tuple(
            replace(a, name=names.get(a.name, a.name), value=rewrite(a.value, rename)) for a in part
        )

    gradients = tuple((ref, rewrite(g, rename)) for ref, g in adjoint.gradients)
    return Adjoint(program(adjoint.forward), program(adjoint.backward), gradients, adjoint.seeds)
