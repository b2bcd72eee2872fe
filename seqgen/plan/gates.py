"""What is known of decays per channel: fp16 and the cheaper kernels need logarithms up to 0."""

from __future__ import annotations

from seqgen.ir.printer import show
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.ranges import bounds
from seqgen.passes.structure import Structure


def gate_notes(recurrence: Recurrence, structure: Structure) -> tuple[str, ...]:
    """A note on each log-decay that is not proved to be at most 0, with what would prove it."""
    decays = [step.decay for c in structure.components if c.form for step in c.form.steps]
    logs = [log for decay in decays for log in (decay.log, decay.log_value) if log is not None]
    return tuple(
        f"Nothing proves that the log-decay {show(log)} is at most 0: fp16 runs token by token, "
        "other dtypes by slower kernels. 'range: [-.inf, 0]' on an input is a proof, and so is a "
        "decay by logsigmoid(x), -exp(x) or -softplus(x)."
        for log in logs
        if bounds(log, recurrence)[1] > 0.0
    )
