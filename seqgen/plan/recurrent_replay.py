"""What backward computes again of a chunk: the states that gradients need, token after token."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from seqgen.ir.expr import references
from seqgen.ir.recurrence import Assignment, Recurrence, State


def find_replay(
    recurrence: Recurrence, live: Sequence[Assignment], read: Collection[str]
) -> tuple[list[State], list[Assignment]]:
    """States that must be computed again, and the assignments that do it.

    Args:
        recurrence: the operator.
        live: its assignments that something needs, in order.
        read: names of the values that the gradients of a token read.
    """
    finals = dict(recurrence.final)
    restored = {s.name for s in recurrence.states if s.incoming in read}
    while True:
        needed = {finals[name] for name in restored}
        kept: list[Assignment] = []
        for assignment in reversed(live):
            if assignment.name in needed:
                needed.update(references(assignment.value))
                kept.append(assignment)
        more = {s.name for s in recurrence.states if s.incoming in needed} - restored
        if not more:
            return [s for s in recurrence.states if s.name in restored], kept[::-1]
        restored |= more
