"""Which schedule an operator gets."""

from __future__ import annotations

from seqgen.ir.recurrence import Recurrence
from seqgen.passes.structure import Structure
from seqgen.plan.recurrent import plan_recurrent
from seqgen.plan.schedule import SchedulePlan


def choose_schedule(recurrence: Recurrence, structure: Structure) -> SchedulePlan:
    """The fastest schedule that there is for the operator's family.

    Every operator has the universal one; decode steps use it in every file.
    """
    return plan_recurrent(recurrence)
