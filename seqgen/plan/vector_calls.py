"""How the kernels of the vector schedule follow one another, in the generated file."""

from __future__ import annotations

from seqgen.plan.linear_calls import Calls, want_final
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_roles import Roles
from seqgen.plan.linear_rows import Rows


class VectorCalls(Calls):
    """Writes the two functions that launch everything."""

    kind = "vector"

    def __init__(self, roles: Roles, rows: Rows, epilogue: Epilogue, signed: bool) -> None:
        super().__init__(roles, rows, epilogue)
        self.signed = signed

    @property
    def extra(self) -> str:
        """Values get what the output gives them outside of the kernels."""
        return ""

    @property
    def prepared(self) -> list[str]:
        """Results of the scores kernel: tiles of queries and keys, decays of chunks, scores."""
        names = ("decayed_q", "decayed_k", "total", "halves", "strong", "scores")
        return [self.local(name) for name in names]

    @property
    def tiles(self) -> list[str]:
        """Query, key, gate, and the bonus if there is one."""
        query, key, _, gate = (self.operand(role) for role in self.roles.tiles)
        bonus = self.roles.bonus
        return [query, key, gate, *([bonus.tensor.name] if bonus else [])]

    @property
    def value(self) -> str:
        return self.operand(self.roles.tiles[2])

    @property
    def fits(self) -> str:
        """Whether the kernels serve a call, in the generated file."""
        fits = f"_{self.kind}_fits(sizes)"
        return f"{self.io()}.dtype != torch.float16 and {fits}" if self.signed else fits

    @property
    def fallback(self) -> str:
        """Which calls they do not serve, as a sentence."""
        key, value = self.roles.key, self.roles.value
        steps = "" if self.roles.recurrence.reverse else "decode steps, and "
        steps += "fp16, for gates may be above 0, and " if self.signed else ""
        calls = f"{steps}calls with T < 16 or {key} or {value} outside 16 to 512"
        return f"The token-serial kernels take {calls}."

    def prepared_lines(self) -> list[str]:
        tiles, results = ", ".join(self.tiles), ", ".join(self.prepared)
        return [
            f"{results} = launch_vector_scores({tiles}, {self.value}, {self.common})",
            f"launch_vector_scores_strong({tiles}, {results}, {self.common})",
        ]

    def state_lines(self, final: str, keep: str) -> list[str]:
        _, decayed_k, total, *_ = self.prepared
        return [
            f"{self.local('states')}, {final} = launch_vector_state({decayed_k}, {self.value}, "
            f"{total}, {self.initial}, {self.common}, {want_final(final)})"
        ]

    def output_call(self, flag: str) -> str:
        decayed_q, *_, scores = self.prepared
        leaves = [leaf.tensor.name for leaf in self.epilogue.leaves]
        arguments = [decayed_q, self.value, scores, self.local("states"), *leaves, self.common]
        if self.epilogue.lines:
            arguments.append(flag)
        return f"launch_vector_output({', '.join(arguments)})"

    def backward(self) -> list[str]:
        final, d_read = f"d_{self.roles.state.name}_final", self.local("d_read")
        decayed_q, decayed_k, total, halves, strong, scores = self.prepared
        d_query, d_key, d_value, d_gate = found = [
            self.local(f"d_{role.name}") for role in self.roles.tiles
        ]
        states, d_states = self.local("states"), self.local("d_states")
        d_scores = self.local("d_scores")
        results = [d_query, d_key, d_gate, *([self.local("d_bonus")] if self.roles.bonus else [])]
        given = (
            f"{', '.join([*self.tiles, self.value])}, {d_read}, {halves}, {strong}, {d_scores}, "
        )
        given += f"{states}, {d_states}"
        lines = [
            *self.taken_lines(),
            *self.seed_lines(),
            f"if {final} is not None:",
            f"    {final} = {final}.contiguous()",
            f"{states}, {d_states}, {self.local('d_initial')} = launch_vector_states(",
            f"    {decayed_q}, {decayed_k}, {self.value}, {d_read}, {total}, {self.initial},",
            f"    {final}, {self.common}, {states}",
            ")",
            f"{d_value}, {d_scores} = launch_vector_values(",
            f"    {decayed_k}, {self.value}, {d_read}, {scores}, {d_states}, {self.common}",
            ")",
            f"{', '.join(results)} = launch_vector_gradients({given}, {self.common})",
            f"launch_vector_gradients_strong({given}, {', '.join(results)}, {self.common})",
            *self.rows_backward_lines(),
        ]
        return [*lines, "return (", *self.gradient_lines(found), ")"]
