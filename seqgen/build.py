"""The whole pipeline on one screen: from a spec to an importable file.

load -> lower -> structure -> schedule -> (tuned configurations) -> plan -> render

Every build renders the file twice: as it is, and once more with stand-in names in place of the
spec's own, which shows names that the file needs itself (``render.clashes``). Where tuned
configurations are found, which takes a rendered file to look them up for, the first is rendered
again with them in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqgen.errors import UsageError
from seqgen.ir.printer import spec_hash
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.lower import lower
from seqgen.passes.structure import Structure, analyse
from seqgen.plan.choose import choose_schedule
from seqgen.plan.module import Entry, ModulePlan, plan_module
from seqgen.plan.schedule import SchedulePlan
from seqgen.plan.schedule_text import check_schedule
from seqgen.render.clashes import check_clashes
from seqgen.render.module import GeneratedModule, render_module
from seqgen.spec.loader import load_spec
from seqgen.spec.model import Spec
from seqgen.spec.rename import stand_ins, with_stand_ins

if TYPE_CHECKING:
    from seqgen.gpu.table import Gpu


@dataclass(frozen=True)
class Compiled:
    """Every stage of one build, for reports."""

    recurrence: Recurrence
    structure: Structure
    schedule: SchedulePlan
    plan: ModulePlan
    module: GeneratedModule


Tuned = Callable[[GeneratedModule, SchedulePlan], Mapping[str, Sequence[Entry]]]
"""Looks configurations up for the kernels of a module that was rendered with defaults."""


def analyse_spec(spec: Spec) -> tuple[Recurrence, Structure]:
    """The front half of the pipeline: mathematics, no GPU.

    Raises:
        SpecError: any mistake in the spec.
    """
    recurrence = lower(spec)
    return recurrence, analyse(recurrence, spec.require_span)


def compile_spec(spec: Spec, gpu: Gpu, tuned: Tuned | None = None) -> Compiled:
    """Compile ``spec`` for ``gpu``; ``tuned`` finds configurations for its kernels.

    Raises:
        SpecError: any mistake in the spec, also a name that the generated file needs itself.
    """
    compiled = _compile(spec, gpu, tuned)
    words = stand_ins(spec)
    nameless = _compile(with_stand_ins(spec, words), gpu, None)
    check_clashes(compiled.module.source, nameless.module.source, words)
    return compiled


def _compile(spec: Spec, gpu: Gpu, tuned: Tuned | None) -> Compiled:
    recurrence, structure = analyse_spec(spec)
    schedule = choose_schedule(recurrence, structure, gpu)
    check_schedule(spec, structure, schedule)
    plan = plan_module(recurrence, structure.family, schedule, gpu.name, {})
    module = render_module(plan)
    configs = tuned(module, schedule) if tuned is not None else {}
    if any(configs.values()):
        plan = plan_module(recurrence, structure.family, schedule, gpu.name, configs)
        module = render_module(plan)
    return Compiled(recurrence, structure, schedule, plan, module)


def read_spec(source: Spec | str | Path) -> Spec:
    """A spec from a file, or as it is."""
    if isinstance(source, Spec):
        return source
    if not isinstance(source, str | Path):
        raise UsageError(f"Expected a spec or the path of one, got {type(source).__name__}.")
    return load_spec(Path(source))


def fingerprint(compiled: Compiled) -> str:
    """What decides the content of the file: the file itself."""
    return spec_hash(compiled.recurrence) + compiled.module.content_hash
