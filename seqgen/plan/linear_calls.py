"""How the kernels of the linear schedule follow one another, in the generated file.

A normaliser (a second state without the value axis, read with the same query) runs through the
same kernels, with ones for values and one column.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import value_extra
from seqgen.plan.linear_roles import Leaf, Role, Roles
from seqgen.plan.linear_rows import Rows, row_factors
from seqgen.plan.linear_tiles import lead_text, sizes_text, unique

Lines = tuple[str, ...]

KEEP_STATES = "kept is not None and KEEP >= 2"
"""Text, in the generated file: whether forward keeps the states for backward."""


@dataclass(frozen=True)
class CallsPlan:
    """Everything that kernels/linear_calls.py.jinja places."""

    arguments: str
    cotangents: str
    extents: str
    forward: Lines
    backward: Lines


class Calls:
    """Writes the two functions that launch everything."""

    def __init__(self, roles: Roles, rows: Rows, epilogue: Epilogue) -> None:
        self.roles, self.rows, self.epilogue = roles, rows, epilogue
        rec = roles.recurrence
        states = [state.name for state in rec.states]
        self.arguments = [*(t.name for t in rec.argument_order()), *(f"{s}_0" for s in states)]
        self.cotangents = [f"d_{roles.output.name}", *(f"d_{s}_final" for s in states)]
        own = ("sizes", "cu_seqlens", "want_final", "kept")
        self.taken = {*self.arguments, *self.cotangents, *own}
        self.headed = roles.state.axes[0] == roles.head
        self.initial = f"{roles.state.name}_0"

    def local(self, name: str) -> str:
        """A variable of the call functions."""
        return unique(name, self.taken)

    def plan(self) -> CallsPlan:
        """The finished plan."""
        roles = self.roles
        extents = f'sizes["{roles.key}"], sizes["{roles.value}"]'
        return CallsPlan(
            arguments=", ".join(self.arguments),
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
        given = row_factors(self.roles)
        return ", ".join(self.local(n) if value is not None else "None" for n, value in given)

    @property
    def common(self) -> str:
        return f"{self.local('chunks')}, cu_seqlens, sizes"

    def row_lines(self) -> list[str]:
        rows, roles = self.rows, self.roles
        lines = [f"{self.local('chunks')} = launch_linear_slots(cu_seqlens, sizes)"]
        if rows.forward is None:
            return lines
        results = [self.local(name) for name, value in row_factors(roles) if value is not None]
        results += [self.operand(role) for role in rows.computed]
        arguments = [self.io(), *_names(rows.arguments), self.common]
        target = f"{', '.join(results)}," if len(results) == 1 else ", ".join(results)
        lines.append(f"{target} = launch_linear_rows({', '.join(arguments)})")
        return lines

    @property
    def prepared(self) -> list[str]:
        """What forward keeps for backward and has before any state: KEEP of 1."""
        return []

    @property
    def for_states(self) -> list[str]:
        """What of it serves the states alone, and is not kept where they are."""
        return []

    @property
    def holds_rows(self) -> bool:
        """Whether all that rows give is among what is prepared."""
        return False

    @property
    def walked(self) -> list[str]:
        """What forward keeps besides: states before each chunk and what comes with them."""
        return [self.local("states")]

    @property
    def keeps(self) -> str:
        """How many tensors forward keeps, in the generated file."""
        early = f"{len(self.prepared)} * (KEEP >= 1) + " if self.prepared else ""
        return f"{early}{len(self.walked)} * (KEEP >= 2)"

    def prepared_lines(self) -> list[str]:
        """Computes what comes before any state."""
        return []

    def kept_lines(self) -> list[str]:
        """Forward: computes what comes before any state, and keeps it."""
        if not self.prepared:
            return []
        states_too = "KEEP >= 2"
        kept = [
            f"None if {states_too} else {name}" if name in self.for_states else name
            for name in self.prepared
        ]
        keep = f"    kept.extend({_tuple(kept)})"
        return [*self.prepared_lines(), "if kept is not None and KEEP >= 1:", keep]

    def taken_lines(self) -> list[str]:
        """Backward: rows, what comes before any state, and states, as far as they were kept."""
        lines, n = self.row_lines(), len(self.prepared)
        if n:
            again = [f"    {line}" for line in self.prepared_lines()]
            if self.holds_rows:
                again = [*(f"    {line}" for line in lines[1:]), *again]
                lines = lines[:1]
            lines += ["if kept:", f"    {', '.join(self.prepared)} = kept[:{n}]", "else:", *again]
        none = _tuple(["None"] * len(self.walked))
        rest = f"kept[{n}:]" if n else "kept"
        return [*lines, f"{_targets(self.walked)} = {rest} or {none}"]

    def state_lines(self, final: str, keep: str) -> list[str]:
        """States and the final state; ``keep`` says whether backward will ask for them."""
        _, key, value = (self.operand(role) for role in self.roles.tiles)
        decay, write, _ = self.factors.split(", ")
        return [
            f"{self.local('states')}, {final} = launch_linear_state({key}, {value}, {decay}, "
            f"{write}, {self.initial}, {self.common}, {want_final(final)})"
        ]

    def output_call(self, flag: str) -> str:
        operands = [self.operand(role) for role in self.roles.tiles]
        leaves = _names(self.epilogue.leaves)
        arguments = [*operands, self.factors, self.local("states"), *leaves, self.common]
        if self.epilogue.lines:
            arguments.append(flag)
        return f"launch_linear_output({', '.join(arguments)})"

    def output_lines(self, target: str, flag: str) -> list[str]:
        """Lines that give ``target`` the output, or what was read for a ``flag`` of False."""
        return [f"{target} = {self.output_call(flag)}"]

    # The normaliser: values of one, one column.

    @property
    def norm_common(self) -> str:
        return f"{self.local('chunks')}, cu_seqlens, {self.local('norm_sizes')}"

    def norm_lines(self, want: str) -> list[str]:
        """Its states, its final state, and what is read of it."""
        state, read = self.roles.normaliser, self.roles.normaliser_read
        if state is None or read is None:
            return []
        query, key, value = (self.operand(role) for role in self.roles.tiles)
        decay, write, of_read = self.factors.split(", ")
        ones, states = self.local("ones"), self.local("norm_states")
        leaves = ["None" if leaf == read else leaf.tensor.name for leaf in self.epilogue.leaves]
        arguments = [query, key, ones, decay, write, of_read, states, *leaves, self.norm_common]
        return [
            f'{self.local("norm_sizes")} = {{**sizes, "{self.roles.value}": 1}}',
            f'{ones} = {value}.new_ones((sizes["B"], sizes["T"], 1, 1))',
            f"{states}, {self.local('norm_final')} = launch_linear_state(",
            f"    {key}, {ones}, {decay}, {write}, {state.name}_0, {self.norm_common}, {want}",
            ")",
            f"{read.tensor.name} = launch_linear_output({', '.join(arguments)}, False)",
        ]

    def norm_backward_lines(self) -> list[str]:
        """Gradients through the normaliser, added to those of queries and keys."""
        state, read = self.roles.normaliser, self.roles.normaliser_read
        if state is None or read is None:
            return []
        query, key, value = (self.operand(role) for role in self.roles.tiles)
        ones, states = self.local("ones"), self.local("norm_states")
        d_states, d_read = self.local("d_norm_states"), self.local("d_norm_read")
        d_query, d_key = self.local("d_query"), self.local("d_key")
        n_query, n_key = self.local("norm_d_query"), self.local("norm_d_key")
        sums = self.local("sums")
        final = f"d_{state.name}_final"
        end = self.local(f"end_{read.tensor.name}")
        given = f"{query}, {key}, {ones}, {d_read}, {self.factors}"
        groups = sum(x is not None for x in (self.roles.write, self.roles.read))
        planes = f"2, {3 + groups}" if self.rows.decay_gradient else f"0, {groups}"
        n_sums = "_" if planes == "0, 0" else self.local("norm_sums")
        return [
            f"if {final} is not None:",
            f"    {final} = {final}.contiguous()",
            f"{d_read} = {end}.to({value}.dtype).unsqueeze(-1)",
            f"_, {d_states}, {self.local('d_norm_initial')} = launch_linear_states(",
            f"    {given}, {state.name}_0, {final}, {self.norm_common}, {states}",
            ")",
            f"{n_query}, {n_key}, _, {n_sums} = launch_linear_backward(",
            f"    {given}, {states}, {d_states}, {self.norm_common}",
            ")",
            f"{d_query} = {d_query} + {n_query}",
            f"{d_key} = {d_key} + {n_key}",
            *[f"{sums} = _add_row_sums({sums}, {n_sums}, {planes})"] * (n_sums != "_"),
        ]

    def forward(self) -> list[str]:
        final, output = self.local("final"), self.local("output")
        finals = [
            final if state == self.roles.state else self.local("norm_final")
            for state in self.roles.recurrence.states
        ]
        norm = self.norm_lines("want_final")
        if norm:
            state = self.roles.normaliser
            assert state is not None
            finals = [
                f"None if {name} is None else {name}.squeeze(-1)" if name != final else name
                for name in finals
            ]
        return [
            *self.row_lines(),
            *self.kept_lines(),
            *norm,
            *self.state_lines(final, KEEP_STATES),
            f"if {KEEP_STATES}:",
            f"    kept.extend({_tuple(self.walked)})",
            *self.output_lines(output, "True"),
            f"return {output}{'' if self.headed else '.squeeze(2)'}, {', '.join(finals)}",
        ]

    def backward(self) -> list[str]:
        roles = self.roles
        query, key, value = (self.operand(role) for role in roles.tiles)
        final = f"d_{roles.state.name}_final"
        decay, write, read = self.factors.split(", ")
        states, d_states = self.local("states"), self.local("d_states")
        d_read, sums = self.local("d_read"), self.local("sums")
        tiles = [self.local(f"d_{role.name}") for role in roles.tiles]
        extra = self.extra
        lines = [*self.taken_lines(), *self.norm_lines("False"), *self.seed_lines()]
        lines += [
            f"if {final} is not None:",
            f"    {final} = {final}.contiguous()",
            f"{states}, {d_states}, {self.local('d_initial')} = launch_linear_states(",
            f"    {query}, {key}, {value}, {d_read}, {decay}, {write}, {read}, {self.initial},",
            f"    {final}, {self.common}, {states}",
            ")",
            f"{', '.join(tiles)}, {sums} = launch_linear_backward(",
            f"    {query}, {key}, {value}, {d_read}, {decay}, {write}, {read}, {states},",
            f"    {d_states},{f' {extra},' if extra else ''} {self.common}",
            ")",
        ]
        lines += self.norm_backward_lines()
        lines += self.rows_backward_lines()
        return [*lines, "return (", *self.gradient_lines(tiles), ")"]

    def rows_backward_lines(self) -> list[str]:
        rows = self.rows
        if rows.backward is None:
            return []
        arguments = [self.io(), *_names(rows.backward_arguments)]
        arguments += [self.local("sums")] if " sums," in rows.backward.arguments else []
        arguments += [self.local(f"d_{role.name}") for role in rows.seeds]
        results = ", ".join(self.local(f"rows_{name}") for name in _names(rows.gradients))
        comma = "," if len(rows.gradients) == 1 else ""
        return [
            f"{results}{comma} = launch_linear_rows_backward(",
            f"    {', '.join([*arguments, self.common])}",
            ")",
        ]

    def seed_lines(self) -> list[str]:
        """The gradient of what is read, from that of the output."""
        value, output = self.operand(self.roles.tiles[2]), self.cotangents[0]
        head, _, extent = sizes_text(self.roles, parent=False)[1].split(", ")
        d_read = self.local("d_read")
        lines = [
            f"if {output} is None:",
            f'    {output} = {value}.new_zeros((sizes["B"], sizes["T"], {head}, {extent}))',
            f"{d_read} = {self.seed_text(output, value)}.contiguous()",
        ]
        if not self.headed:
            lines.append(f"{d_read} = {d_read}.reshape({d_read}.shape[0], -1, 1, {extent})")
        if self.epilogue.backward is not None:
            lines += self.epilogue_lines(d_read)
        return lines

    def seed_text(self, output: str, value: str) -> str:
        """The gradient of the output in the dtype that the kernels take."""
        return f"{output}.to({value}.dtype)"

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
            again = [f"    {line}" for line in self.state_lines("_", "True")]
            compute = [f"if {self.local('states')} is None:", *again]
            compute += self.output_lines(found, "False")
            if epilogue.recompute != "True":
                lines += [f"{found} = None", f"if {epilogue.recompute}:"]
                compute = [f"    {line}" for line in compute]
            lines += compute
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
            if leaf == roles.bonus:
                parts.append(self.local("d_bonus"))
            if tensor.value not in rows.covered:
                parts += [
                    name
                    for role, name in zip(roles.tiles, tiles, strict=True)
                    if role.leaf is not None and role.leaf.tensor.value == tensor.value
                ]
            lines.append(f"    {self.total(leaf, parts)},")
        for state in roles.recurrence.states:
            own = state == roles.state
            lines.append(f"    {self.local('d_initial' if own else 'd_norm_initial')},")
        return lines

    def total(self, leaf: Leaf, parts: list[str]) -> str:
        name = leaf.tensor.name
        heads = lead_text(self.roles, leaf.lead)
        if not leaf.timed:
            parts = [f"_sum_over({part}, 1)[:, None]" for part in parts]
        folded = [f"_fold_heads({part}, {name}, {heads})" for part in parts]
        text = " + ".join(folded) or f"torch.zeros_like({name})"
        return text if leaf.tensor.required else f"None if {name} is None else {text}"


def want_final(final: str) -> str:
    """Text of the flag that asks for the final state, from where it goes."""
    return "False" if final == "_" else "want_final"


def _targets(names: list[str]) -> str:
    return ", ".join(names) + ("," if len(names) == 1 else "")


def _tuple(names: list[str]) -> str:
    return f"({_targets(names)})"


def _names(leaves: Iterable[Leaf]) -> list[str]:
    return [leaf.tensor.name for leaf in leaves]
