"""Two stages, each with a schedule of its own: what the first gives, the second takes as input."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from seqgen.ir.recurrence import Recurrence, Tensor
from seqgen.passes.stages import Stages
from seqgen.plan.knobs import KernelSpace
from seqgen.plan.linear_tiles import unique
from seqgen.plan.schedule import KernelPart, SchedulePlan

ONE = "kernels/one_stage_calls.py.jinja"
BOTH = "kernels/both_stages_calls.py.jinja"
FRONT = "front"
"""Prefix of all names of the first stage."""
SERIAL = {"recurrent": "token by token", "scan": "token by token in parallel segments"}
"""Schedules that are not chunkwise, and how they run."""

Lines = tuple[str, ...]


@dataclass(frozen=True)
class OneStagePlan:
    """Everything that kernels/one_stage_calls.py.jinja places: one stage as two functions."""

    name: str
    about: str
    arguments: str
    cotangents: str
    forward: Lines
    results: str
    backward: Lines
    fits: str
    """Which calls a first stage serves, from ``asked``; "" is all of them."""
    asked: str


@dataclass(frozen=True)
class BothStagesPlan:
    """Everything that kernels/both_stages_calls.py.jinja places."""

    arguments: str
    cotangents: str
    of_front: str
    of_rest: str
    """Variables: the lists of what the stages keep; in backward, how much is the first one's."""
    front: Lines
    rest: Lines
    crossing: str
    results: str
    again: Lines
    keeps: str
    rest_backward: Lines
    front_backward: Lines
    gradients: Lines


def plan_stages(
    recurrence: Recurrence, stages: Stages, front: SchedulePlan, rest: SchedulePlan
) -> SchedulePlan:
    """The schedule of ``recurrence``, from those of its stages.

    Args:
        recurrence: the operator.
        stages: its two stages.
        front: schedule of the first, which may be any.
        rest: schedule of the second.
    """
    calls = _Calls(recurrence, stages, front)
    first = _functions("stage", stages.front, front, front.fits)
    second = _functions("rest_stage", stages.rest, rest)
    early = [replace(p, name=f"{FRONT}_{p.name}") for p in (*front.kernels, first)]
    parts = [replace(p, stages=(FRONT, *p.stages)) for p in early]
    call = f"{calls.arguments}, cu_seqlens, sizes"
    chunkwise = front.name not in SERIAL
    taken = _asked(stages.front, front.fits)
    fits = f"_{FRONT}_stage_fits({taken}) and {rest.fits}" if front.fits else rest.fits
    return replace(
        rest,
        helpers=tuple(dict.fromkeys((*front.helpers, *rest.helpers))),
        kernels=(*parts, *rest.kernels, second, KernelPart("stages", BOTH, calls.plan())),
        forward_call=(f"{calls.results} = _staged_forward({call}, want_final, kept)",),
        backward_call=(f"gradients = _staged_backward({call}, {calls.cotangents}, kept)",),
        spaces=(*map(_renamed, _own(front)), *rest.spaces),
        notes=(_note(stages, front.name), *(front.notes if chunkwise else ()), *rest.notes),
        fallback=_fallback(front.fallback if chunkwise else "", rest.fallback),
        fits=fits,
        keeps=f"{len(stages.crossing)} * (KEEP >= 1) + {front.keeps} + {rest.keeps}",
    )


def _own(front: SchedulePlan) -> list[KernelSpace]:
    """The spaces of its kernels; what all kernels share is that of the operator."""
    return [space for space in front.spaces if space.kernel != "operator"]


def _renamed(space: KernelSpace) -> KernelSpace:
    return replace(space, kernel=f"{FRONT}_{space.kernel}")


def _note(stages: Stages, schedule: str) -> str:
    first, second = _states(stages.front), _states(stages.rest)
    how = SERIAL.get(schedule, "in chunks")
    text = (
        f"{_listed([*first, *second])} run in two stages: first {_listed(first)}, {how}, "
        f"then {_listed(second)}, in chunks"
    )
    given = [tensor.name for tensor in stages.crossing]
    if not given:
        return f"{text}."
    return f"{text}, with {_listed(given)} of the first as {'inputs' if given[1:] else 'an input'}."


def _fallback(first: str, last: str) -> str:
    """One sentence about the calls that the kernels of either stage do not serve."""
    calls = first[first.find("calls with") :].rstrip(".")
    if not first or calls in last:
        return last
    return f"{last.rstrip('.')}; for the first stage also {calls}."


def _listed(names: list[str]) -> str:
    *start, last = names
    return f"{', '.join(start)} and {last}" if start else last


def _states(recurrence: Recurrence) -> list[str]:
    return [state.name for state in recurrence.states]


def _arguments(recurrence: Recurrence) -> list[str]:
    states = [f"{name}_0" for name in _states(recurrence)]
    return [*(t.name for t in recurrence.argument_order()), *states]


def _results(recurrence: Recurrence) -> list[str]:
    finals = [f"{name}_final" for name in _states(recurrence)]
    return [*(output.name for output in recurrence.outputs), *finals]


def _asked(stage: Recurrence, fits: str) -> str:
    """What has to be known for ``fits``: the sizes, and tensors that it names."""
    named = re.findall(r"\w+", fits)
    return ", ".join([*(name for name in _arguments(stage) if name in named), "sizes"])


def _functions(name: str, stage: Recurrence, schedule: SchedulePlan, fits: str = "") -> KernelPart:
    plan = OneStagePlan(
        name=name,
        about=f"{', '.join(_states(stage))} over all tokens.",
        arguments=", ".join(_arguments(stage)),
        cotangents=", ".join(f"d_{result}" for result in _results(stage)),
        forward=schedule.forward_call,
        results=", ".join(_results(stage)),
        backward=schedule.backward_call,
        fits=fits,
        asked=_asked(stage, fits),
    )
    return KernelPart(name, ONE, plan)


class _Calls:
    """Writes the two functions of the whole operator."""

    def __init__(self, recurrence: Recurrence, stages: Stages, front: SchedulePlan) -> None:
        self.recurrence, self.stages, self.schedule = recurrence, stages, front
        self.arguments = ", ".join(_arguments(recurrence))
        self.results = ", ".join(_results(recurrence))
        self.cotangents = ", ".join(f"d_{result}" for result in _results(recurrence))
        names = {*_arguments(recurrence), *_results(recurrence), "sizes", "cu_seqlens", "kept"}
        self.taken = names | {t.name for t in stages.crossing} | {"want_final"}

    def plan(self) -> BothStagesPlan:
        """The finished plan."""
        front, rest = self.stages.front, self.stages.rest
        of_front, of_rest = unique("of_front", self.taken), unique("of_rest", self.taken)
        crossing = [tensor.name for tensor in self.stages.crossing]
        given, results = f"{', '.join(_arguments(front))}, cu_seqlens, sizes", _results(front)
        taken = f"{', '.join(_arguments(rest))}, cu_seqlens, sizes"
        unused = [name if name in crossing else "_" for name in results]
        late, early = self.gradients(rest, "rest"), self.gradients(front, FRONT)
        seeds = [self.seed(name, late) for name in results]
        of_rest_seeds = [f"d_{name}" for name in _results(rest)]
        return BothStagesPlan(
            arguments=self.arguments,
            cotangents=self.cotangents,
            of_front=of_front,
            of_rest=of_rest,
            front=(
                *_assign(results, f"_{FRONT}_stage_forward({given}, want_final, {of_front})"),
                *self.casts(),
            ),
            rest=_assign(_results(rest), f"_rest_stage_forward({taken}, want_final, {of_rest})"),
            crossing=", ".join(crossing),
            results=self.results,
            again=(
                *_assign(unused, f"_{FRONT}_stage_forward({given}, False, None)"),
                *self.casts(),
            ),
            keeps=self.schedule.keeps,
            rest_backward=_assign(
                list(late.values()),
                f"_rest_stage_backward({taken}, {', '.join(of_rest_seeds)}, kept[{of_front}:])",
            ),
            front_backward=_assign(
                list(early.values()),
                f"_{FRONT}_stage_backward({given}, {', '.join(seeds)}, kept[:{of_front}])",
            ),
            gradients=tuple(
                f"{self.total(name, tensor, [g[name] for g in (early, late) if name in g])},"
                for name, tensor in self.leaves()
            ),
        )

    def leaves(self) -> list[tuple[str, Tensor | None]]:
        """Everything that has a gradient; None for a state."""
        rec = self.recurrence
        states = [(f"{name}_0", None) for name in _states(rec)]
        return [*((t.name, t) for t in rec.argument_order()), *states]

    def gradients(self, stage: Recurrence, prefix: str) -> dict[str, str]:
        """The variables of a stage's gradients, in their order."""
        return {n: unique(f"{prefix}_d_{n}", self.taken) for n in _arguments(stage)}

    def casts(self) -> Lines:
        """A first stage without tensors of the io dtype gives its own dtype."""
        front, rest = self.stages.front, self.stages.rest
        if any(t.dtype is None and t.required for t in front.inputs):
            return ()
        io = next(t.name for t in rest.inputs if t.dtype is None and t.required)
        plain = [tensor.name for tensor in self.stages.crossing if tensor.dtype is None]
        return tuple(f"{name} = {name}.to({io}.dtype)" for name in plain)

    def seed(self, name: str, late: dict[str, str]) -> str:
        """Text of the cotangent of what the first stage gives: from the second, ours, or both."""
        if name not in late:
            return f"d_{name}"
        own, found = f"d_{name}", late[name]
        shared = name in _results(self.recurrence)
        return f"{found} if {own} is None else {found} + {own}" if shared else found

    @staticmethod
    def total(name: str, tensor: Tensor | None, parts: list[str]) -> str:
        """Text of the sum of what the stages give."""
        text = " + ".join(parts) or f"torch.zeros_like({name})"
        optional = tensor is not None and not tensor.required and len(parts) != 1
        return f"None if {name} is None else {text}" if optional else text


def _assign(names: list[str], value: str) -> Lines:
    comma = "," if len(names) == 1 else ""
    return (f"{', '.join(names)}{comma} = {value}",)
