"""What ``seqgen explain`` prints: everything that the compiler found out about a spec, and why."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from dataclasses import asdict

from seqgen.gpu.table import Gpu
from seqgen.ir.expr import Expr, Ref, substitute
from seqgen.ir.printer import number, show
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.axes import AxisPlan, split_axes
from seqgen.passes.components import Program
from seqgen.passes.lower import lower
from seqgen.passes.structure import Component, Structure, analyse
from seqgen.passes.structure_text import show_component, show_reasons
from seqgen.plan.choose import choose_schedule
from seqgen.plan.cost import Cost, Work, token_cost
from seqgen.plan.knobs import Config
from seqgen.plan.schedule import SchedulePlan
from seqgen.plan.schedule_text import check_schedule, show_schedule
from seqgen.spec.model import Spec

WIDTH = 96
FIXED = {
    "vector_middle": "vector_weights",
    "linear_host": "linear_slots",
    "delta_norms": "norm_gradient",
    "scan": "scan_states",
    "scan_adjoint": "scan_cotangents",
}
"""Helpers that are kernels, with the names of these: they have nothing to configure."""
TOKENS = 32768
"""Tokens for which the least time is printed; one launch of a long training batch."""


def explain(spec: Spec, gpu: Gpu, dtype: str = "bf16", as_json: bool = False) -> str:
    """The report on ``spec``, as text or as JSON.

    Raises:
        SpecError: any mistake in the spec.
    """
    recurrence = lower(spec)
    structure = analyse(recurrence, spec.require_span)
    axes = split_axes(recurrence)
    schedule = choose_schedule(recurrence, structure, gpu)
    check_schedule(spec, structure, schedule)
    cost = token_cost(structure, dtype)
    if as_json:
        return json.dumps(_data(structure, axes, schedule, cost, gpu), indent=2)
    sections = [
        ("Equations", list(recurrence.equations)),
        ("Normal form", _normal_form(structure)),
        ("Families", _families(structure, schedule)),
        ("States", _states(recurrence, cost)),
        ("Axes, token by token", _axes(recurrence, axes)),
        ("Schedule", _schedule(structure, schedule)),
        (f"Work per token{_assumptions(cost)}", _work(cost)),
        (f"Least time for {TOKENS} tokens on {_rates(gpu, dtype)}", _times(cost, gpu)),
    ]
    lines = [recurrence.name, *([recurrence.about] if recurrence.about else [])]
    for title, body in sections:
        lines += ["", title, *_indented(body)]
    return "\n".join(lines)


def _indented(lines: Iterable[str]) -> list[str]:
    """Lines two columns in; long ones continue further in."""
    result: list[str] = []
    for line in lines:
        own = len(line) - len(line.lstrip())
        result += (
            textwrap.wrap(
                line.strip(),
                WIDTH,
                initial_indent=" " * (own + 2),
                subsequent_indent=" " * (own + 8),
                break_long_words=False,
                break_on_hyphens=False,
            )
            if len(line) > WIDTH - 2
            else [f"  {line}".rstrip()]
        )
    return result


def _table(rows: list[list[str]], right: int = 0) -> list[str]:
    """Aligned columns; the last ``right`` ones to the right."""
    if not rows:
        return []
    columns = len(rows[0])
    widths = [max(len(row[i]) for row in rows) for i in range(columns)]
    return [
        "  ".join(
            cell.rjust(width) if i >= columns - right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _normal_form(structure: Structure) -> list[str]:
    lines = [
        line for component in structure.components for line in show_component(structure, component)
    ]
    for output in structure.outputs:
        lines.append(f"{output.name}[{', '.join(output.axes)}] = {show(output.value)}")
    return lines


def _families(structure: Structure, schedule: SchedulePlan) -> list[str]:
    lines = [f"operator: {structure.family}"]
    for component in structure.components:
        others = component.applicable[1:]
        also = f" (also {', '.join(others)})" if others else ""
        lines.append(f"{', '.join(component.states)}: {component.family}{also}")
        lines += show_reasons(component)
        lines += _cautions(component)
    for names in structure.fused:
        taken = "takes them together" if schedule.name == "linear" else "makes no use of that"
        lines.append(f"{' and '.join(names)} have the same decay and keys; the schedule {taken}")
    return lines


def _cautions(component: Component) -> list[str]:
    steps = component.form.steps if component.form is not None else ()
    if any(step.decay.clamped for step in steps):
        return ["  its decay is used as a logarithm: where it is exactly 0 it gets no gradient"]
    return []


def _states(recurrence: Recurrence, cost: Cost) -> list[str]:
    rows = []
    for state in recurrence.states:
        size = 4
        for axis in state.axes:
            size *= cost.sizes[axis]
        kind = "the token before" if state.delay else f"starts at {number(state.init)}"
        rows.append([state.name, f"[{', '.join(state.axes)}]", kind, _bytes(size)])
    lines = _table(rows, right=1)
    if len(rows) > 1:
        lines.append(f"{_bytes(cost.state_bytes)} for one sequence")
    return lines


def _axes(recurrence: Recurrence, plan: AxisPlan) -> list[str]:
    declared = {tensor.value: tensor.name for tensor in recurrence.tensors}
    raw: dict[str, Expr] = {t.value: Ref(t.name, t.axes) for t in recurrence.tensors}
    for state, (incoming, *later) in Program(recurrence).versions.items():
        axes = recurrence.state(state).axes
        raw |= {incoming: Ref(f"prev({state})", axes), **{v: Ref(state, axes) for v in later}}
    lines = [f"programs split   {', '.join(plan.grid) or 'nothing but sequences'}"]
    for parent, child in plan.parents:
        lines.append(f"                 {parent} follows from {child}")
    for axis, cause in plan.reasons:
        why = f": {show(substitute(cause, raw))}" if cause is not None else ""
        lines.append(f"must be whole    {axis}{why}")
    sums: dict[tuple[str, ...], list[str]] = {}
    for name, axes in plan.partial:
        sums.setdefault(axes, []).append(f"d{declared.get(name, name)}")
    for axes, names in sums.items():
        lines.append(f"gradients sum    {', '.join(names)} over {', '.join(axes)}")
    return lines


def _schedule(structure: Structure, schedule: SchedulePlan) -> list[str]:
    rows = [
        [name, ", ".join(f"{k}={v}" for k, v in default.items() if v) or "nothing to configure"]
        for name, default in _kernels(schedule).items()
    ]
    head = ["kernel", "default configuration (blocks end where an axis does)"]
    return [*show_schedule(structure, schedule), *_table([head, *rows])]


def _kernels(schedule: SchedulePlan) -> dict[str, Config]:
    """The kernels with their default configurations; a kernel may have several templates."""
    defaults = {space.kernel: space.default for space in schedule.spaces}
    large = {part.name: defaults[part.name] for part in schedule.kernels if part.name in defaults}
    return {**large, **{FIXED[name]: {} for name in schedule.helpers if name in FIXED}}


def _assumptions(cost: Cost) -> str:
    sizes = " ".join(f"{axis}={size}" for axis, size in cost.sizes.items())
    chunk = f"; chunk {cost.chunk}" if cost.chunk is not None else ""
    return f" (default sizes {sizes}{chunk}; {cost.dtype})"


def _work(cost: Cost) -> list[str]:
    rows = [["", "bytes", "matrix FLOP", "other FLOP", "special functions"]]
    for name, work in (("forward", cost.forward), ("backward", cost.backward)):
        values = (work.bytes, work.dots, work.pointwise, work.special)
        rows.append([name, *(f"{value:,.0f}" for value in values)])
    lines = [
        *_table(rows, right=4),
        "bytes: every input, output and gradient with a time axis once",
    ]
    if cost.chunk is not None:
        lines.append(
            "FLOP: of the family's chunkwise form, also where the schedule is token-serial"
        )
    return lines


def _rates(gpu: Gpu, dtype: str) -> str:
    rate = gpu.fp32_rate if dtype == "fp32" else gpu.bf16_rate
    return f"{gpu.title} ({gpu.dram_rate / 1e12:.2f} TB/s, {rate / 1e12:.0f} TFLOP/s {dtype})"


def _times(cost: Cost, gpu: Gpu) -> list[str]:
    rows = []
    for name, work in (("forward", cost.forward), ("backward", cost.backward)):
        limit, seconds = _bound(work, gpu, cost.dtype)
        rows.append([name, f"{seconds * TOKENS * 1e6:,.1f} us", f"limited by {limit}"])
    total = sum(cost.floor(gpu)) * TOKENS * 1e6
    rows.append(["both", f"{total:,.1f} us", ""])
    width = max(len(row[1]) for row in rows)
    return _table([[name, time.rjust(width), limit] for name, time, limit in rows])


def _bound(work: Work, gpu: Gpu, dtype: str) -> tuple[str, float]:
    limits = work.limits(gpu, dtype)
    limit = max(limits, key=limits.__getitem__)
    return limit, limits[limit]


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if size == int(size) else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _data(
    structure: Structure, axes: AxisPlan, schedule: SchedulePlan, cost: Cost, gpu: Gpu
) -> dict[str, object]:
    recurrence = structure.recurrence
    floor = dict(zip(("forward", "backward"), cost.floor(gpu), strict=True))
    return {
        "operator": recurrence.name,
        "about": recurrence.about,
        "equations": list(recurrence.equations),
        "family": structure.family,
        "components": [
            {
                "states": list(component.states),
                "family": component.family,
                "applicable": list(component.applicable),
                "not_faster": [{"family": f, "reason": r} for f, r in component.reasons],
                "decay": component.decay,
                "key_axes": list(component.form.key_axes) if component.form else [],
                "value_axes": list(component.form.value_axes) if component.form else [],
                "coupled_axes": list(component.coupled),
                "reads": [str(read) for read in component.reads],
            }
            for component in structure.components
        ],
        "states": [
            {"name": s.name, "axes": list(s.axes), "delay": s.delay} for s in recurrence.states
        ],
        "axes": {
            "grid": list(axes.grid),
            "coupled": list(axes.coupled),
            "partial_gradients": {name: list(missing) for name, missing in axes.partial},
        },
        "schedule": schedule.name,
        "kernels": list(_kernels(schedule)),
        "token_serial_where": schedule.fallback,
        "cost_per_token": {
            "sizes": dict(cost.sizes),
            "dtype": cost.dtype,
            "chunk": cost.chunk,
            "forward": asdict(cost.forward),
            "backward": asdict(cost.backward),
            "state_bytes": cost.state_bytes,
        },
        "gpu": gpu.name,
        "least_seconds_per_token": floor,
    }
