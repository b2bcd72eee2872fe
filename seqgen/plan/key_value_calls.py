"""How the kernels of the key_value schedule follow one another, in the generated file."""

from __future__ import annotations

from seqgen.plan.linear_calls import want_final
from seqgen.plan.transposed_calls import output_lines
from seqgen.plan.vector_calls import VectorCalls


class KeyValueCalls(VectorCalls):
    """Writes the two functions that launch everything."""

    kind = "key_value"

    @property
    def of_keys(self) -> list[str]:
        """Results of the scores kernel, for queries and keys."""
        names = ("decayed_q", "decayed_k", "total", "key_halves", "key_strong", "scores")
        return [self.local(name) for name in names]

    @property
    def of_values(self) -> list[str]:
        """Values decayed to the end of their chunk, decays of chunks and of their halves."""
        return [self.local(name) for name in ("decayed_v", "value_total", "halves", "strong")]

    @property
    def prepared(self) -> list[str]:
        return [*self.of_keys, *self.of_values]

    @property
    def for_states(self) -> list[str]:
        return self.of_values[:2]

    @property
    def operands(self) -> tuple[str, str, str, str, str]:
        """Query, key, value, gate of keys, gate of values."""
        query, key, value, *gates = (self.operand(role) for role in self.roles.tiles)
        return query, key, value, gates[0], gates[1]

    def prepared_lines(self) -> list[str]:
        query, key, value, gate, value_gate = self.operands
        tiles, made = f"{query}, {key}, {gate}", ", ".join(self.of_keys)
        decays = f"launch_transposed_decays({value}, {value_gate}, {self.common})"
        return [
            f"{made} = launch_vector_scores({tiles}, {value}, {self.common})",
            f"launch_vector_scores_strong({tiles}, {made}, {self.common})",
            f"{', '.join(self.of_values)} = {decays}",
        ]

    def state_lines(self, final: str, keep: str) -> list[str]:
        _, decayed_k, total, *_ = self.of_keys
        decayed_v, value_total, *_ = self.of_values
        return [
            f"{self.local('states')}, {final} = launch_vector_state(",
            f"    {decayed_k}, {decayed_v}, {total}, {value_total}, {self.initial}, {self.common},",
            f"    {want_final(final)},",
            ")",
        ]

    def output_lines(self, target: str, flag: str) -> list[str]:
        decayed_q, *_, scores = self.of_keys
        _, _, value, _, value_gate = self.operands
        return output_lines(self, (decayed_q, scores, value, value_gate), target, flag)

    def backward(self) -> list[str]:
        final, d_read = f"d_{self.roles.state.name}_final", self.local("d_read")
        query, key, value, gate, value_gate = self.operands
        found = [self.local(f"d_{role.name}") for role in self.roles.tiles]
        d_query, d_key, d_value, d_gate, d_value_gate = found
        decayed_q, decayed_k, total, key_halves, key_strong, scores = self.of_keys
        decayed_v, value_total, halves, strong = self.of_values
        decayed_read, d_scores = self.local("decayed_read"), self.local("d_scores")
        states, d_states = self.local("states"), self.local("d_states")
        swapped = f"{self.local('chunks')}, cu_seqlens, {self.local('swapped')}"
        rows = f"{d_read}, {value}, {value_gate}"
        made = f"{decayed_read}, {', '.join(self.of_values)}, {d_scores}"
        tiles = f"{query}, {key}, {gate}"
        walked = f"{states}, {d_states}"
        of_keys = f"{tiles}, {decayed_v}, {decayed_read}, {value_total}, {key_halves}, {key_strong}"
        of_keys += f", {d_scores}, {walked}"
        of_values = f"{rows}, {decayed_k}, {decayed_q}, {total}, {halves}, {strong}, {scores}"
        of_values += f", {walked}"
        d_keys = f"{d_query}, {d_key}, {d_gate}"
        d_values = f"{self.local('output')}, {d_value}, {d_value_gate}"
        key_axis, value_axis = self.roles.key, self.roles.value
        exchanged = f'"{key_axis}": sizes["{value_axis}"], "{value_axis}": sizes["{key_axis}"]'
        return [
            *self.taken_lines(),
            f"if {states} is None:",
            *(f"    {line}" for line in self.state_lines("_", "True")),
            *self.seed_lines(),
            f"if {final} is not None:",
            f"    {final} = {final}.contiguous()",
            f"{self.local('swapped')} = {{**sizes, {exchanged}}}",
            f"{made} = launch_vector_scores({rows}, {value}, {swapped})",
            f"launch_vector_scores_strong({rows}, {made}, {swapped})",
            f"{walked}, {self.local('d_initial')} = launch_vector_states(",
            f"    {decayed_q}, {decayed_k}, {decayed_v}, {decayed_read}, {total}, {value_total},",
            f"    {self.initial}, {final}, {self.common}, {states},",
            ")",
            f"{d_keys} = launch_vector_gradients({of_keys}, {self.common}, False)",
            f"launch_vector_gradients_strong({of_keys}, {d_keys}, {self.common}, False)",
            f"{d_values} = launch_vector_gradients({of_values}, {swapped}, True)",
            f"launch_vector_gradients_strong({of_values}, {d_values}, {swapped}, True)",
            *self.rows_backward_lines(),
            "return (",
            *self.gradient_lines(found),
            ")",
        ]
