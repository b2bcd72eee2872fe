"""The backward kernel of the token-serial schedule.

A program walks its sequence's chunks from the last to the first: from the checkpoint it
recomputes the incoming state of each token of the chunk into scratch memory of its own, then it
takes the tokens in reverse, with the cotangents of the states in registers.

A program computes its own share of each gradient. A leaf that lacks axes of the grid gets one part
per program along these; the launcher adds them up, always in the same order.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from seqgen.ir.expr import Expr, Number, references
from seqgen.ir.recurrence import Output, State, Tensor
from seqgen.passes.adjoint import Adjoint, only
from seqgen.passes.differentiate import differentiate
from seqgen.plan.recurrent_forward import (
    constexpr_parameters,
    contiguous,
    describe,
    io_tensor,
    key_text,
    layout,
    tensor_parameters,
)
from seqgen.plan.recurrent_program import Lines, Program, place
from seqgen.plan.recurrent_replay import find_replay
from seqgen.plan.tiling import split_index
from seqgen.plan.triton_printer import Key, Printer, present

KERNEL = "recurrent_backward"


@dataclass(frozen=True)
class RecurrentBackward:
    """Everything that kernels/recurrent_backward.py.jinja places; all texts are final."""

    name: str
    program: str
    signature: Lines
    decode: Lines
    offsets: Lines
    parts: Lines
    parameters: Lines
    cotangents: Lines
    accumulators: Lines
    row: str
    recompute: bool
    restore: Lines
    save: Lines
    token: Lines
    adjoint: Lines
    finish: Lines
    # The launcher.
    arguments: str
    returns: str
    sizes: Lines
    blocks: Lines
    key: str
    allocate: Lines
    scratch: str
    device: str
    grid: str
    launch: Lines
    results: str
    checkpoints: Lines
    """Names of the states that the kernel restores from checkpoints."""
    seeds: Lines
    """Names of the outputs whose cotangents it takes."""
    carried: Lines
    """Names of the states whose cotangents it takes after the last token, and gives before."""
    gradients: Lines
    """Declared names of the tensors and states that the launcher gives gradients of."""


@dataclass
class _Backward:
    program: Program
    adjoint: Adjoint
    carry_pad: dict[str, float | None]

    def __init__(self, program: Program, states: Collection[str] | None = None) -> None:
        """``states`` are those whose gradients alone are wanted; None if all are."""
        self.program = program
        rec = program.recurrence
        self.adjoint = differentiate(rec)
        self.carried = [s for s in rec.states if s.name != "position"]
        if states is not None:
            self.carried = [s for s in self.carried if s.name in states]
            self.adjoint = only(self.adjoint, [s.incoming for s in self.carried])
        self.gradients: dict[Key, Expr] = {(r.name, r.at): g for r, g in self.adjoint.gradients}
        values = [a.value for a in (*self.adjoint.forward, *self.adjoint.backward)]
        self.values: list[Expr] = [*values, *self.gradients.values()]
        self.read = {name for value in self.values for name in references(value)}
        self.restored, self.replay = find_replay(rec, program.live, self.read)
        self.inputs = [t for t in program.inputs if self.keys(t)]
        self.parameters = [t for t in program.parameters if self.keys(t)]
        self.seeded = [o for o in rec.outputs if f"d_{o.name}" in self.read]
        self.carry_pad = dict.fromkeys((s.name for s in self.carried), 0.0)

    def keys(self, tensor: Tensor) -> list[Key]:
        """The leaves of a tensor that have a gradient."""
        return [key for key in self.gradients if key[0] == tensor.value]

    # The kernel -----------------------------------------------------------------------------

    def plan(self, name: str) -> RecurrentBackward:
        program, rec = self.program, self.program.recurrence
        tensors = [program.argument(t.name) for t in program.tensors]
        checkpoints = [f"{s.name}_checkpoint" for s in self.restored]
        seeds = [f"d_{o.name}" for o in self.seeded]
        finals = [f"d_{s.name}_final" for s in self.carried]
        gradients = [t.name for t in (*self.inputs, *self.parameters)]
        gradients += [s.name for s in self.carried]
        return RecurrentBackward(
            name=name,
            program=describe(program),
            signature=self.signature(),
            decode=program.decode_lines(),
            offsets=(*program.offset_lines(), *self.scratch_offsets()),
            parts=self.part_lines(),
            parameters=program.leaf_lines(program.parameters, token=False),
            cotangents=self.cotangent_lines(),
            accumulators=tuple(f"sum_{t.name} = {self.zeros(t.axes)}" for t in self.parameters),
            row="eos - 1 - t" if rec.reverse else "bos + t",
            recompute=bool(self.restored),
            restore=tuple(
                f"{s.name}_carry = "
                + program.load(
                    program.state_pointer(s, f"{s.name}_checkpoint_ptr", "(chunk_base + chunk)"),
                    s.axes,
                )
                for s in self.restored
            ),
            save=tuple(
                f"tl.store({self.scratch_pointer(s)}, {s.name}_carry)" for s in self.restored
            ),
            token=self.replay_lines(),
            adjoint=self.adjoint_lines(),
            finish=self.finish_lines(),
            arguments=", ".join([*tensors, *checkpoints, *seeds, *finals]),
            returns=", ".join(f"grad_{name}" for name in gradients),
            sizes=program.size_lines(),
            blocks=program.block_lines(),
            key=key_text(program),
            allocate=self.allocate_lines(),
            scratch=" + ".join(self.volume(s) for s in self.restored) or "0",
            device=f"{io_tensor(program)}.device",
            grid=program.grid_text(),
            launch=self.launch_lines(),
            results=", ".join(f"_total(grad_{name})" for name in gradients),
            checkpoints=tuple(s.name for s in self.restored),
            seeds=tuple(o.name for o in self.seeded),
            carried=tuple(s.name for s in self.carried),
            gradients=tuple(gradients),
        )

    def signature(self) -> Lines:
        lines = tensor_parameters(self.program)
        for s in self.restored:
            lines.append(f"{s.name}_checkpoint_ptr,  # {layout(('chunks', *s.axes))}, fp32")
        for o in self.seeded:
            lines.append(f"d_{o.name}_ptr,  # {layout(('B', 'T', *o.axes))}")
        for s in self.carried:
            lines.append(f"d_{s.name}_final_ptr,  # {layout(('sequences', *s.axes))}, fp32")
        for t in self.inputs:
            lines.append(f"grad_{t.name}_ptr,  # {layout(('parts', 'B', 'T', *t.axes))}")
        for t in self.parameters:
            lines.append(f"grad_{t.name}_ptr,  # {layout(('parts', *t.axes))}, fp32")
        for s in self.carried:
            lines.append(f"grad_{s.name}_ptr,  # {layout(('parts', 'sequences', *s.axes))}, fp32")
        lines += ["scratch_ptr,  # [programs, CHUNK, SCRATCH], fp32", "cu_seqlens_ptr,"]
        flags = [f"HAS_d_{o.name}: tl.constexpr," for o in self.seeded]
        flags += [f"HAS_d_{s.name}_final: tl.constexpr," for s in self.carried]
        sizes = constexpr_parameters(self.program)
        return (*lines, "T,", "n_rows,", "n_sequences,", *sizes, *flags)

    def part_lines(self) -> Lines:
        """Where the program's parts of gradients begin."""
        tiling, lines = self.program.tiling, []
        optional = {t.name for t in self.program.tensors if not t.required}
        for name, axes, rows in [
            *((t.name, t.axes, "n_rows") for t in self.inputs),
            *((t.name, t.axes, "") for t in self.parameters),
            *((s.name, s.axes, "n_sequences") for s in self.carried),
        ]:
            index, count = split_index(tiling.missing(axes))
            if not rows:
                index = f"(sequence * {count} + {index})" if count != "1" else "sequence"
                line = f"grad_{name}_ptr += {index} * {tiling.size(axes)}"
            elif count != "1":
                index = f"({index}).to(tl.int64)" if " " in index else f"{index}.to(tl.int64)"
                line = f"grad_{name}_ptr += {index} * {rows} * {tiling.size(axes)}"
            else:
                continue
            lines += [f"if {present(name)}:", f"    {line}"] if name in optional else [line]
        return tuple(lines)

    def zeros(self, axes: tuple[str, ...]) -> str:
        tiling = self.program.tiling
        return f"tl.full({tiling.shape(tiling.tile(axes))}, 0.0, tl.float32)"

    def seed(self, name: str, flag: str, pointer: str, axes: tuple[str, ...]) -> Lines:
        """A cotangent from outside, or zeros; of programs with the same value one gets it."""
        lines = [f"if {flag}:", f"    {name} = {self.program.load(pointer, axes)}"]
        if condition := self.program.once(axes):
            lines.append(f"    {name} = tl.where({condition}, {name}, 0.0)")
        return (*lines, "else:", f"    {name} = {self.zeros(axes)}")

    def cotangent_lines(self) -> Lines:
        """The cotangents of the states after the last token."""
        lines: list[str] = []
        for s in self.carried:
            pointer = self.program.state_pointer(s, f"d_{s.name}_final_ptr", "sequence")
            flag = f"HAS_d_{s.name}_final"
            lines += self.seed(f"d_{s.name}_next", flag, pointer, s.axes)
        return tuple(lines)

    # Scratch --------------------------------------------------------------------------------

    def volume(self, state: State) -> str:
        tiling = self.program.tiling
        return tiling.volume(tiling.tile(state.axes))

    def scratch_offsets(self) -> Lines:
        lines: list[str] = []
        before: list[str] = []
        tiling = self.program.tiling
        for s in self.restored:
            terms = [*before, tiling.linear(tiling.tile(s.axes))]
            lines.append(f"in_{s.name} = {' + '.join(terms)}")
            before.append(self.volume(s))
        return tuple(lines)

    def scratch_pointer(self, state: State) -> str:
        return f"scratch_ptr + step * SCRATCH + in_{state.name}"

    # Tokens ---------------------------------------------------------------------------------

    def replay_lines(self) -> Lines:
        """One token forward, as far as the restored states need it."""
        program = self.program
        read = {name for a in self.replay for name in references(a.value)}
        finals = dict(program.recurrence.final)
        read |= {finals[s.name] for s in self.restored}
        printer = program.printer()
        lines = [f"{program.name(s.incoming)} = {s.name}_carry" for s in self.restored]
        lines += program.leaf_lines(program.inputs, token=True, read=read)
        lines += printer.assignments(self.replay, program.full)
        for s in self.restored:
            tile = printer.values[finals[s.name], ()]
            text = printer.lift(tile, program.tiling.tile(s.axes)).text
            lines.append(f"{s.name}_carry = {text}")
        return tuple(lines)

    def adjoint_lines(self) -> Lines:
        """One token of the adjoint; drops assumptions on padded lanes that do not hold."""
        while True:
            printer, lines, broken = self.adjoint_token()
            if not broken:
                self.program.helpers |= printer.helpers
                return tuple(lines)
            self.carry_pad.update(dict.fromkeys(broken))

    def adjoint_token(self) -> tuple[Printer, list[str], list[str]]:
        program, tiling = self.program, self.program.tiling
        printer = program.printer()
        lines = []
        for s in self.restored:
            if s.incoming in self.read:
                variable = program.name(s.incoming)
                lines.append(f"{variable} = tl.load({self.scratch_pointer(s)})")
        lines += program.leaf_lines(program.inputs, token=True, read=self.read)
        for o in self.seeded:
            pointer = program.token_pointer(f"d_{o.name}_ptr", o)
            lines += self.seed(f"d_{o.name}", f"HAS_d_{o.name}", pointer, o.axes)
            printer.define(f"d_{o.name}", printer.leaf(f"d_{o.name}", o.axes))
        for s in self.carried:
            name = f"d_{s.name}_next"
            printer.define(name, printer.leaf(name, s.axes, self.carry_pad[s.name]))
        lines.append("# Values of the token that the gradients need.")
        lines += printer.assignments(self.adjoint.forward, {})
        lines.append("# Cotangents, from the outputs back to the inputs.")
        lines += printer.assignments(self.adjoint.backward, {})
        for t in self.inputs:
            lines += self.store_gradient(printer, t)
        for t in self.parameters:
            tile = printer.numeric(printer.print(self.gradients[t.value, ()]))
            line = f"sum_{t.name} += {printer.lift(tile, tiling.tile(t.axes)).text}"
            lines += self.if_present(t, [line])
        moves, broken = [], []
        for s in self.carried:
            dims = tiling.tile(s.axes)
            gradient = self.gradients.get((s.incoming, ()), Number(0.0))
            tile = printer.lift(printer.numeric(printer.print(gradient)), dims)
            lines.append(f"grad_{s.name} = {tile.text}")
            moves.append(f"d_{s.name}_next = grad_{s.name}")
            known = all(tile.known(dim) == 0.0 for dim in dims)
            if self.carry_pad[s.name] is not None and not known:
                broken.append(s.name)
        return printer, lines + moves, broken

    def if_present(self, tensor: Tensor, lines: Iterable[str]) -> list[str]:
        if tensor.required:
            return list(lines)
        return [f"if {present(tensor.name)}:", *(f"    {line}" for line in lines)]

    def store_gradient(self, printer: Printer, tensor: Tensor) -> list[str]:
        """Stores one token's gradient; slices that nothing reads get 0."""
        program = self.program
        axes = program.program_axes(tensor)
        dims = program.tiling.tile(axes)
        picked = [axis for axis in tensor.axes if axis not in axes]
        counts = [range(program.recurrence.axis(axis).size) for axis in picked]
        lines = []
        for indices in itertools.product(*counts):
            at = tuple(zip(picked, indices, strict=True))
            gradient = next(
                (g for key, g in self.gradients.items() if _same(key, tensor, at)), Number(0.0)
            )
            tile = printer.lift(printer.numeric(printer.print(gradient)), dims)
            pointer = program.token_pointer(f"grad_{tensor.name}_ptr", tensor, at)
            lines.append(program.store(pointer, tile.text, axes))
        return self.if_present(tensor, lines)

    def finish_lines(self) -> Lines:
        """After the first token: sums of parameters, gradients of the initial states."""
        program, lines = self.program, []
        for t in self.parameters:
            pointer = f"grad_{t.name}_ptr + {place(t)}"
            lines += self.if_present(t, [program.store(pointer, f"sum_{t.name}", t.axes)])
        for s in self.carried:
            pointer = program.state_pointer(s, f"grad_{s.name}_ptr", "sequence")
            lines.append(program.store(pointer, f"d_{s.name}_next", s.axes))
        return tuple(lines)

    # The launcher ---------------------------------------------------------------------------

    def allocate_lines(self) -> Lines:
        """One buffer per gradient; the first dimension counts the parts."""
        first, lines = io_tensor(self.program), []

        def parts(owner: Tensor | State | Output) -> str:
            return split_index(self.program.tiling.missing(owner.axes))[1]

        for t in self.inputs:
            name = self.program.argument(t.name)
            lines.append(f"grad_{t.name} = _parts({name}, {parts(t)}, cu_seqlens is not None)")
        for t in self.parameters:
            count = "n_sequences" if parts(t) == "1" else f"n_sequences * {parts(t)}"
            shape = f"({', '.join([count, *t.axes])},)"
            lines.append(f"grad_{t.name} = {first}.new_empty({shape}, dtype=torch.float32)")
        for s in self.carried:
            shape = f"({', '.join([parts(s), 'n_sequences', *s.axes])})"
            lines.append(f"grad_{s.name} = {first}.new_empty({shape}, dtype=torch.float32)")
        return tuple(lines)

    def launch_lines(self) -> Lines:
        program = self.program
        lines = [f"{contiguous(program.argument(t.name), t.required)}," for t in program.tensors]
        lines += [f"{s.name}_checkpoint," for s in self.restored]
        seeds = [f"d_{o.name}" for o in self.seeded]
        finals = [f"d_{s.name}_final" for s in self.carried]
        lines += [f"_contiguous({name})," for name in (*seeds, *finals)]
        lines += [f"grad_{t.name}," for t in (*self.inputs, *self.parameters)]
        lines += [f"grad_{s.name}," for s in self.carried]
        lines += ["scratch,", "cu_seqlens,", "n_tokens,", 'sizes["B"] * n_tokens,', "n_sequences,"]
        lines += [f"{name}={name}," for name in program.constexprs()]
        optional = [t for t in program.tensors if not t.required]
        lines += [f"{present(t.name)}={program.argument(t.name)} is not None," for t in optional]
        lines += [f"HAS_{name}={name} is not None," for name in (*seeds, *finals)]
        return tuple(lines)


def _same(key: Key, tensor: Tensor, at: tuple[tuple[str, int], ...]) -> bool:
    return key[0] == tensor.value and dict(key[1]) == dict(at)


def plan_recurrent_backward(
    program: Program, name: str = KERNEL, states: Collection[str] | None = None
) -> RecurrentBackward:
    """A backward kernel and its launcher.

    Args:
        program: one token.
        name: of the kernel.
        states: states whose gradients alone it computes, a set that no other state is made of;
            None if it computes all gradients.
    """
    return _Backward(program, states).plan(name)
