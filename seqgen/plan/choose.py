"""Which schedule an operator gets."""

from __future__ import annotations

from dataclasses import replace

from seqgen.gpu.table import Gpu
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.structure import Structure
from seqgen.plan.delta import plan_delta
from seqgen.plan.linear import plan_linear
from seqgen.plan.recurrent import plan_recurrent
from seqgen.plan.schedule import SchedulePlan
from seqgen.plan.vector import plan_vector
from seqgen.plan.vector_delta import plan_vector_delta


def choose_schedule(recurrence: Recurrence, structure: Structure, gpu: Gpu) -> SchedulePlan:
    """The fastest schedule that there is for the operator's family.

    Every operator has the universal one; decode steps use it in every file. ``gpu`` decides on the
    default configurations.
    """
    universal = plan_recurrent(recurrence)
    kind = structure.family
    if kind == "linear" and any(c.decay == "key" for c in structure.components):
        kind = "vector"
    planners = {
        "linear": (plan_linear,),
        "vector": (plan_vector,),
        "delta": (plan_delta, plan_vector_delta),
        "dplr": (plan_vector_delta,),
    }
    reason = ""
    for chunkwise in planners.get(kind, ()):
        fast = chunkwise(recurrence, structure, universal, gpu)
        if not isinstance(fast, str):
            return fast
        reason = fast[0].upper() + fast[1:]
    if not reason:
        return universal
    note = f"{reason}: that has no chunkwise schedule yet. The operator runs token by token."
    return replace(universal, notes=(*universal.notes, note))
