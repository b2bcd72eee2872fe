"""How the kernels of the delta schedule follow one another, in the generated file."""

from __future__ import annotations

from seqgen.plan.delta_norms import Norm
from seqgen.plan.linear_calls import Calls, want_final
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_roles import Roles
from seqgen.plan.linear_rows import Rows, row_factors


class DeltaCalls(Calls):
    """Writes the two functions that launch everything."""

    def __init__(
        self, roles: Roles, rows: Rows, epilogue: Epilogue, norms: tuple[Norm, ...]
    ) -> None:
        super().__init__(roles, rows, epilogue)
        self.norms = norms

    @property
    def factors(self) -> str:
        """Decay and weights of writes, reads and erases as arguments, None where there are none."""
        return super().factors + (", None" if self.roles.erase is None else "")

    @property
    def extra(self) -> str:
        """Values get what the output gives them outside of the kernels."""
        return ""

    @property
    def solved(self) -> list[str]:
        """Results of the solve: inverse, mixing, factors, totals."""
        return [self.local(name) for name in ("inverse", "mixing", "factors", "totals")]

    def prepared_lines(self) -> list[str]:
        query, key, _ = (self.operand(role) for role in self.roles.tiles)
        call = f"launch_delta_solve({query}, {key}, {self.factors}, {self.common})"
        return [f"{', '.join(self.solved)} = {call}"]

    @property
    def holds_rows(self) -> bool:
        return not self.rows.computed

    @property
    def walked(self) -> list[str]:
        """States and what is written; errors too where backward asks again what was read."""
        errors = [self.local("errors")] if self.epilogue.recompute else []
        return [self.local("states"), self.local("written"), *errors]

    def state_lines(self, final: str, keep: str) -> list[str]:
        _, key, value = (self.operand(role) for role in self.roles.tiles)
        inverse, _, factors, totals = self.solved
        states, written, errors = (self.local(n) for n in ("states", "written", "errors"))
        return [
            f"{states}, {errors}, {written}, {final} = launch_delta_state(",
            f"    {key}, {value}, {inverse}, {factors}, {totals}, {self.initial}, {self.common},",
            f"    {want_final(final)}, {keep},",
            ")",
        ]

    def output_call(self, flag: str) -> str:
        query, (_, mixing, factors, _) = self.operand(self.roles.tiles[0]), self.solved
        leaves = [leaf.tensor.name for leaf in self.epilogue.leaves]
        arguments = [query, self.local("errors"), mixing, factors, self.local("states"), *leaves]
        arguments.append(self.common)
        if self.epilogue.lines:
            arguments.append(flag)
        return f"launch_delta_output({', '.join(arguments)})"

    @property
    def prepared(self) -> list[str]:
        """The solve, and row factors if they come alone."""
        if self.rows.computed:  # tiles of the size of q come with them
            return self.solved
        names = [self.local(name) for name, value in row_factors(self.roles) if value is not None]
        return [*names, *self.solved]

    def backward(self) -> list[str]:
        query, key, value = (self.operand(role) for role in self.roles.tiles)
        final, d_read = f"d_{self.roles.state.name}_final", self.local("d_read")
        tiles = [self.local(f"d_{role.name}") for role in self.roles.tiles]
        d_query, d_key, d_value = tiles
        states, d_states = self.local("states"), self.local("d_states")
        written, sums = self.local("written"), self.local("sums")
        rnorms = f" {self.local('factors')}," if self.norms else ""
        lines = [
            *self.taken_lines(),
            *self.seed_lines(),
            f"if {final} is not None:",
            f"    {final} = {final}.contiguous()",
            f"{states}, {d_states}, {written}, {d_value}, {self.local('d_initial')} = (",
            f"    launch_delta_states({query}, {key}, {value}, {d_read}, {', '.join(self.solved)},",
            f"    {self.initial}, {final}, {self.common}, {states}, {written})",
            ")",
            f"{d_query}, {d_key}, {sums} = launch_delta_backward(",
            f"    {query}, {key}, {written}, {d_read}, {d_value}, {self.factors},{rnorms}",
            f"    {states}, {d_states}, {self.common}",
            ")",
            *self.rows_backward_lines(),
        ]
        return [*lines, "return (", *self.gradient_lines(tiles), ")"]
