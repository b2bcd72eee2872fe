"""Norms over the key axis that the kernels of the vector_delta schedule compute themselves.

As in the delta schedule (``delta_norms``) ``l2norm(k, K)`` is a tensor and a row factor, here as
part of a role's tile. The scores kernel makes the factors, all kernels multiply by them where they
load tiles. One program of the gradients takes all blocks of channels of its tokens: at its end it
knows what the factor makes of the gradient, and subtracts that where it stored the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from seqgen.ir.expr import Apply, Ref
from seqgen.passes.affine import factors_of
from seqgen.plan.delta_norms import Norm, described, is_norm
from seqgen.plan.linear_roles import Role, Roles
from seqgen.plan.vector_operands import Lines, first_row

LETTERS = {"query": "q", "erase_key": "a", "put": "b", "key": "k"}
"""How kernels call the rows over the key axis."""


@dataclass(frozen=True)
class RowNorms:
    """What the templates of the vector_delta schedule place for norms; all texts are final.

    Attributes:
        any: whether there are norms.
        letters: of the tiles that have one.
        comment: what the tensor of all factors is.
        shape: launcher text: its shape; ``result`` its name, in front of other results.
        computed: Triton lines that compute and store factors.
        loads: Triton lines that load them.
        started: Triton lines before a loop over blocks of channels: sums for gradients.
        ended: Triton lines behind it, which subtract what factors make of gradients.
        blocks: Triton text: how many blocks of channels a program of gradients takes; ``parts``
            launcher text: times how many programs that takes.
        started: Triton lines before its loop over them: sums for what factors make of gradients.
        sums: their names, ``given`` in front of other arguments, ``target`` as what is assigned.
        ended: Triton lines behind each block: after the last, subtract what factors make of
            gradients. ``ended_moved`` likewise, from pointers to tensors and not to rows.
    """

    any: bool
    letters: tuple[str, ...]
    comment: str
    shape: str
    result: str
    computed: Lines
    loads: Lines
    blocks: str
    parts: str
    started: Lines
    sums: str
    given: str
    target: str
    ended: Lines
    ended_moved: Lines

    def tile(self, line: str) -> str:
        """A line that loads a tile, which becomes the normed one."""
        letter = line.split(" = ")[0]
        return f"{line} * {letter}_rnorm[:, None]" if letter in self.letters else line

    def stored(self, letter: str) -> Lines:
        """Lines that store the gradient of a tile, for a constant factor if it has one."""
        store = f"store_rows(d_{letter}_ptr + at, d_{letter}, rows, valid, r_k, H * K, K)"
        if letter not in self.letters:
            return (store,)
        return (
            f"along_{letter} += tl.sum(d_{letter} * {letter}, 1)",
            f"d_{letter} = d_{letter} * {letter}_rnorm[:, None]",
            store,
        )


def take_row_norms(roles: Roles) -> tuple[Roles, tuple[Norm, ...]]:
    """``roles`` whose tiles have no norms any more, and these norms.

    A norm is one of a whole tensor, without other factors; others stay in the tiles.
    """
    norms: list[Norm] = []
    tiles: list[Role] = []
    for role in roles.tiles:
        found = _normed(role, roles)
        if found is not None:
            tensor, factor = found
            norms.append(described(factor, LETTERS[role.name], roles))
            role = replace(role, tile=tensor, leaf=roles.leaf(tensor.name))
        tiles.append(role)
    return replace(roles, tiles=tuple(tiles)), tuple(norms)


def plan_row_norms(norms: tuple[Norm, ...]) -> RowNorms:
    """What the templates place for ``norms``."""
    place = f"rnorms_ptr + in_rows * {64 * len(norms)}"
    computed: list[str] = []
    loads: list[str] = []
    for n, norm in enumerate(norms):
        x, factor, at = norm.tile, norm.factor, f"{place} + {64 * n} + i"
        computed += [
            f"# {norm.equation}",
            f"{factor} = rnorm({x}_ptr, rows, valid, H{x.upper()} * K, K, KI, {norm.eps!r})",
            f"tl.store({at}, {factor})",
        ]
        loads.append(f"{factor} = tl.load({at})")
    letters = tuple(norm.tile for norm in norms)
    sums = [f"along_{x}" for x in letters]
    factors = ", ".join(f"1 / |{x}|" for x in letters)
    return RowNorms(
        any=bool(norms),
        letters=letters,
        comment=f"[chunks, H, {len(norms)}, 64], fp32, {factors}",
        shape=f"(chunks.count, H, {len(norms)}, 64)",
        result="rnorms, " if norms else "",
        computed=tuple(computed),
        loads=tuple(loads),
        blocks="NK" if norms else "1",
        parts="" if norms else " * _cdiv(K, KI)",
        started=tuple(f"{name} = tl.zeros([64], tl.float32)" for name in sums),
        sums=", ".join(sums),
        given="".join(f"{name}, " for name in sums),
        target=f"{', '.join(sums)} = " if sums else "",
        ended=_ended(norms, moved=False),
        ended_moved=_ended(norms, moved=True),
    )


def _ended(norms: tuple[Norm, ...], moved: bool) -> Lines:
    """Lines behind the gradients in a block, with pointers to the first rows if not ``moved``."""
    lines = [
        "if block == NK - 1:  # the last: sums are complete",
        "    tl.debug_barrier()  # what other threads stored is read again",
    ]
    for norm in norms:
        x, factor = norm.tile, norm.factor
        pointers = f"d_{x}_ptr + at, {x}_ptr" + (f" + {first_row(x)}" if moved else "")
        lines += [
            f"    # Through {norm.equation}",
            f"    part = along_{x} * {factor} * {factor}",
            f"    subtract_rows({pointers}, part, rows, valid, H * K, H{x.upper()} * K, K, KI)",
        ]
    return tuple(lines)


def _normed(role: Role, roles: Roles) -> tuple[Ref, Apply] | None:
    """The tensor and the factor whose product is the tile of ``role``."""
    number, factors = factors_of(role.tile)
    if role.name not in LETTERS or number != 1.0 or len(factors) != 2:
        return None
    for tensor, factor in (factors, factors[::-1]):
        if isinstance(tensor, Ref) and is_norm(factor, tensor, role.axis):
            leaf = roles.leaf(tensor.name)
            if leaf is not None and leaf.is_tile((roles.head, role.axis)):
                return tensor, factor
    return None
