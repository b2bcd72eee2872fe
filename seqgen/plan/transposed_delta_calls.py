"""How the kernels of the transposed_delta schedule follow one another, in the generated file."""

from __future__ import annotations

from seqgen.plan.transposed_calls import each_head, output_lines
from seqgen.plan.vector_delta_calls import VectorDeltaCalls
from seqgen.plan.vector_delta_kernels import rows_of


class TransposedDeltaCalls(VectorDeltaCalls):
    """Writes the two functions that launch everything."""

    kind = "transposed_delta"

    @property
    def walk(self) -> tuple[str, str]:
        return self.roles.value, self.roles.key

    @property
    def operands(self) -> list[str]:
        """As the kernels want them in forward: any rows do for queries that nobody reads."""
        _, *others = super().operands
        return [others[0], *others]

    @property
    def prepared(self) -> list[str]:
        """Whatever no state enters, but decayed queries and their scores."""
        computed = [self.operand(role) for role in self.rows.computed]
        names = ("w", "inverse", "halves", "strong")
        return [*self.weight, *computed, *(self.local(name) for name in names), *self.for_states]

    @property
    def for_states(self) -> list[str]:
        return [self.local(name) for name in ("decayed_b", "total", "z")]

    def output_lines(self, target: str, flag: str) -> list[str]:
        query, put, _, gate = (self.operand(role) for role in self.roles.tiles[:4])
        operands = [query, self.local("added"), put, gate, *self.weight]
        return output_lines(self, operands, target, flag)

    def backward(self) -> list[str]:
        final = f"d_{self.roles.state.name}_final"
        query, d_read = self.operand(self.roles.tiles[0]), self.local("d_read")
        tiles = [self.local(f"d_{role.name}") for role in self.roles.tiles]
        d_query, _, d_value, d_gate, *_ = tiles
        _, *d_rows = (self.local(f"d_{role.name}") for role in rows_of(self.roles).values())
        expanded, lines = each_head(self, query)
        operands = [d_read, *self.operands[1:]]
        d_sums = [self.local("sums")] if self.weight else []
        given = ", ".join([*operands, self.local("added"), expanded, d_value])
        given += f", {self.texts('halves', 'strong', 'd_scores', 'states', 'd_states')}"
        results = ", ".join([self.local("output"), *d_rows, d_gate, *d_sums])
        lines = [
            *self.taken_lines(),
            *self.seed_lines(),
            *lines,
            f"if {final} is not None:",
            f"    {final} = {final}.contiguous()",
            *self.score_lines(operands, "decayed_a"),
            f"{self.texts('states', 'added', 'd_states', 'd_added', 'd_initial')} = (",
            "    launch_vector_delta_states(",
            f"        {self.texts('decayed_q', 'w', 'decayed_b', 'z')}, None, {self.value},",
            f"        {expanded}, {self.texts('qb', 'total')}, {self.initial}, {final},",
            f"        {self.common}, {self.texts('states', 'added')},",
            "    )",
            ")",
            f"{d_query} = launch_vector_delta_output(",
            f"    {self.texts('decayed_q', 'added', 'qb', 'states')}, {self.common}",
            ")",
            f"{d_value}, {self.local('d_scores')} = launch_vector_delta_values(",
            f"    {self.texts('inverse', 'added', 'd_added')}, {expanded}, {self.common}",
            ")",
            f"{results} = launch_vector_delta_gradients({given}, {self.common})",
            f"launch_vector_delta_gradients_strong({given}, ({results}), {self.common})",
            *self.rows_backward_lines(),
        ]
        return [*lines, "return (", *self.gradient_lines(tiles), ")"]
