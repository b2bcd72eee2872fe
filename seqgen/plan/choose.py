"""Which schedule an operator gets."""

from __future__ import annotations

from dataclasses import replace

from seqgen.errors import sentence
from seqgen.gpu.table import Gpu
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.products_as_tokens import products_as_tokens
from seqgen.passes.stages import NotStagedError, cut_stages
from seqgen.passes.structure import Structure, analyse
from seqgen.plan.delta import plan_delta
from seqgen.plan.key_value import plan_key_value
from seqgen.plan.linear import plan_linear
from seqgen.plan.linear_roles import NoFastFormError
from seqgen.plan.micro_steps import plan_micro_steps
from seqgen.plan.recurrent import plan_recurrent
from seqgen.plan.scan import plan_scan
from seqgen.plan.schedule import SchedulePlan, with_fallback
from seqgen.plan.stages import SERIAL, plan_stages
from seqgen.plan.transposed import plan_transposed
from seqgen.plan.transposed_delta import plan_transposed_delta
from seqgen.plan.vector import plan_vector
from seqgen.plan.vector_delta import plan_vector_delta


def choose_schedule(recurrence: Recurrence, structure: Structure, gpu: Gpu) -> SchedulePlan:
    """The fastest schedule that there is for the operator's family.

    Every operator has the universal one, in segments where states allow that; decode steps use it
    in every file. ``gpu`` decides on the default configurations.
    """
    universal = plan_recurrent(recurrence)
    fast = _fastest(recurrence, structure, gpu)
    if isinstance(fast, SchedulePlan):
        return with_fallback(fast, universal)
    serial = plan_scan(recurrence) or universal
    if fast is None:
        slow = structure.slowest
        if slow is None:
            return serial
        notes = (*serial.notes, *map(sentence, slow.why))
        return replace(serial, notes=notes, slow_output=slow.output)
    why = sentence(f"{fast}: that has no chunkwise schedule yet")
    note = f"{why} The operator runs {SERIAL[serial.name]}."
    return replace(serial, notes=(*serial.notes, note), slow_output=fast.output)


def _fastest(
    recurrence: Recurrence, structure: Structure, gpu: Gpu
) -> SchedulePlan | NoFastFormError | None:
    """The chunkwise schedule, or why there is none; None where the family has none."""
    micro = recurrence.micro or products_as_tokens(recurrence, structure)
    if micro is not None and not recurrence.reverse:  # steps of a token never run backwards
        fast = _fastest(micro.recurrence, analyse(micro.recurrence), gpu)
        return plan_micro_steps(recurrence, micro, fast) if isinstance(fast, SchedulePlan) else fast
    kind = structure.family
    if kind == "linear":
        decays = {c.decay for c in structure.components}
        named = {"key": "vector", "value": "transposed", "key+value": "key_value"}
        kind = next((name for decay, name in named.items() if decay in decays), kind)
    elif kind == "delta" and _reads_values(structure):
        kind = "transposed_delta"
    planners = {
        "linear": (plan_linear,),
        "vector": (plan_vector,),
        "transposed": (plan_transposed,),
        "key_value": (plan_key_value,),
        "delta": (plan_delta, plan_vector_delta),
        "transposed_delta": (plan_transposed_delta,),
        "dplr": (plan_vector_delta,),
    }
    reason: NoFastFormError | None = None
    for chunkwise in planners.get(kind, ()):
        try:
            return chunkwise(recurrence, structure, gpu)
        except NoFastFormError as error:
            reason = error
    return _in_stages(recurrence, structure, gpu, reason)


def _in_stages(
    recurrence: Recurrence, structure: Structure, gpu: Gpu, reason: NoFastFormError | None
) -> SchedulePlan | NoFastFormError | None:
    """The schedule of two stages, or why there is none; ``reason`` is that of the whole."""
    for bare in (True, False):
        try:
            stages = cut_stages(recurrence, structure, bare)
        except NotStagedError as error:
            return reason and NoFastFormError(f"{reason}, and {error}", reason.output)
        if stages is None:
            return reason
        front = _fastest(stages.front, analyse(stages.front), gpu)
        if not isinstance(front, SchedulePlan) or stages.exact:
            if bare:
                continue  # what a token-serial front gives need not be bare
            front = plan_scan(stages.front) or plan_recurrent(stages.front)
        rest = _fastest(stages.rest, analyse(stages.rest), gpu)
        if isinstance(rest, SchedulePlan):
            return plan_stages(recurrence, stages, front, rest)
        reason = rest or reason
    return reason


def _reads_values(structure: Structure) -> bool:
    """Whether an output contracts the other axis of a state than its erase."""
    return any(c.side(read) == "value" for c in structure.components for read in c.reads)
