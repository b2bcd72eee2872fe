"""Pointwise kernels over 64 tokens and a block of heads, for the linear schedule.

They evaluate what is one number per token and head (decays, weights), tiles that are no tensors as
they are, and the gradients of all of these; the large kernels see only tiles and row factors.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from seqgen.ir.expr import Expr, IfPresent, Ref, walk
from seqgen.ir.recurrence import Assignment
from seqgen.plan.linear_roles import Leaf, Roles
from seqgen.plan.tile import Tile
from seqgen.plan.tiling import Dim, Tiling
from seqgen.plan.triton_operations import CALLS
from seqgen.plan.triton_printer import Printer, present

Lines = tuple[str, ...]

# Names that the templates use; values of the user with one of them get an underscore.
TEMPLATE_NAMES = frozenset(
    """tl triton torch pid chunk head_blocks bos length t0 i valid row h m_h exists in_rows first
    rows o_k o_v m_k m_v r_k r_v T NT PLANE H HP K V PK PV BH BK BV NB EXACT EXACT_K EXACT_V PACKED
    EPILOGUE PRECISION q k v read scores state causal high low result place blocks scale b c_k
    keep dot cu_seqlens cu_seqlens_ptr starts_ptr owners_ptr chunks sizes config io new programs BT
    part parts launch grid B cu_seqlens decay write states i_v n_tokens NK NV HQ HK HV output q_ptr
    k_ptr v_ptr decay_ptr write_ptr read_ptr states_ptr output_ptr sums sums_ptr erase erase_ptr HG
    gates gates_ptr halves halves_ptr strong strong_ptr weights_ptr""".split()
)
CONSTANTS = {
    "H": "H",
    "HP": "HP",
    "K": "K",
    "V": "V",
    "PK": "_power_of_2(K)",
    "PV": "_power_of_2(V)",
    "NB": "",
    "EXACT": "io.dtype == torch.float32",
}

# Dtype of the gradient of a tensor of the io dtype, by its heads.
_UNSHARED = {"H": "io.dtype", "HP": "io.dtype if H == HP else torch.float32"}


@dataclass(frozen=True)
class TilesPlan:
    """Everything that kernels/linear_tiles.py.jinja places; all texts are final."""

    name: str
    about: str
    parameters: Lines
    constants: Lines
    row: str
    places: Lines
    loads: Lines
    program: Lines
    stores: Lines
    arguments: str
    size_names: str
    sizes: str
    head_block: str
    parted: bool
    tokens: str
    programs: str
    allocate: Lines
    launch: Lines
    values: Lines
    results: str


@dataclass
class Scope:
    """How values are named and where tensors lie, in one kernel.

    Args:
        roles: the operator.
        axes: axes besides heads that tiles have: the key axis, the value axis, or both.
        fused: inside the output kernel: one head, columns ``r_v``.
        parted: a program takes BT of a chunk's 64 tokens: nothing is summed over the chunk.
    """

    roles: Roles
    axes: tuple[str, ...]
    fused: bool = False
    parted: bool = False
    tiling: Tiling = field(init=False)
    names: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        roles = self.roles
        token = Dim("T", "T", self.tokens, "i", "valid", "False")
        head = Dim(roles.head, "H", "BH", "h", "m_h", "False")
        dims, scalars = [token, head], [Dim(roles.parent, "HP", index=self.parent_index)]
        if self.fused:
            dims, scalars = [token], [*scalars, head]
            dims.append(Dim(roles.value, "V", "BV", "r_v", "m_v", "EXACT_V"))
            scalars.append(Dim(roles.key, "K"))
        else:
            for axis, letter in ((roles.key, "K"), (roles.value, "V")):
                low = letter.lower()
                exact = f"({letter} == P{letter})"
                dim = Dim(axis, letter, f"P{letter}", f"o_{low}", f"m_{low}", exact)
                (dims if axis in self.axes else scalars).append(dim)
        self.tiling = Tiling(tuple(dims), tuple(scalars))
        taken = set(TEMPLATE_NAMES) | set(dir(builtins)) | set(keyword.kwlist)
        taken |= {name for name in CALLS.values() if "." not in name} | {"power"}
        values = {t.value for t in roles.recurrence.tensors} | {a.name for a in roles.lets}
        taken |= {f"{t.name}_ptr" for t in roles.recurrence.tensors}
        taken |= {present(t.name) for t in roles.recurrence.tensors}
        self.names = {}
        for value in sorted(values & taken):
            self.names[value] = unique(f"{value}_", taken | values)

    @property
    def tokens(self) -> str:
        """How many a program takes."""
        return "BT" if self.parted else "64"

    @property
    def programs(self) -> str:
        """How many a block of heads has, in a launcher."""
        return "parts" if self.parted else "chunks.count"

    @property
    def parent_index(self) -> str:
        return "(h // (H // HP))"

    def printer(self, leaves: Iterable[Leaf]) -> Printer:
        """A printer that knows the given leaves."""
        printer = Printer(self.tiling, names=self.names)
        for leaf in leaves:
            tensor = leaf.tensor
            axes = ("T", *leaf.axes) if leaf.timed else leaf.axes
            pad = 0.0 if tensor.default in (None, 0.0) else None
            printer.define(tensor.value, printer.leaf(tensor.value, axes, pad))
        return printer

    def name(self, value: str) -> str:
        return self.names.get(value, value)

    def dims(self, leaf: Leaf) -> tuple[str, ...]:
        return self.tiling.tile(("T", *leaf.axes) if leaf.timed else leaf.axes)

    def place(self, dims: tuple[str, ...], axes: tuple[str, ...], lead: str, first: str) -> str:
        """Offsets in ``[first, lead heads, axes]``; ``first`` indexes tokens, parts or nothing."""
        roles, tiling = self.roles, self.tiling
        tail = [axis for axis in axes if axis != roles.head]
        inner = "".join(f" * {tiling.any(axis).size}" for axis in tail)
        terms = []
        if first:
            index = tiling.spread(first, ("T",), dims) if "T" in dims else f"{first}.to(tl.int64)"
            terms.append(f"{index} * ({lead}{inner})")
        head = tiling.dim(roles.head)
        if lead == "1" and roles.head in dims:
            terms.append(tiling.spread("(h * 0)", (roles.head,), dims))
        elif lead != "1":
            index = "h" if lead == "H" else self.parent_index
            terms.append(f"{tiling.spread(index, (roles.head,) if head else (), dims)}{inner}")
        terms += [tiling.spread(tiling.any(axis).index, (axis,), dims) for axis in tail]
        return " + ".join(terms) or "0"

    def mask(self, dims: tuple[str, ...]) -> str:
        """Which entries of a tile exist; empty if it is one number."""
        return " & ".join(self.tiling.spread(self.tiling.any(d).mask, (d,), dims) for d in dims)

    def load(self, pointer: str, place: str, dims: tuple[str, ...]) -> str:
        """A load as fp32, 0 where nothing exists."""
        mask = self.mask(dims)
        options = f", mask={mask}, other=0.0" if mask else ""
        return f"tl.load({pointer} + {place}{options}).to(tl.float32)"

    def leaf_lines(self, leaves: Iterable[Leaf]) -> list[str]:
        """Loads of tensors; an absent one becomes its default."""
        lines = []
        for leaf in leaves:
            tensor, dims = leaf.tensor, self.dims(leaf)
            first = ("(first + rows)" if self.fused else "row") if leaf.timed else ""
            place = self.place(dims, leaf.axes, leaf.lead, first)
            line = (
                f"{self.name(tensor.value)} = {self.load(pointer_name(tensor.name), place, dims)}"
            )
            if tensor.required:
                lines.append(line)
                continue
            lines += [f"if {present(tensor.name)}:", f"    {line}"]
            if tensor.default is not None:
                shape = self.tiling.shape(dims)
                full = f"tl.full({shape}, {tensor.default!r}, tl.float32)"
                lines += ["else:", f"    {self.name(tensor.value)} = {full}"]
        return lines

    def column_lines(self) -> list[str]:
        """Definitions of the columns of tiles."""
        lines = []
        for axis, letter in ((self.roles.key, "K"), (self.roles.value, "V")):
            if axis in self.axes:
                low = letter.lower()
                lines += [f"o_{low} = tl.arange(0, P{letter})", f"m_{low} = o_{low} < {letter}"]
        return lines


def unique(name: str, taken: Iterable[str]) -> str:
    """``name`` with underscores until nothing else is called so."""
    taken = set(taken)
    while name in taken:
        name += "_"
    return name


def reads_of(exprs: Iterable[Expr]) -> set[str]:
    """Names that the expressions refer to."""
    return {node.name for expr in exprs for node in walk(expr) if isinstance(node, Ref)}


def leaves_of(roles: Roles, program: Iterable[Assignment]) -> tuple[Leaf, ...]:
    """The tensors that a program reads, in argument order."""
    program = tuple(program)
    read = reads_of(a.value for a in program)
    nodes = [node for a in program for node in walk(a.value)]
    asked = {node.name for node in nodes if isinstance(node, IfPresent)}
    order = {t.name: n for n, t in enumerate(roles.recurrence.argument_order())}
    last = len(order)  # what is read of a normaliser
    found = [
        leaf for leaf in roles.leaves if leaf.tensor.value in read or leaf.tensor.name in asked
    ]
    return tuple(sorted(found, key=lambda leaf: order.get(leaf.tensor.name, last)))


def axes_of(roles: Roles, exprs: Iterable[Expr]) -> tuple[str, ...]:
    """Axes besides heads that values have."""
    found = {axis for expr in exprs for node in walk(expr) for axis in node.axes}
    return tuple(axis for axis in (roles.key, roles.value) if axis in found)


def shape_comment(leaf: Leaf) -> str:
    """``[B, T, H]``."""
    lead = ("B", "T") if leaf.timed else ()
    return f"[{', '.join((*lead, *leaf.tensor.axes))}]"


def leaf_parameters(roles: Roles, leaves: Iterable[Leaf]) -> list[str]:
    """Signature lines of tensors."""
    return [f"{pointer_name(leaf.tensor.name)},  # {shape_comment(leaf)}" for leaf in leaves]


def flags(leaves: Iterable[Leaf]) -> list[str]:
    """Constexpr flags of optional tensors."""
    return [present(leaf.tensor.name) for leaf in leaves if not leaf.tensor.required]


def pointer_name(name: str) -> str:
    """A tensor's name in a kernel's signature."""
    return unique(f"{name}_ptr", TEMPLATE_NAMES)


def argument(name: str) -> str:
    """A tensor's name in a launcher."""
    return unique(f"{name}_", TEMPLATE_NAMES) if name in TEMPLATE_NAMES else name


def sizes_text(roles: Roles, *, parent: bool) -> tuple[str, str]:
    """(names, values) of the generic sizes in a launcher."""
    head = f'sizes["{roles.head}"]' if roles.state.axes[0] == roles.head else "1"
    names, values = ["H", "K", "V"], [head, f'sizes["{roles.key}"]', f'sizes["{roles.value}"]']
    if parent:
        names.append("HP")
        values.append(f'sizes["{roles.parent}"]')
    return ", ".join(names), ", ".join(values)


def lead_text(roles: Roles, lead: str) -> str:
    """How many heads a leaf has in memory, in a launcher."""
    if lead == "HP":
        return f'sizes["{roles.parent}"]'
    return "1" if lead == "1" else sizes_text(roles, parent=False)[1].split(", ")[0]


@dataclass
class TilesBuilder:
    """Collects the texts of one pointwise kernel."""

    scope: Scope
    name: str
    about: str
    parameters: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    program: list[str] = field(default_factory=list)
    stores: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    allocate: list[str] = field(default_factory=list)
    launch: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)
    blocks: str = ""

    def tensor(self, parameter: str, comment: str, argument: str) -> None:
        """A pointer that the launcher is given."""
        self.parameters.append(f"{parameter},  # {comment}")
        self.arguments.append(argument)
        self.launch.append(f"{argument},")

    def leaves(self, leaves: Iterable[Leaf]) -> None:
        """Loads tensors of the operator."""
        leaves = tuple(leaves)
        for leaf in leaves:
            name = argument(leaf.tensor.name)
            self.tensor(pointer_name(leaf.tensor.name), shape_comment(leaf), name)
            if not leaf.tensor.required:
                self.flags[present(leaf.tensor.name)] = f"{name} is not None"
        self.loads += self.scope.leaf_lines(leaves)

    def result(self, name: str, comment: str, shape: str, dtype: str, zero: bool = False) -> None:
        """A tensor that the kernel writes; ``zero`` if tokens outside all sequences read 0."""
        self.parameters.append(f"{name}_ptr,  # {comment}")
        new = "new" if zero else "io.new_empty"
        self.allocate.append(f"{name} = {new}({shape}, dtype={dtype})")
        self.launch.append(f"{name},")
        self.results.append(name)

    def seed(self, name: str, axis: str, argument: str) -> Tile:
        """Loads the gradient of a tile [B, T, H, axis]; None counts as zero."""
        scope, head = self.scope, self.scope.roles.head
        size = scope.tiling.any(axis).size
        self.tensor(f"{name}_ptr", f"[B, T, H, {size}]", argument)
        dims = scope.tiling.tile(("T", head, axis))
        place = scope.place(dims, (head, axis), "H", "row")
        self.loads.append(f"{name} = {scope.load(f'{name}_ptr', place, dims)}")
        return Tile(name, dims, dict.fromkeys(dims, 0.0))

    def gradient(self, printer: Printer, leaf: Leaf, value: Expr, name: str) -> None:
        """Stores the gradient of a tensor, one part per head (and program if it has no time)."""
        scope, head = self.scope, self.scope.roles.head
        axes = tuple(axis for axis in leaf.axes if axis != head)
        dims = scope.tiling.tile(("T", head, *axes))
        tile = printer.lift(printer.numeric(printer.print(value)), dims)
        tail = "".join(f", {scope.tiling.any(axis).size}" for axis in axes)
        dtype = "torch.float32"
        if leaf.timed and leaf.tensor.dtype is None and leaf.lead in _UNSHARED:
            # Parts that are still to be added over the heads of a group stay fp32.
            dtype = _UNSHARED[leaf.lead]
        pointer = f"{name}_ptr"
        text = tile.text
        if leaf.timed:
            shape, zero = f'(sizes["B"], sizes["T"], H{tail})', True
            comment, kept, first = f"[B, T, H{tail}]", dims, "row"
        else:
            first, parts = ("part", "parts") if scope.parted else ("chunk", "chunks")
            shape, zero = f"(1, {scope.programs}, H{tail})", False
            comment, kept = f"[{parts}, H{tail}]", dims[1:]
            exists = scope.tiling.spread("valid", ("T",), dims)
            text = f"tl.sum(tl.where({exists}, {text}, 0.0), axis=0)"
        self.result(name, comment, shape, dtype, zero)
        place = scope.place(kept, (head, *axes), "H", first)
        cast = f".to({pointer}.dtype.element_ty)"
        self.stores.append(
            f"tl.store({pointer} + {place}, ({text}){cast}, mask={scope.mask(kept)})"
        )

    def plan(self, extra: dict[str, str] | None = None) -> TilesPlan:
        """The finished plan; ``extra`` gives values of constants by name."""
        scope = self.scope
        text = "\n".join((*self.loads, *self.program, *self.stores, *scope.column_lines()))
        used = [name for name in CONSTANTS if re.search(rf"\b{name}\b", text)]
        used = list(dict.fromkeys(["H", *used]))
        texts = {**CONSTANTS, **(extra or {}), **self.flags}
        parent = "HP" in used or any(re.search(r"\bHP\b", line) for line in self.allocate)
        names, sizes = sizes_text(scope.roles, parent=parent)
        constants = [*used, *self.flags]
        reverse = scope.roles.recurrence.reverse
        return TilesPlan(
            name=self.name,
            about=self.about,
            parameters=tuple(self.parameters),
            constants=tuple(f"{name}: tl.constexpr," for name in constants),
            row="bos + length - 1 - t0 - i" if reverse else "bos + t0 + i",
            places=tuple(scope.column_lines()),
            loads=tuple(self.loads),
            program=tuple(self.program),
            stores=tuple(self.stores),
            arguments="".join(f"{name}, " for name in ("io", *self.arguments)).rstrip(),
            size_names=names,
            sizes=sizes,
            head_block="1" if scope.axes else 'min(config["BH"], _power_of_2(H))',
            parted=scope.parted,
            tokens=scope.tokens,
            programs=scope.programs,
            allocate=tuple(self.allocate),
            launch=tuple(self.launch),
            values=tuple(f"{name}={texts[name]}," for name in constants),
            results=", ".join(self.results) + ("," if len(self.results) == 1 else ""),
        )
