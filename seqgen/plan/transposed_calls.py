"""How the kernels of the transposed schedule follow one another, in the generated file."""

from __future__ import annotations

from collections.abc import Iterable

from seqgen.plan.linear_calls import Calls, want_final
from seqgen.plan.linear_tiles import sizes_text
from seqgen.plan.vector_calls import VectorCalls


class TransposedCalls(VectorCalls):
    """Writes the two functions that launch everything."""

    kind = "transposed"

    @property
    def prepared(self) -> list[str]:
        """Values decayed to the end of their chunk, decays of chunks and of their halves."""
        return [self.local(name) for name in ("decayed_v", "total", "halves", "strong")]

    @property
    def for_states(self) -> list[str]:
        return self.prepared[:2]

    @property
    def operands(self) -> tuple[str, str, str, str]:
        """Query, key, value, gate."""
        query, key, value, gate = (self.operand(role) for role in self.roles.tiles)
        return query, key, value, gate

    def prepared_lines(self) -> list[str]:
        _, _, value, gate = self.operands
        results = ", ".join(self.prepared)
        return [f"{results} = launch_transposed_decays({value}, {gate}, {self.common})"]

    def state_lines(self, final: str, keep: str) -> list[str]:
        _, key, _, _ = self.operands
        decayed, total, *_ = self.prepared
        return [
            f"{self.local('states')}, {final} = launch_vector_state({decayed}, {key}, {total}, "
            f"{self.initial}, {self.common}, {want_final(final)})"
        ]

    def output_lines(self, target: str, flag: str) -> list[str]:
        return output_lines(self, self.operands, target, flag)

    def backward(self) -> list[str]:
        final, d_read = f"d_{self.roles.state.name}_final", self.local("d_read")
        query, key, value, gate = self.operands
        found = [self.local(f"d_{role.name}") for role in self.roles.tiles]
        d_query, d_key, d_value, d_gate = found
        decayed_read, scores = self.local("decayed_read"), self.local("scores")
        d_scores, again = self.local("d_scores"), self.local("output")
        states, d_states = self.local("states"), self.local("d_states")
        decayed, total, halves, strong = self.prepared
        made = f"{decayed_read}, {decayed}, {total}, {halves}, {strong}, {scores}"
        rows = f"{d_read}, {value}, {gate}"
        results = f"{again}, {d_value}, {d_gate}"
        expanded, lines = each_head(self, query)
        given = f"{rows}, {key}, {expanded}, {halves}, {strong}, {d_scores}, {states}, {d_states}"
        return [
            *self.taken_lines(),
            f"if {states} is None:",
            *(f"    {line}" for line in self.state_lines("_", "True")),
            *self.seed_lines(),
            *lines,
            f"if {final} is not None:",
            f"    {final} = {final}.contiguous()",
            f"{made} = launch_vector_scores({rows}, {key}, {self.common})",
            f"launch_vector_scores_strong({rows}, {made}, {self.common})",
            f"{states}, {d_states}, {self.local('d_initial')} = launch_vector_states(",
            f"    {decayed_read}, {decayed}, {key}, {expanded}, {total}, {self.initial},",
            f"    {final}, {self.common}, {states}",
            ")",
            f"{d_query} = launch_vector_output(",
            f"    {decayed_read}, {key}, {scores}, {states}, {self.common}",
            ")",
            f"{d_key}, {d_scores} = launch_vector_values(",
            f"    {decayed}, {key}, {expanded}, {scores}, {d_states}, {self.common}",
            ")",
            f"{results} = launch_vector_gradients({given}, {self.common})",
            f"launch_vector_gradients_strong({given}, {results}, {self.common})",
            *self.rows_backward_lines(),
            "return (",
            *self.gradient_lines(found),
            ")",
        ]

    def seed_text(self, output: str, value: str) -> str:
        """Its kernels take it for queries, which stay in float32 until they enter a product."""
        wide = self.roles.output.dtype == "float32" and self.epilogue.backward is None
        return output if wide else super().seed_text(output, value)


def output_lines(calls: Calls, operands: Iterable[str], target: str, flag: str) -> list[str]:
    """Lines that give ``target`` the output of queries, keys, values, gates and weights."""
    leaves = [leaf.tensor.name for leaf in calls.epilogue.leaves]
    others = (calls.local(name) for name in ("halves", "strong", "states"))
    given = ", ".join([*operands, *others, *leaves])
    end = f"{calls.common}, {flag}" if calls.epilogue.lines else calls.common
    return [
        f"{target} = launch_transposed_output({given}, {end})",
        f"launch_transposed_output_strong({given}, {target}, {end})",
    ]


def each_head(calls: Calls, query: str) -> tuple[str, list[str]]:
    """The queries of each head, for kernels that take a gradient there; lines that make it."""
    leaf = calls.roles.tiles[0].leaf
    if leaf is None or leaf.lead == "H" or not calls.headed:
        return query, []
    heads = sizes_text(calls.roles, parent=False)[1].split(", ")[0]
    name = calls.local("query")
    return name, [f"{name} = {query}.repeat_interleave({heads} // max({query}.shape[2], 1), 2)"]
