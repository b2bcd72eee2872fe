"""The chunkwise schedule of the linear family, for decays that are one number per token and head.

States pass from chunk to chunk of 64 tokens in one kernel; outputs, and all gradients, of a chunk
are matrix products that need only its own tensors and the state before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from seqgen.ir.recurrence import Recurrence
from seqgen.passes.structure import Structure
from seqgen.plan.knobs import KernelSpace, Knob
from seqgen.plan.linear_epilogue import Epilogue, plan_epilogue
from seqgen.plan.linear_kernels import plan_kernels, value_extra
from seqgen.plan.linear_roles import Leaf, NoFastFormError, Role, Roles, find_roles
from seqgen.plan.linear_rows import Rows, plan_rows
from seqgen.plan.linear_tiles import TilesPlan, sizes_text, unique
from seqgen.plan.schedule import KernelPart, SchedulePlan

Lines = tuple[str, ...]
BLOCKS = (16, 32, 64, 128)
LARGE = (
    ("linear_state", "kernels/linear_state.py.jinja"),
    ("linear_output", "kernels/linear_output.py.jinja"),
    ("linear_output", "kernels/linear_output_launch.py.jinja"),
    ("linear_states", "kernels/linear_states.py.jinja"),
    ("linear_backward", "kernels/linear_backward.py.jinja"),
    ("linear_backward", "kernels/linear_backward_launch.py.jinja"),
)
HELPERS = ("linear", "linear_decay", "linear_host", "linear_walk")
TILES = "kernels/linear_tiles.py.jinja"


@dataclass(frozen=True)
class CallsPlan:
    """Everything that kernels/linear_calls.py.jinja places."""

    arguments: str
    cotangents: str
    extents: str
    forward: Lines
    backward: Lines


def plan_linear(
    recurrence: Recurrence, structure: Structure, universal: SchedulePlan
) -> SchedulePlan | str:
    """The chunkwise schedule, which hands small and huge problems to ``universal``.

    Returns the reason where the schedule does not cover the operator.
    """
    try:
        roles = find_roles(recurrence, structure)
        rows = plan_rows(roles)
        epilogue = plan_epilogue(roles)
    except NoFastFormError as error:
        return str(error)
    return _Builder(roles, rows, epilogue, universal).schedule()


class _Builder:
    def __init__(
        self, roles: Roles, rows: Rows, epilogue: Epilogue, universal: SchedulePlan
    ) -> None:
        self.roles, self.rows, self.epilogue, self.universal = roles, rows, epilogue, universal
        rec = roles.recurrence
        self.tensors = [t.name for t in rec.argument_order()]
        self.names = [*self.tensors, f"{rec.states[0].name}_0"]
        output, state = rec.outputs[0].name, rec.states[0].name
        self.cotangents = [f"d_{output}", f"d_{state}_final"]
        self.taken = {*self.names, *self.cotangents, "sizes", "cu_seqlens", "want_final"}
        self.headed = roles.state.axes[0] == roles.head

    def local(self, name: str) -> str:
        """A variable of the call functions."""
        return unique(name, self.taken)

    def schedule(self) -> SchedulePlan:
        universal, roles = self.universal, self.roles
        plan = plan_kernels(roles, self.rows, self.epilogue)
        parts = [KernelPart(name, template, plan) for name, template in LARGE]
        small = [self.rows.forward, self.rows.backward, self.epilogue.backward]
        parts += [KernelPart(t.name, TILES, t) for t in small if t is not None]
        parts.append(KernelPart("linear", "kernels/linear_calls.py.jinja", self.calls()))
        call = f"{', '.join(self.names)}, cu_seqlens, sizes"
        results = f"{roles.output.name}, {roles.state.name}_final"
        forward = f"{results} = _linear_forward({call}, want_final)"
        backward = f"gradients = _linear_backward({call}, {', '.join(self.cotangents)})"
        helpers = [name for name in universal.helpers if name != "arithmetic"]
        return SchedulePlan(
            name="linear",
            helpers=(
                "arithmetic",
                *helpers,
                "linear",
                "linear_decay",
                "linear_host",
                "linear_walk",
            ),
            kernels=(*parts, *universal.kernels),
            forward_call=_choice(forward, universal.forward_call),
            backward_call=_choice(backward, universal.backward_call),
            spaces=(*_spaces(t for t in small if t is not None), *universal.spaces),
            notes=universal.notes,
        )

    # Calls ------------------------------------------------------------------------------------

    def calls(self) -> CallsPlan:
        roles = self.roles
        extents = f'sizes["{roles.key}"], sizes["{roles.value}"]'
        return CallsPlan(
            arguments=", ".join(self.names),
            cotangents=", ".join(self.cotangents),
            extents=extents,
            forward=tuple(self.forward()),
            backward=tuple(self.backward()),
        )

    def operand(self, role: Role) -> str:
        """Text of the tensor of a role, as [B, T, heads, axis]."""
        if role.leaf is None:
            return self.local(f"{role.name}_tile")
        name = role.leaf.tensor.name
        return name if role.leaf.lead != "1" else f"{name}.unsqueeze(2)"

    def io(self) -> str:
        """A tensor of the io dtype."""
        tensors = [t for t in self.roles.recurrence.argument_order() if t.kind == "input"]
        plain = [t.name for t in tensors if t.dtype is None and t.required]
        return plain[0] if plain else tensors[0].name

    @property
    def factors(self) -> str:
        """Decays and weights as arguments, None where there are none."""
        roles = self.roles
        given = (("decay", roles.decay), ("write", roles.write), ("read", roles.read))
        return ", ".join(self.local(n) if value is not None else "None" for n, value in given)

    @property
    def common(self) -> str:
        return f"{self.local('chunks')}, cu_seqlens, sizes"

    def row_lines(self) -> list[str]:
        rows, roles = self.rows, self.roles
        lines = [f"{self.local('chunks')} = launch_linear_slots(cu_seqlens, sizes)"]
        if rows.forward is None:
            return lines
        given = (("decay", roles.decay), ("write", roles.write), ("read", roles.read))
        results = [self.local(name) for name, value in given if value is not None]
        results += [self.operand(role) for role in rows.computed]
        arguments = [self.io(), *_names(rows.arguments), self.common]
        target = f"{', '.join(results)}," if len(results) == 1 else ", ".join(results)
        lines.append(f"{target} = launch_linear_rows({', '.join(arguments)})")
        return lines

    def state_line(self, final: str) -> str:
        _, key, value = (self.operand(role) for role in self.roles.tiles)
        decay, write, _ = self.factors.split(", ")
        want = "False" if final == "_" else "want_final"
        return (
            f"{self.local('states')}, {final} = launch_linear_state({key}, {value}, {decay}, "
            f"{write}, {self.names[-1]}, {self.common}, {want})"
        )

    def output_call(self, flag: str) -> str:
        operands = [self.operand(role) for role in self.roles.tiles]
        leaves = _names(self.epilogue.leaves)
        arguments = [*operands, self.factors, self.local("states"), *leaves, self.common]
        if self.epilogue.lines:
            arguments.append(flag)
        return f"launch_linear_output({', '.join(arguments)})"

    def forward(self) -> list[str]:
        final, output = self.local("final"), self.local("output")
        return [
            *self.row_lines(),
            self.state_line(final),
            f"{output} = {self.output_call('True')}",
            f"return {output}{'' if self.headed else '.squeeze(2)'}, {final}",
        ]

    def backward(self) -> list[str]:
        roles, rows = self.roles, self.rows
        query, key, value = (self.operand(role) for role in roles.tiles)
        output, final = self.cotangents
        decay, write, read = self.factors.split(", ")
        states, d_states = self.local("states"), self.local("d_states")
        d_read, sums = self.local("d_read"), self.local("sums")
        tiles = [self.local(f"d_{role.name}") for role in roles.tiles]
        sizes = sizes_text(roles, parent=False)[1]
        head, _, extent = sizes.split(", ")
        extra = self.extra
        lines = self.row_lines()
        lines += [
            f"if {output} is None:",
            f'    {output} = {value}.new_zeros((sizes["B"], sizes["T"], {head}, {extent}))',
            f"{d_read} = {output}.to({value}.dtype).contiguous()",
        ]
        if not self.headed:
            lines.append(f"{d_read} = {d_read}.reshape({d_read}.shape[0], -1, 1, {extent})")
        if self.epilogue.backward is not None:
            lines += self.epilogue_lines(d_read)
        lines += [
            f"if {final} is not None:",
            f"    {final} = {final}.contiguous()",
            f"{states}, {d_states}, {self.local('d_initial')} = launch_linear_states(",
            f"    {query}, {key}, {value}, {d_read}, {decay}, {write}, {read}, {self.names[-1]},",
            f"    {final}, {self.common}{f', {states}' if self.epilogue.recompute else ''}",
            ")",
            f"{', '.join(tiles)}, {sums} = launch_linear_backward(",
            f"    {query}, {key}, {value}, {d_read}, {decay}, {write}, {read}, {states},",
            f"    {d_states},{f' {extra},' if extra else ''} {self.common}",
            ")",
        ]
        if rows.backward is not None:
            arguments = [self.io(), *_names(rows.backward_arguments)]
            arguments += [sums] if " sums," in rows.backward.arguments else []
            arguments += [self.local(f"d_{role.name}") for role in rows.seeds]
            results = ", ".join(self.local(f"rows_{name}") for name in _names(rows.gradients))
            comma = "," if len(rows.gradients) == 1 else ""
            lines += [
                f"{results}{comma} = launch_linear_rows_backward(",
                f"    {', '.join([*arguments, self.common])}",
                ")",
            ]
        return [*lines, "return (", *self.gradient_lines(tiles), ")"]

    @property
    def extra(self) -> str:
        """Gradient of the values through the output, which the backward kernel adds."""
        leaf = self.roles.tiles[2].leaf
        if leaf is None or not value_extra(self.roles, self.epilogue):
            return ""
        return self.local(f"end_{leaf.tensor.name}")

    def epilogue_lines(self, d_read: str) -> list[str]:
        epilogue, found = self.epilogue, self.local("found")
        assert epilogue.backward is not None
        lines = []
        arguments = [self.io(), *_names(epilogue.backward_leaves), d_read]
        if epilogue.recompute:
            lines += [
                f"{self.local('states')} = {found} = None",
                f"if {epilogue.recompute}:",
                f"    {self.state_line('_')}",
                f"    {found} = {self.output_call('False')}",
            ]
            arguments.append(found)
        results = [d_read, *(self.local(f"end_{n}") for n in _names(epilogue.gradients))]
        comma = "," if len(results) == 1 else ""
        return [
            *lines,
            f"{', '.join(results)}{comma} = launch_linear_epilogue_backward(",
            f"    {', '.join([*arguments, self.common])}",
            ")",
        ]

    def gradient_lines(self, tiles: list[str]) -> list[str]:
        """One entry per tensor and for the initial state: the sum of its parts."""
        roles, rows = self.roles, self.rows
        lines = []
        for tensor in roles.recurrence.argument_order():
            leaf = roles.leaf(tensor.value)
            assert leaf is not None
            parts = []
            if leaf in rows.gradients:
                parts.append(self.local(f"rows_{tensor.name}"))
            if leaf in self.epilogue.gradients and self.local(f"end_{tensor.name}") != self.extra:
                parts.append(self.local(f"end_{tensor.name}"))
            if tensor.value not in rows.covered:
                parts += [
                    name
                    for role, name in zip(roles.tiles, tiles, strict=True)
                    if role.leaf is not None and role.leaf.tensor.value == tensor.value
                ]
            lines.append(f"    {self.total(leaf, parts)},")
        return [*lines, f"    {self.local('d_initial')},"]

    def total(self, leaf: Leaf, parts: list[str]) -> str:
        name = leaf.tensor.name
        heads = {"1": "1", "HP": f'sizes["{self.roles.parent}"]'}
        heads["H"] = sizes_text(self.roles, parent=False)[1].split(", ")[0]
        folded = [
            f"_fold_heads({part}{'' if leaf.timed else '.sum(1, keepdim=True)'}, {name}, "
            f"{heads[leaf.lead]})"
            for part in parts
        ]
        text = " + ".join(folded) or f"torch.zeros_like({name})"
        return text if leaf.tensor.required else f"None if {name} is None else {text}"


def _names(leaves: Iterable[Leaf]) -> list[str]:
    return [leaf.tensor.name for leaf in leaves]


def _choice(fast: str, universal: Lines) -> Lines:
    """The chunkwise call where it fits, else the universal one."""
    return ("if _linear_fits(sizes):", f"    {fast}", "else:", *(f"    {x}" for x in universal))


def _spaces(small: Iterable[TilesPlan]) -> list[KernelSpace]:
    blocks = [Knob("BK", BLOCKS), Knob("BV", BLOCKS)]
    warps, stages = Knob("num_warps", (4, 8)), Knob("num_stages", (2, 3, 4))
    registers, described = Knob("maxnreg", (0, 168)), Knob("descriptors", (False, True))
    state = {"BK": 64, "BV": 64, "num_stages": 4, "num_warps": 4}
    states = {"BK": 128, "BV": 64, "num_stages": 3, "num_warps": 4}
    output = {"BK": 128, "BV": 128, "num_warps": 4, "maxnreg": 0}
    backward = {"BK": 128, "BV": 128, "descriptors": True, "num_warps": 4, "maxnreg": 0}
    spaces = [
        KernelSpace("linear_state", "fwd", (*blocks, stages, warps), state),
        KernelSpace("linear_output", "fwd", (*blocks, warps, registers), output),
        KernelSpace("linear_states", "bwd", (*blocks, stages, warps), states),
        KernelSpace("linear_backward", "bwd", (*blocks, described, warps, registers), backward),
    ]
    for plan in small:
        role: Literal["fwd", "bwd"] = "fwd" if plan.name == "linear_rows" else "bwd"
        own = Knob("num_warps", (1, 2, 4, 8, 16))
        if plan.head_block == "1":
            spaces.append(KernelSpace(plan.name, role, (own,), {"num_warps": 8}))
        else:
            heads = Knob("BH", (1, 2, 4, 8, 16, 32))
            spaces.append(KernelSpace(plan.name, role, (heads, own), {"BH": 16, "num_warps": 4}))
    return spaces


__all__ = ["plan_linear"]
