"""What the forward and the backward kernel of the token-serial schedule share.

Both run the same programs (see ``tiling``), load the same leaves and evaluate the same token
program; a ``Program`` holds these texts for one recurrence.
"""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from seqgen.ir.expr import Expr, Ref, Size, walk
from seqgen.ir.recurrence import Assignment, Output, Recurrence, State, Tensor
from seqgen.passes.axes import AxisPlan, live_assignments, program_values
from seqgen.plan.tile import Tile
from seqgen.plan.tiling import TILE_LIMIT, Tiling, atom, elements, plan_tiling
from seqgen.plan.triton_operations import CALLS
from seqgen.plan.triton_printer import Key, Printer, present

# Names that the templates use; a value of the user with one of them gets an underscore.
TEMPLATE_NAMES = frozenset(
    """pid sequence bos eos length row t c chunk chunk_base chunks start step scratch tl triton
    torch T B CHUNK STAGES PACKED FINAL CHECKPOINTS cu_seqlens cu_seqlens_ptr config key grid
    back count load_tile store_tile keep sequence_range sizes want_final want_checkpoints
    n_tokens n_sequences n_rows programs volume scratch_ptr SCRATCH n_chunks new""".split()
)

Lines = tuple[str, ...]


@dataclass
class Program:
    """One token of a recurrence as Triton text.

    ``axes_plan`` says what programs share out; None leaves it to ``split_axes``.
    """

    recurrence: Recurrence
    axes_plan: AxisPlan | None = None
    tiling: Tiling = field(init=False)
    live: tuple[Assignment, ...] = field(init=False)
    used: frozenset[Key] = field(init=False)
    names: dict[str, str] = field(init=False)
    taken: frozenset[str] = field(init=False)
    state_pad: dict[str, float | None] = field(init=False)
    helpers: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        rec = self.recurrence
        self.tiling = plan_tiling(rec, self.axes_plan)
        self.live = live_assignments(rec)
        nodes = [node for value in program_values(rec) for node in walk(value)]
        kept = [Ref(value, ()) for _, value in rec.final]  # what delays take may be read nowhere
        self.used = frozenset((n.name, n.at) for n in (*nodes, *kept) if isinstance(n, Ref))
        self.axes = self._axes(nodes)
        self.names = self._names()
        self.state_pad = {state.name: 0.0 if state.init == 0.0 else None for state in rec.states}
        self._settle_pads()

    def _axes(self, nodes: Iterable[Expr]) -> tuple[str, ...]:
        """Axes whose sizes the kernels need, in order of declaration."""
        rec = self.recurrence
        need = {node.axis for node in nodes if isinstance(node, Size)}
        for axes in [owner.axes for owner in self.owners]:
            need.update(axes)
        need.update(dim.axis for dim in (*self.tiling.dims, *self.tiling.scalars))
        return tuple(axis.name for axis in rec.axes if axis.name in need)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Inputs and parameters that the program reads, in argument order."""
        read = {name for name, _ in self.used}
        return tuple(t for t in self.recurrence.argument_order() if t.value in read)

    @property
    def owners(self) -> list[Tensor | Output | State]:
        """Everything with a place in memory."""
        return [*self.tensors, *self.recurrence.outputs, *self.recurrence.states]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.kind == "input")

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.kind == "parameter")

    def _names(self) -> dict[str, str]:
        """Variables of values whose own name the kernel uses for something else."""
        rec, tiling = self.recurrence, self.tiling
        taken = set(TEMPLATE_NAMES) | set(dir(builtins)) | set(keyword.kwlist)
        taken |= {name for name in CALLS.values() if "." not in name} | {"power"}
        for dim in (*tiling.dims, *tiling.scalars):
            taken |= {dim.size, dim.length, dim.index, dim.mask, dim.exact}
        taken |= {factor.name for factor in tiling.factors}
        for tensor in rec.tensors:
            taken |= {f"{tensor.name}_ptr", place(tensor), present(tensor.name)}
            taken |= {f"sum_{tensor.name}", f"grad_{tensor.name}_ptr", f"grad_{tensor.name}"}
        for state in rec.states:
            taken |= {f"{state.name}_{part}_ptr" for part in ("0", "final", "checkpoint")}
            taken |= {place(state), f"{state.name}_carry", f"in_{state.name}"}
            taken |= {f"d_{state.name}_next", f"d_{state.name}_final_ptr", f"grad_{state.name}"}
        for output in rec.outputs:
            taken |= {f"{output.name}_ptr", place(output), f"d_{output.name}"}
        self.taken = frozenset(taken)
        values = {t.value for t in rec.tensors} | {s.incoming for s in rec.states}
        values |= {s.name for s in rec.states} | {a.name for a in rec.assignments}
        names = {}
        for value in sorted(values & taken):
            name = f"{value}_"
            while name in taken | values:
                name += "_"
            taken.add(name)
            names[value] = name
        return names

    def name(self, value: str) -> str:
        return self.names.get(value, value)

    def argument(self, name: str) -> str:
        """How a launcher calls a tensor or result."""
        return f"{name}_" if name in self.taken else name

    def variable(self, key: Key) -> str:
        """The variable of a leaf; micro-step slices have one each (``k_r0``)."""
        name, at = key
        return self.name(name) + "".join(f"_{axis.lower()}{index}" for axis, index in at)

    # Places in memory -----------------------------------------------------------------------

    def offset_lines(self) -> Lines:
        """Definitions of the tile's indices, masks, and of its offsets in every tensor."""
        tiling = self.tiling
        lines = [line for dim in (*tiling.scalars, *tiling.dims) for line in dim.lines]
        for owner in self.owners:
            text = tiling.offset(self.program_axes(owner), owner.axes)
            lines.append(f"{place(owner)} = {text}")
        return tuple(lines)

    def program_axes(self, owner: Tensor | Output | State) -> tuple[str, ...]:
        """Axes of ``owner`` that the program has (micro-step axes are picked instead)."""
        return tuple(axis for axis in owner.axes if self.tiling.has(axis))

    def token_pointer(
        self, pointer: str, owner: Tensor | Output, at: tuple[tuple[str, int], ...] = ()
    ) -> str:
        """Address of this program's entries of a per-token tensor at ``row``."""
        text = f"{pointer} + row * {self.tiling.size(owner.axes)} + {place(owner)}"
        for axis, index in at:
            stride = self.tiling.size(owner.axes[owner.axes.index(axis) + 1 :])
            text += f" + {index} * {stride}" if index else ""
        return text

    def load(self, pointer: str, axes: tuple[str, ...]) -> str:
        """Text of a load as fp32 at ``pointer`` of a tensor with ``axes``."""
        if not self.tiling.tile(axes):
            return f"tl.load({pointer}).to(tl.float32)"
        return f"load_tile({pointer}, {', '.join(self.tiling.mask(axes))})"

    def store(self, pointer: str, text: str, axes: tuple[str, ...]) -> str:
        """Text of a store of a full tile (or scalar) at ``pointer``."""
        if not self.tiling.tile(axes):
            return f"tl.store({pointer}, {text})"
        return f"store_tile({pointer}, {text}, {', '.join(self.tiling.mask(axes))})"

    def once(self, axes: tuple[str, ...]) -> str:
        """Condition that picks one of the programs that hold the same value; empty if one."""
        factors = self.tiling.missing(axes)
        return " & ".join(f"({factor.name} == 0)" for factor in factors)

    def store_once(self, pointer: str, text: str, axes: tuple[str, ...]) -> Lines:
        """A store by one of the programs that hold the same value."""
        line, condition = self.store(pointer, text, axes), self.once(axes)
        return (f"if {condition}:", f"    {line}") if condition else (line,)

    def state_pointer(self, state: State, pointer: str, index: str) -> str:
        """Address in a tensor ``[places, *axes of the state]``; ``index`` is an int64 text."""
        return f"{pointer} + {index} * {self.tiling.size(state.axes)} + {place(state)}"

    # The token program ----------------------------------------------------------------------

    def leaf_lines(
        self, tensors: Iterable[Tensor], *, token: bool, read: Collection[str] | None = None
    ) -> Lines:
        """Loads of inputs (per token) or parameters, of those with values in ``read`` if given."""
        lines: list[str] = []
        for tensor in tensors:
            if read is not None and tensor.value not in read:
                continue
            axes = self.program_axes(tensor)
            for key in sorted(key for key in self.used if key[0] == tensor.value):
                pointer = f"{tensor.name}_ptr"
                if token:
                    address = self.token_pointer(pointer, tensor, key[1])
                else:
                    address = f"{pointer} + {place(tensor)}"
                line = f"{self.variable(key)} = {self.load(address, axes)}"
                if tensor.required:
                    lines.append(line)
                    continue
                lines += [f"if {present(tensor.name)}:", f"    {line}"]
                if tensor.default is not None:
                    shape = self.tiling.shape(self.tiling.tile(axes))
                    full = f"tl.full({shape}, {tensor.default!r}, tl.float32)"
                    lines += ["else:", f"    {self.variable(key)} = {full}"]
        return tuple(lines)

    def printer(self) -> Printer:
        """A printer that knows the leaves and the incoming states."""
        printer = Printer(self.tiling, names=self.names)
        for tensor in self.tensors:
            pad = 0.0 if tensor.default in (None, 0.0) else None
            for key in self.used:
                if key[0] == tensor.value:
                    tile = printer.leaf(tensor.value, self.program_axes(tensor), pad)
                    printer.values[key] = Tile(self.variable(key), tile.dims, tile.pad)
        for state in self.recurrence.states:
            printer.define(
                state.incoming, printer.leaf(state.incoming, state.axes, self.state_pad[state.name])
            )
        return printer

    @property
    def full(self) -> dict[str, tuple[str, ...]]:
        """Axes of the values that states take: these are full tiles."""
        owners = {value: self.recurrence.state(name) for name, value in self.recurrence.final}
        own = {state.name for state in self.recurrence.states}
        return {value: state.axes for value, state in owners.items() if value in own}

    def _settle_pads(self) -> None:
        """Drops the assumption that a state is 0 in padded lanes where a token breaks it."""
        while True:
            printer = self.printer()
            printer.assignments(self.live, self.full)
            broken = []
            for name, value in self.recurrence.final:
                if self.state_pad[name] is None or self.recurrence.state(name).incoming == value:
                    continue
                tile = printer.values[value, ()]
                dims = self.tiling.tile(self.recurrence.state(name).axes)
                if any(tile.known(dim) != 0.0 for dim in dims):
                    broken.append(name)
            if not broken:
                return
            self.state_pad.update(dict.fromkeys(broken))

    def begin_lines(self) -> Lines:
        """At the start of a token: the incoming states under their names."""
        lines = []
        for state in self.recurrence.states:
            if not state.delay and (state.incoming, ()) in self.used:
                lines.append(f"{self.name(state.incoming)} = {self.name(state.name)}")
        return tuple(lines)

    def advance_lines(self, printer: Printer) -> Lines:
        """At the end of a token: delay states take their new values, the oldest first."""
        delays = {state.name: state for state in self.recurrence.states if state.delay}
        moves = [(name, value) for name, value in self.recurrence.final if name in delays]
        lines = []
        for name, value in sorted(moves, key=lambda move: move[1] not in delays):
            dims = self.tiling.tile(delays[name].axes)
            tile = printer.lift(printer.values[value, ()], dims)
            lines.append(f"{self.name(name)} = {tile.text}")
        return tuple(lines)

    # Signature and limits -------------------------------------------------------------------

    def constexprs(self) -> Lines:
        """Names of the compile-time sizes: true sizes, then extents of tiles."""
        extents = [dim.length for dim in self.tiling.dims]
        return (*self.axes, *extents)

    @property
    def flags(self) -> Lines:
        """Constexpr flags of the optional tensors that the program reads."""
        return tuple(present(tensor.name) for tensor in self.tensors if not tensor.required)

    def decode_lines(self) -> Lines:
        """From ``pid`` to the indices along the factors of the grid."""
        lines = []
        for factor in reversed(self.tiling.factors):
            lines += [
                f"{factor.name} = pid % {atom(factor.count)}",
                f"pid = pid // {atom(factor.count)}",
            ]
        return tuple(lines)

    def size_lines(self) -> Lines:
        """Launcher lines: sizes, extents of tiles, and the check of what fits in a program.

        They read ``sizes`` and ``config``.
        """
        lines = [f'{axis} = sizes["{axis}"]' for axis in self.axes]
        whole = [dim for dim in self.tiling.dims if not dim.block]
        lines += [f"{dim.length} = _power_of_2({dim.axis})" for dim in whole]
        for tile in self.largest_tiles():
            dims = [dim for dim in whole if dim.axis in tile]
            volume = " * ".join(dim.length for dim in dims)
            names = ", ".join(dim.axis for dim in dims)
            numbers = ", ".join(f"{{{dim.axis}}}" for dim in dims)
            lines += [
                f"if {volume} > {TILE_LIMIT}:",
                "    raise ValueError(",
                f'        f"{{_NAME}}: one program must hold all of [{names}] = [{numbers}], "',
                f'        f"{{{volume}}} fp32 elements with padding; at most {TILE_LIMIT} fit."',
                "    )",
            ]
        return tuple(lines)

    def block_lines(self) -> Lines:
        """Launcher lines that set the block extents from ``config``, within what fits."""
        lines = []
        for knob, axis, extent in self.tiling.knobs:
            widest = max(self.largest_tiles(axis), key=len, default=())
            lengths = [self.tiling.any(a).length for a in widest if a != axis]
            room = f"{TILE_LIMIT} // ({' * '.join(lengths)})" if lengths else f"{TILE_LIMIT}"
            bound = f"_power_of_2({extent.strip('()')})"
            lines.append(f'{knob} = min(config["{knob}"], {bound}, {room})')
        return tuple(lines)

    def largest_tiles(self, axis: str | None = None) -> list[tuple[str, ...]]:
        """Tile dimensions of the values, none inside another; those with ``axis`` if given.

        Without ``axis`` block dimensions are left out.
        """
        tiles = {
            self.tiling.tile(node.axes) for v in program_values(self.recurrence) for node in walk(v)
        }
        tiles |= {self.tiling.tile(state.axes) for state in self.recurrence.states}
        if axis is None:
            blocks = {dim.axis for dim in self.tiling.dims if dim.block}
            tiles = {tuple(a for a in tile if a not in blocks) for tile in tiles}
        else:
            tiles = {tile for tile in tiles if axis in tile}
        return sorted(t for t in tiles if t and not any(set(t) < set(other) for other in tiles))

    def notes(self) -> tuple[str, ...]:
        """What a user should know at build time about sizes that do not fit."""
        found = []
        for tile in self.largest_tiles():
            axes = [self.recurrence.axis(axis) for axis in tile]
            if (count := elements(axes)) > TILE_LIMIT:
                sizes = ", ".join(f"{axis.name} = {axis.size}" for axis in axes)
                found.append(
                    f"The token-serial schedule keeps {sizes} in one program: {count} fp32 "
                    f"elements at the default sizes, at most {TILE_LIMIT} fit. It will refuse to "
                    "run there."
                )
        return tuple(found)

    def load_text(self) -> str:
        """Launcher text: independent programs, without blocks, for the choice of a config."""
        blocks = {axis for _, axis, _ in self.tiling.knobs}
        factors = [f.count for f in self.tiling.factors if f.axis not in blocks]
        return " * ".join(["n_sequences", *factors])

    def grid_text(self) -> str:
        """Launcher text: number of programs."""
        return " * ".join(["n_sequences", *(atom(factor.count) for factor in self.tiling.factors)])


def place(owner: Tensor | Output | State) -> str:
    """Variable of this program's offsets inside one token (or one state) of a tensor."""
    kind = "to" if isinstance(owner, Output) else "of" if isinstance(owner, State) else "at"
    return f"{kind}_{owner.name}"
