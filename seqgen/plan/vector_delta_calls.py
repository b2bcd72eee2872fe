"""How the kernels of the vector_delta schedule follow one another, in the generated file."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.plan.linear_calls import Calls, CallsPlan, want_final
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_roles import Roles
from seqgen.plan.linear_rows import Rows
from seqgen.plan.vector_delta_kernels import VectorDeltaPlan, rows_of


@dataclass(frozen=True)
class VectorDeltaCallsPlan(CallsPlan):
    """Everything that kernels/vector_delta_calls.py.jinja places; see VectorDeltaPlan."""

    shared_bytes: int
    wide: int


class VectorDeltaCalls(Calls):
    """Writes the two functions that launch everything."""

    kind = "vector_delta"

    def __init__(
        self, roles: Roles, rows: Rows, epilogue: Epilogue, kernels: VectorDeltaPlan
    ) -> None:
        super().__init__(roles, rows, epilogue)
        self.kernels, self.own = kernels, kernels.own

    @property
    def walk(self) -> tuple[str, str]:
        """Key and value axis of the state as kernels see it."""
        return self.roles.key, self.roles.value

    def plan(self) -> VectorDeltaCallsPlan:
        """The finished plan."""
        kernels = self.kernels
        extents = ", ".join(f'sizes["{axis}"]' for axis in self.walk)
        return VectorDeltaCallsPlan(
            **{**vars(super().plan()), "extents": extents},
            shared_bytes=kernels.shared_bytes,
            wide=kernels.wide,
        )

    @property
    def fits(self) -> str:
        """Whether the kernels serve a call, in the generated file."""
        fits = f"_{self.kind}_fits(sizes, {self.io()}.dtype)"
        return f"{self.io()}.dtype != torch.float16 and {fits}" if self.kernels.signed else fits

    @property
    def fallback(self) -> str:
        """Which calls they do not serve, as a sentence."""
        key, value = self.walk
        steps = "" if self.roles.recurrence.reverse else "decode steps, and "
        steps += "fp16, for gates may be above 0, and " if self.kernels.signed else ""
        calls = f"{steps}calls with T < 16, {key} outside 16 to 256 or {value} outside 16 to 512, "
        more = f"or whose walk over {key} needs more shared memory than there is"
        return f"The token-serial kernels take {calls}{more}."

    @property
    def extra(self) -> str:
        """Values get what the output gives them outside of the kernels."""
        return ""

    @property
    def value(self) -> str:
        return self.operand(self.roles.tiles[2])

    @property
    def weight(self) -> list[str]:
        """The weight of the keys, if there is one."""
        return [self.local("write")] if self.roles.write is not None else []

    @property
    def operands(self) -> list[str]:
        """Tensors over the key axis, gates, weight."""
        found = [*rows_of(self.roles).values(), self.roles.tiles[3]]
        return [*(self.operand(role) for role in found), *self.weight]

    def texts(self, *names: str) -> str:
        return ", ".join(self.local(name) for name in names)

    def only_own(self, *names: str) -> list[str]:
        """Results that there are where values have keys of their own."""
        return [self.local(name) for name in names] if self.own else []

    @property
    def keys(self) -> str:
        """Decayed keys of the values, None where they have none of their own."""
        return self.local("decayed_k") if self.own else "None"

    @property
    def prepared(self) -> list[str]:
        """Whatever no state enters."""
        names = ["decayed_q", "w", "decayed_b", "halves", "strong", "total", "qb", "inverse", "z"]
        computed = [self.operand(role) for role in self.rows.computed]
        own = self.only_own("decayed_k", "qk", "ak")
        return [*self.weight, *computed, *(self.local(n) for n in names), *own]

    def score_lines(self, operands: list[str], erased: str) -> list[str]:
        """Decays rows and scores pairs of them; ``erased`` is the name of what erases."""
        decayed = [self.texts("decayed_q", erased, "decayed_b"), *self.only_own("decayed_k")]
        scores = [self.texts("halves", "strong", "total", "ab", "qb"), *self.only_own("qk", "ak")]
        given, results = ", ".join(operands), ", ".join([*decayed, *scores])
        return [
            f"{results} = launch_vector_delta_scores({given}, {self.value}, {self.common})",
            f"launch_vector_delta_scores_strong({given}, {results}, {self.common})",
        ]

    def prepared_lines(self) -> list[str]:
        arguments = [self.local("ab"), *self.only_own("ak"), self.value, self.local("w")]
        return [
            *self.score_lines(self.operands, "w"),
            f"{self.texts('inverse', 'z')} = launch_vector_delta_solve(",
            f"    {', '.join(arguments)}, {self.common}",
            ")",
        ]

    @property
    def for_states(self) -> list[str]:
        return [self.local("z")]

    @property
    def holds_rows(self) -> bool:
        return True

    @property
    def walked(self) -> list[str]:
        """States, and what is added with b."""
        return [self.local("states"), self.local("added")]

    def state_lines(self, final: str, keep: str) -> list[str]:
        return [
            f"{self.texts('states', 'added')}, {final} = launch_vector_delta_state(",
            f"    {self.texts('w', 'decayed_b', 'z')}, {self.keys}, {self.value},",
            f"    {self.texts('total')}, {self.initial}, {self.common}, {want_final(final)},",
            ")",
        ]

    def output_call(self, flag: str) -> str:
        own = [self.value, self.local("qk")] if self.own else []
        leaves = [leaf.tensor.name for leaf in self.epilogue.leaves]
        arguments = [self.texts("decayed_q", "added", "qb"), *own, self.local("states"), *leaves]
        arguments.append(self.common)
        if self.epilogue.lines:
            arguments.append(flag)
        return f"launch_vector_delta_output({', '.join(arguments)})"

    def backward(self) -> list[str]:
        final, value = f"d_{self.roles.state.name}_final", self.value
        tiles = [self.local(f"d_{role.name}") for role in self.roles.tiles]
        d_value, d_gate = tiles[2], tiles[3]
        d_rows = [self.local(f"d_{role.name}") for role in rows_of(self.roles).values()]
        d_z = self.local("d_z") if self.own else d_value
        values = [self.texts("inverse", "added", "d_added", "d_read")]
        if self.own:
            values += [value, self.texts("decayed_k", "qk", "ak", "d_states")]
        own = [value] if self.own else []
        sums = [self.local("sums")] if self.weight else []
        found = ", ".join(([d_value] if self.own else []) + [d_z])
        given = ", ".join([*self.operands, *own, self.texts("added", "d_read"), d_z])
        given += f", {self.texts('halves', 'strong', 'd_scores', 'states', 'd_states')}"
        results = ", ".join([*d_rows, d_gate, *sums])
        lines = [
            *self.taken_lines(),
            *self.seed_lines(),
            f"if {final} is not None:",
            f"    {final} = {final}.contiguous()",
            f"{self.texts('states', 'added', 'd_states', 'd_added', 'd_initial')} = (",
            "    launch_vector_delta_states(",
            f"        {self.texts('decayed_q', 'w', 'decayed_b', 'z')}, {self.keys}, {value},",
            f"        {self.texts('d_read', 'qb', 'total')}, {self.initial}, {final},",
            f"        {self.common}, {self.texts('states', 'added')},",
            "    )",
            ")",
            f"{found}, {self.local('d_scores')} = launch_vector_delta_values(",
            f"    {', '.join(values)}, {self.common}",
            ")",
            f"{results} = launch_vector_delta_gradients({given}, {self.common})",
            f"launch_vector_delta_gradients_strong({given}, ({results}), {self.common})",
            *self.rows_backward_lines(),
        ]
        return [*lines, "return (", *self.gradient_lines(tiles), ")"]
