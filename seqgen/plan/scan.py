"""The token-serial schedule with time split: segments of the sequences run in parallel.

Where states pass through tokens as ``seqgen.passes.time_split`` says, what a segment makes of them
is known without what it starts from. A first kernel finds that for all segments at once, a second
passes states from segment to segment, and then the token-serial kernels take the segments for
sequences. Backward does the same with the cotangents of the states. Calls whose sequences keep a
GPU busy, or are short, have no segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from seqgen.ir.recurrence import Recurrence
from seqgen.passes.axes import AxisPlan, split_axes
from seqgen.passes.time_split import Level, Passage, split_time
from seqgen.plan.linear_tiles import unique
from seqgen.plan.recurrent import (
    backward_arguments,
    gradient_lines,
    plan_recurrent,
    serial_default,
    serial_space,
)
from seqgen.plan.recurrent_backward import RecurrentBackward, plan_recurrent_backward
from seqgen.plan.recurrent_forward import io_tensor, plan_recurrent_forward
from seqgen.plan.recurrent_program import Lines, Program
from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.plan.tiling import elements

SUMMARY = "kernels/scan_summary.py.jinja"
ADJOINT = "kernels/recurrent_backward.py.jinja"
CALLS = "kernels/scan_calls.py.jinja"
HELPERS = ("segments", "scan", "scan_adjoint")


@dataclass(frozen=True)
class ScanCallsPlan:
    """Everything that kernels/scan_calls.py.jinja places; all texts are final."""

    arguments: str
    cotangents: str
    segments: str
    """The variable."""
    cut: str
    before: Lines
    found: str
    serial_forward: Lines
    serial_backward: Lines
    rows: Lines
    seed_rows: Lines
    starts: str
    forward: Lines
    results: str
    backward: Lines
    gradients: Lines


def plan_scan(recurrence: Recurrence) -> SchedulePlan | None:
    """The schedule, for any call; None if the states do not pass through tokens like that."""
    levels = split_time(recurrence)
    if levels is None:
        return None
    serial, program = plan_recurrent(recurrence), Program(recurrence)
    suffixes = [""] if len(levels) == 1 else [f"_{n}" for n in range(len(levels))]
    summaries, adjoints, spaces = [], [], []
    for n, (level, suffix) in enumerate(zip(levels, suffixes, strict=True)):
        tokens = _program(level.summary, split_axes(recurrence))
        summaries.append(plan_recurrent_forward(tokens, f"scan_summary{suffix}", checkpoints=False))
        spaces.append(serial_space(summaries[n].name, "fwd", serial_default(tokens, 8, 1024, 1024)))
        above = {p.state.name for other in levels[n:] for p in other.passages}
        adjoints.append(plan_recurrent_backward(program, f"scan_adjoint{suffix}", above))
        default = serial_default(program, 16, 1024, 512)
        spaces.append(serial_space(adjoints[n].name, "bwd", default))
    calls = _Calls(program, levels, serial, [s.name for s in summaries], adjoints).plan()
    tensors, results = f"{calls.arguments}, cu_seqlens, sizes", calls.results
    return replace(
        serial,
        name="scan",
        helpers=tuple(dict.fromkeys(("arithmetic", *serial.helpers, *HELPERS))),
        kernels=(
            *(KernelPart(s.name, SUMMARY, s) for s in summaries),
            *(KernelPart(a.name, ADJOINT, a) for a in adjoints),
            *serial.kernels,
            KernelPart("scan", CALLS, calls),
        ),
        forward_call=(f"{results} = _scan_forward({tensors}, want_final)",),
        backward_call=(f"gradients = _scan_backward({tensors}, {calls.cotangents})",),
        spaces=(*serial.spaces, *spaces),
    )


class _Calls:
    """Writes the functions that run the kernels."""

    def __init__(
        self,
        program: Program,
        levels: tuple[Level, ...],
        serial: SchedulePlan,
        summaries: list[str],
        adjoints: list[RecurrentBackward],
    ) -> None:
        self.program, self.levels, self.serial = program, levels, serial
        self.summaries, self.adjoints = summaries, adjoints
        self.main = plan_recurrent_backward(program)
        rec = self.recurrence = program.recurrence
        self.finals = [f"{s.name}_final" for s in rec.states]
        self.outputs = [o.name for o in rec.outputs]
        given = [t.name for t in rec.argument_order()]
        given += [f"{s.name}_0" for s in rec.states]
        self.arguments = ", ".join(given)
        self.results = ", ".join([*self.outputs, *self.finals])
        self.seeds = [f"d_{name}" for name in self.outputs]
        self.cotangents = [*self.seeds, *(f"d_{name}" for name in self.finals)]
        self.taken = {*given, *self.outputs, *self.finals, *self.cotangents}
        self.taken |= {"sizes", "cu_seqlens", "want_final", "gradients"}
        self.segments = unique("segments", self.taken)
        self.names: dict[str, str] = {}

    def plan(self) -> ScanCallsPlan:
        """The finished plan."""
        rec, rows = self.recurrence, f"{self.segments}.rows"
        inputs = [t.name for t in rec.argument_order() if t.kind == "input"]
        largest = max(rec.states, key=lambda s: elements([rec.axis(axis) for axis in s.axes]))
        entries = " * ".join(f'sizes["{axis}"]' for axis in largest.axes) or "1"
        first = io_tensor(self.program)
        found = ", ".join(self.found())
        return ScanCallsPlan(
            arguments=self.arguments,
            cotangents=", ".join(self.cotangents),
            segments=self.segments,
            cut=f"_segments({first}, cu_seqlens, sizes, {entries})",
            before=self.before_lines(),
            found=found,
            serial_forward=self.serial.forward_call,
            serial_backward=self.serial.backward_call,
            rows=tuple(f"{name} = {rows}({name})" for name in inputs),
            seed_rows=tuple(f"{name} = {rows}({name})" for name in self.seeds),
            starts=f"{found} = _scan_before({self.arguments}, {self.segments})",
            forward=self.forward_lines(),
            results=self.results,
            backward=self.backward_lines(),
            gradients=self.gradient_lines(),
        )

    def name(self, wanted: str) -> str:
        """The variable for what is ``wanted``, beside the user's names."""
        if wanted not in self.names:
            self.names[wanted] = unique(wanted, self.taken | set(self.names.values()))
        return self.names[wanted]

    def passages(self) -> list[Passage]:
        return [passage for level in self.levels for passage in level.passages]

    def local(self, passage: Passage) -> str:
        return self.name(f"{passage.state.name}_local")

    def before(self, state: str) -> str:
        return self.name(f"{state}_before")

    def decay(self, passage: Passage) -> str:
        return self.name(passage.total) if passage.total else "None"

    def found(self) -> list[str]:
        """What is known of all states before the segments run."""
        names = [self.before(p.state.name) for p in self.passages()]
        names += [self.local(p) for p in self.passages()]
        names += [self.decay(p) for p in self.passages() if p.total]
        return [*names, *self.finals]

    @property
    def call(self) -> str:
        return f"{self.segments}.borders, {self.segments}.sizes"

    # Forward ----------------------------------------------------------------------------------

    def before_lines(self) -> Lines:
        lines: list[str] = []
        for level, kernel in zip(self.levels, self.summaries, strict=True):
            own = {p.state.name: self.local(p) for p in level.passages}
            own |= {p.total: self.decay(p) for p in level.passages if p.total}
            states = [s.name for s in level.summary.states]
            tensors = [t.name for t in level.summary.argument_order()]
            known = ["None" if state in own else self.before(state) for state in states]
            lines += [
                f"{', '.join(own.get(state, '_') for state in states)}, = launch_{kernel}(",
                f"    {', '.join([*tensors, *known])}, {self.call}",
                ")",
            ]
            for p in level.passages:
                state = p.state.name
                lines += [
                    f"{self.before(state)}, {state}_final = launch_scan_states(",
                    f"    {self.local(p)}, {self.decay(p)}, {state}_0, {self.how(p)}, {_init(p)}",
                    ")",
                ]
        return tuple(lines)

    def how(self, passage: Passage) -> str:
        return f'{self.segments}, {self.recurrence.reverse}, "{passage.join}"'

    def forward_lines(self) -> Lines:
        names = ", ".join([*self.outputs, "*_"])
        lines = [f"{names} = launch_recurrent_forward(", f"    {self.run()}, False, False", ")"]
        return (*lines, *(f"{name} = {self.tokens(name)}" for name in self.outputs))

    def run(self) -> str:
        """Arguments of the forward kernel that runs the segments."""
        states = [self.before(s.name) for s in self.recurrence.states]
        return f"{', '.join([*(t.name for t in self.program.tensors), *states])}, {self.call}"

    @staticmethod
    def tokens(name: str) -> str:
        """Text of what segments gave, as the call has it."""
        return f'{name}.view(sizes["B"], sizes["T"], *{name}.shape[2:])'

    # Backward ---------------------------------------------------------------------------------

    def backward_lines(self) -> Lines:
        states, lines = [s.name for s in self.recurrence.states], []
        restored = {name for plan in (self.main, *self.adjoints) for name in plan.checkpoints}
        if restored:
            names = [f"{name}_checkpoint" if name in restored else "_" for name in states]
            lines += [
                f"*_, {', '.join(names)} = launch_recurrent_forward(",
                f"    {self.run()}, False, True",
                ")",
            ]
        for level, plan in reversed(list(zip(self.levels, self.adjoints, strict=True))):
            own = [p for p in level.passages if p.state.name in plan.carried]
            if own:
                lines += self.level_backward(own, plan)
        known = [f"grad_{name}" if name not in states else "_" for name in self.main.gradients]
        after = (self.name(f"d_{name}_after") for name in self.main.carried)
        lines += [
            f"{', '.join(known)}, = launch_recurrent_backward(",
            f"    {backward_arguments(self.program, self.main, after)}, {self.call}",
            ")",
        ]
        return tuple(lines)

    def level_backward(self, own: list[Passage], plan: RecurrentBackward) -> Iterator[str]:
        """The cotangents of the states of a level, after all segments and before the first."""
        names = {p.state.name: self.name(f"d_{p.state.name}_local") for p in own}
        after = ["None" if name in names else self.name(f"d_{name}_after") for name in plan.carried]
        yield f"{', '.join(names.get(name, '_') for name in plan.gradients)}, = launch_{plan.name}("
        yield f"    {backward_arguments(self.program, plan, after)}, {self.call}"
        yield ")"
        for p in own:
            state = p.state.name
            given = [names[state], self.before(state), self.local(p), self.decay(p)]
            given += [f"d_{state}_final", self.how(p)]
            yield f"{self.name(f'd_{state}_after')}, grad_{state} = launch_scan_cotangents("
            yield f"    {', '.join(given)}"
            yield ")"

    def gradient_lines(self) -> Lines:
        known = {name: f"grad_{name}" for name in self.main.gradients}
        for tensor in self.recurrence.inputs:
            name = known.get(tensor.name, tensor.name)
            text = self.tokens(name)
            text = text if tensor.name in known else f"torch.zeros_like({text})"
            absent = "" if tensor.required else f"None if {tensor.name} is None else "
            known[tensor.name] = f"{absent}{text}"
        return gradient_lines(self.recurrence, known)


def _program(summary: Recurrence, axes: AxisPlan) -> Program:
    """The tokens of a summary, in tiles like those of the whole: they share what they load."""
    layouts = [*(t.axes for t in summary.tensors), *(s.axes for s in summary.states)]
    used = {axis for layout in layouts for axis in layout}
    kept = [axis.name for axis in summary.axes if axis.name in used]
    coupled = tuple(axis for axis in kept if axis in axes.coupled)
    grid = tuple(axis for axis in kept if axis in axes.grid)
    parents = tuple(pair for pair in axes.parents if set(pair) <= set(kept))
    return Program(summary, AxisPlan(grid, coupled, parents))


def _init(passage: Passage) -> str:
    """Python text of the state where none is given."""
    init = passage.state.init
    return repr(init) if math.isfinite(init) else f'float("{init}")'
