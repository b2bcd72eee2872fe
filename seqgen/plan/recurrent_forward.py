"""The forward kernel of the token-serial schedule: states in registers, one token after another."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.ir.expr import Ref
from seqgen.plan.recurrent_program import Lines, Program
from seqgen.plan.triton_printer import Printer, present

KERNEL = "recurrent_forward"


@dataclass(frozen=True)
class RecurrentForward:
    """Everything that kernels/recurrent_forward.py.jinja places; all texts are final."""

    name: str
    program: str
    signature: Lines
    decode: Lines
    offsets: Lines
    parameters: Lines
    initial: Lines
    row: str
    checkpoint: Lines
    token: Lines
    final: Lines
    # The launcher.
    arguments: str
    returns: str
    sizes: Lines
    blocks: Lines
    key: str
    allocate: Lines
    grid: str
    launch: Lines


def plan_recurrent_forward(
    program: Program, name: str = KERNEL, checkpoints: bool = True
) -> RecurrentForward:
    """A forward kernel and its launcher.

    Args:
        program: one token.
        name: of the kernel.
        checkpoints: whether it can save the states before each chunk; final states are then
            given if they are wanted, and otherwise always.
    """
    rec = program.recurrence
    printer = program.printer()
    token = [*program.leaf_lines(program.inputs, token=True), *program.begin_lines()]
    token += printer.assignments(program.live, program.full)
    token += _output_lines(program, printer)
    token += program.advance_lines(printer)
    program.helpers |= printer.helpers
    states = rec.states
    tensors = [program.argument(tensor.name) for tensor in program.tensors]
    return RecurrentForward(
        name=name,
        program=describe(program),
        signature=_signature(program, checkpoints),
        decode=program.decode_lines(),
        offsets=program.offset_lines(),
        parameters=program.leaf_lines(program.parameters, token=False),
        initial=_initial_lines(program),
        row="eos - 1 - t" if rec.reverse else "bos + t",
        checkpoint=tuple(
            line
            for state in states
            if checkpoints
            for line in program.store_once(
                program.state_pointer(state, f"{state.name}_checkpoint_ptr", "chunk"),
                program.name(state.name),
                state.axes,
            )
        ),
        token=tuple(token),
        final=tuple(
            line
            for state in states
            for line in program.store_once(
                program.state_pointer(state, f"{state.name}_final_ptr", "sequence"),
                program.name(state.name),
                state.axes,
            )
        ),
        arguments=", ".join([*tensors, *(f"{state.name}_0" for state in states)]),
        returns=_returns(program, checkpoints),
        sizes=program.size_lines(),
        blocks=program.block_lines(),
        key=key_text(program),
        allocate=_allocate(program, checkpoints),
        grid=program.grid_text(),
        launch=_launch(program, checkpoints),
    )


def describe(program: Program) -> str:
    """What one program of the grid works on."""
    parts = ["one sequence"]
    for factor in program.tiling.factors:
        if any(factor.axis == axis for _, axis, _ in program.tiling.knobs):
            parts.append(f"a block of {factor.axis}")
        else:
            parts.append(f"one entry of {factor.axis}")
    whole = [dim.axis for dim in program.tiling.dims if not dim.block]
    if whole:
        parts.append(f"all of {', '.join(whole)}")
    return ", ".join(parts)


def layout(axes: tuple[str, ...]) -> str:
    """``[B, T, H, K]``, for comments."""
    return "[" + ", ".join(axes) + "]"


def key_text(program: Program) -> str:
    """Launcher text of the key by which configurations are chosen."""
    axes = [dim.axis for dim in program.tiling.dims]
    sizes = "".join(f", {axis}={axis}" for axis in axes)
    return f"_key({io_tensor(program)}.dtype, {program.load_text()}, n_tokens{sizes})"


def io_tensor(program: Program) -> str:
    """Launcher name of the tensor whose dtype is the io dtype."""
    tensors = [t for t in program.inputs if t.required]
    name = next((t.name for t in tensors if t.dtype is None), tensors[0].name)
    return program.argument(name)


def tensor_parameters(program: Program) -> list[str]:
    """Signature lines of the tensors that a token reads."""
    lines = []
    for tensor in program.tensors:
        lead = ("B", "T") if tensor.kind == "input" else ()
        lines.append(f"{tensor.name}_ptr,  # {layout((*lead, *tensor.axes))}")
    return lines


def constexpr_parameters(program: Program) -> list[str]:
    """Signature lines of sizes, tile extents and flags of optional tensors."""
    return [f"{name}: tl.constexpr," for name in (*program.constexprs(), *program.flags)]


def _signature(program: Program, checkpoints: bool) -> Lines:
    rec, lines = program.recurrence, tensor_parameters(program)
    for state in rec.states:
        lines.append(f"{state.name}_0_ptr,  # {layout(('sequences', *state.axes))}, fp32")
    for output in rec.outputs:
        lines.append(f"{output.name}_ptr,  # {layout(('B', 'T', *output.axes))}")
    for state in rec.states:
        lines.append(f"{state.name}_final_ptr,  # {layout(('sequences', *state.axes))}, fp32")
    for state in rec.states if checkpoints else ():
        lines.append(f"{state.name}_checkpoint_ptr,  # {layout(('chunks', *state.axes))}, fp32")
    flags = [f"HAS_{state.name}_0: tl.constexpr," for state in rec.states]
    return (*lines, "cu_seqlens_ptr,", "T,", *constexpr_parameters(program), *flags)


def _initial_lines(program: Program) -> Lines:
    lines = []
    for state in program.recurrence.states:
        variable = program.name(state.name)
        pointer = program.state_pointer(state, f"{state.name}_0_ptr", "sequence")
        shape = program.tiling.shape(program.tiling.tile(state.axes))
        init = Printer(program.tiling).number(state.init).text
        lines += [
            f"if HAS_{state.name}_0:",
            f"    {variable} = {program.load(pointer, state.axes)}",
            "else:",
            f"    {variable} = tl.full({shape}, {init}, tl.float32)",
        ]
    return tuple(lines)


def _output_lines(program: Program, printer: Printer) -> list[str]:
    lines = []
    for output in program.recurrence.outputs:
        dims = program.tiling.tile(output.axes)
        tile = printer.numeric(printer.print(output.value))
        if not isinstance(output.value, Ref):
            equation = next(
                (e for e in program.recurrence.equations if e.startswith(f"{output.name} = ")), ""
            )
            lines += [f"# {equation}"] if equation else []
        pointer = program.token_pointer(f"{output.name}_ptr", output)
        lines += program.store_once(pointer, printer.lift(tile, dims).text, output.axes)
    return lines


def _returns(program: Program, checkpoints: bool) -> str:
    rec = program.recurrence
    names = [program.argument(o.name) for o in rec.outputs]
    names += [f"{s.name}_final" for s in rec.states]
    saved = rec.states if checkpoints else ()
    return ", ".join([*names, *(f"{s.name}_checkpoint" for s in saved)])


def _shape(axes: tuple[str, ...]) -> str:
    return "(" + ", ".join(axes) + ("," if len(axes) == 1 else "") + ")"


def _allocate(program: Program, checkpoints: bool) -> Lines:
    """Launcher lines that make the results; rows outside all packed sequences read 0."""
    rec, first = program.recurrence, io_tensor(program)
    lines = []
    if rec.outputs:
        lines = [f"new = {first}.new_empty if cu_seqlens is None else {first}.new_zeros"]
    for output in rec.outputs:
        shape = _shape(('sizes["B"]', "n_tokens", *output.axes))
        dtype = "torch.float32" if output.dtype == "float32" else f"{first}.dtype"
        lines.append(f"{program.argument(output.name)} = new({shape}, dtype={dtype})")
    for state in rec.states:
        for part, count in (("final", "n_sequences"), ("checkpoint", "n_chunks")):
            shape = _shape((count, *state.axes))
            line = f"{state.name}_{part} = {first}.new_empty({shape}, dtype=torch.float32)"
            if checkpoints:
                wanted = "want_final" if part == "final" else "want_checkpoints"
                lines += [f"{state.name}_{part} = None", f"if {wanted}:", f"    {line}"]
            elif part == "final":
                lines.append(line)
    return tuple(lines)


def contiguous(name: str, required: bool) -> str:
    """Launcher text of a tensor as the kernel reads it."""
    return f"{name}.contiguous()" if required else f"_contiguous({name})"


def _launch(program: Program, checkpoints: bool) -> Lines:
    rec = program.recurrence
    lines = [f"{contiguous(program.argument(t.name), t.required)}," for t in program.tensors]
    lines += [f"{contiguous(f'{s.name}_0', False)}," for s in rec.states]
    lines += [f"{program.argument(output.name)}," for output in rec.outputs]
    lines += [f"{state.name}_final," for state in rec.states]
    lines += [f"{state.name}_checkpoint," for state in rec.states if checkpoints]
    lines += ["cu_seqlens,", "n_tokens,"]
    lines += [f"{name}={name}," for name in program.constexprs()]
    lines += [
        f"{present(t.name)}={program.argument(t.name)} is not None,"
        for t in program.tensors
        if not t.required
    ]
    lines += [f"HAS_{s.name}_0={s.name}_0 is not None," for s in rec.states]
    return tuple(lines)
