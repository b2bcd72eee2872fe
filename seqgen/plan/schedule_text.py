"""A schedule as text, and the promise that a spec makes about it."""

from __future__ import annotations

from seqgen.errors import SpecError
from seqgen.passes.structure import Structure
from seqgen.plan.schedule import SchedulePlan
from seqgen.plan.stages import SERIAL
from seqgen.spec.model import Spec

SCHEDULES = {
    "linear": "chunkwise, matrix products on chunks of 64 tokens",
    "vector": "chunkwise, matrix products between halves of chunks of 64 tokens",
    "transposed": "chunkwise, as vector for the transposed state",
    "key_value": "chunkwise, as vector for keys and as transposed for values",
    "delta": "chunkwise, matrix products and one triangular inverse per chunk of 64 tokens",
    "vector_delta": "chunkwise, products between halves and one triangular inverse per chunk",
    "transposed_delta": "chunkwise, as vector_delta for the transposed state",
    "scan": "token-serial, in segments of the sequences that run in parallel",
    "recurrent": "token-serial, state in registers; runs every operator",
}


def show_schedule(structure: Structure, schedule: SchedulePlan) -> list[str]:
    """Name and kind of the schedule, then what a user should know about it."""
    lines = [f"{schedule.name}: {SCHEDULES[schedule.name]}", *_notes(structure, schedule)]
    return [*lines, schedule.fallback] if schedule.fallback else lines


def check_schedule(spec: Spec, structure: Structure, schedule: SchedulePlan) -> None:
    """The schedule is of the kind that ``spec`` requires.

    Raises:
        SpecError: at that place of the spec, if it is slower.
    """
    if spec.require_schedule != "chunkwise" or schedule.name not in SERIAL:
        return
    output = structure.recurrence.output(schedule.slow_output)
    raise SpecError(
        f"The spec requires a chunkwise schedule, but the operator runs {SERIAL[schedule.name]}.",
        output.span if output is not None else spec.require_schedule_span,
        label="this is token-serial" if output is None else "this makes it token-serial",
        notes=_notes(structure, schedule),
        hint=f"Change {'the spec' if output is None else 'this output'}, or leave 'schedule' out "
        "of 'require'.",
    )


def _notes(structure: Structure, schedule: SchedulePlan) -> list[str]:
    family = structure.family
    slow = schedule.name == "recurrent" and family == "scan"
    return [
        *([f"The family {family} has no faster schedule yet."] if slow else []),
        *schedule.notes,
    ]
