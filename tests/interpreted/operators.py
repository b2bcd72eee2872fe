"""Builds an operator's file with small blocks, and compares it with the float64 interpreter."""

import dataclasses
import importlib.util
from pathlib import Path

import torch

from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.plan.module import plan_module
from seqgen.reference import interpreter
from seqgen.render.module import render_module
from seqgen.spec.loader import load_spec
from tests.reference.samples import draw, draw_states

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = {"H": 2, "HV": 2, "K": 20, "V": 24}


modules = {}
"""What was built: the interpreter compiles each kernel of a module at its first launch."""


def build(recurrence, schedule, folder, **knobs):
    """The generated module of ``recurrence``; ``knobs`` replace defaults of every kernel.

    Tests that build the same get the same module.
    """
    key = repr((recurrence, schedule, sorted(knobs.items())))
    if key not in modules:
        modules[key] = load(recurrence, schedule, folder, knobs)
    return modules[key]


def load(recurrence, schedule, folder, knobs):
    spaces = tuple(
        dataclasses.replace(
            space, default={name: knobs.get(name, v) for name, v in space.default.items()}
        )
        for space in schedule.spaces
    )
    schedule = dataclasses.replace(schedule, spaces=spaces)
    source = render_module(plan_module(recurrence, "any", schedule, "h100", {})).source
    path = folder / f"{recurrence.name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(f"built_{recurrence.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module, recurrence, tensors, states, cu_seqlens=None):
    """Outputs and final states by name, from the public function."""
    ordered = recurrence.argument_order()
    required = [tensors[t.name] for t in ordered if t.required]
    optional = {t.name: tensors.get(t.name) for t in ordered if not t.required}
    several = len(recurrence.states) > 1
    given = [states.get(s.name) for s in recurrence.states]
    *outputs, final = getattr(module, recurrence.name)(
        *required,
        **optional,
        initial_state=tuple(given) if several else given[0],
        output_final_state=True,
        cu_seqlens=cu_seqlens,
    )
    finals = final if several else [final]
    return (
        {o.name: value for o, value in zip(recurrence.outputs, outputs, strict=True)},
        {s.name: value for s, value in zip(recurrence.states, finals, strict=True)},
    )


def weights(values):
    """A fixed random cotangent for each value, float64; the token count has none."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in values.items()
        if name != "position"
    }


def gradients(results, leaves, cotangents):
    """Gradients of ``sum(result * cotangent)``; zeros for a leaf that nothing depends on."""
    loss = sum((results[n] * c.to(results[n].dtype)).sum() for n, c in cotangents.items())
    if not loss.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def error(value, truth):
    """RMS error relative to the RMS of the truth; absolute where the truth is 0."""
    assert value.shape == truth.shape, (value.shape, truth.shape)
    if not truth.numel():
        return 0.0
    distance = (value.detach().double() - truth.detach()).pow(2).mean().sqrt()
    size = truth.detach().pow(2).mean().sqrt()
    return float(distance / size) if size > 0 else float(distance)


def compare(
    module,
    recurrence,
    tensors,
    states,
    cu_seqlens=None,
    seeds=None,
    limit=1e-5,
    limits=None,
    dtype=torch.float32,
):
    """Everything against the truth: results, final states, all gradients.

    ``seeds`` names the results that have a cotangent, all of them if None; ``limits`` has limits
    of single results. The operator runs in ``dtype``, on values that ``dtype`` can hold.
    """

    declared = {t.name for t in recurrence.tensors if t.dtype or t.kind == "parameter"}
    wide = torch.promote_types(dtype, torch.float32)
    tensors = {n: t if n in declared else t.to(dtype) for n, t in tensors.items()}

    def both(run, narrow, wide):
        leaves = {
            n: t.to(wide if n in declared else narrow).requires_grad_() for n, t in tensors.items()
        }
        initial = {n: s.to(wide).requires_grad_() for n, s in states.items()}
        outputs, finals = run(leaves, initial)
        every = {**outputs, **{f"{n}_final": s for n, s in finals.items()}}
        chosen = {n: c for n, c in weights(every).items() if n != "position_final"}
        if seeds is not None:
            chosen = {name: chosen[name] for name in seeds}
        wanted = {**leaves, **{f"{n}_0": s for n, s in initial.items() if n != "position"}}
        found = gradients(every, wanted, chosen)
        return {**every, **{f"gradient of {n}": g for n, g in found.items()}}

    truth = both(
        lambda t, s: interpreter.run(recurrence, t, s, cu_seqlens), torch.float64, torch.float64
    )
    value = both(lambda t, s: call(module, recurrence, t, s, cu_seqlens), dtype, wide)
    wrong = {n: error(value[n], truth[n].expand(value[n].shape)) for n in truth}
    limits = limits or {}
    wrong = {name: size for name, size in wrong.items() if not size <= limits.get(name, limit)}
    assert not wrong, wrong
    return value


def example(name):
    return lower(load_spec(EXAMPLES / f"{name}.yaml"))


def serve_narrow_tiles(module):
    """Tiles narrower than on a GPU keep the interpreter quick."""
    module._NARROWEST = 16
    for fits in [n for n in vars(module) if n.endswith("_fits") and not n.endswith("stage_fits")]:
        setattr(module, fits, lambda sizes, dtype=None: sizes["T"] >= 16)


def check_chunkwise(
    name,
    op,
    folder,
    length=70,
    batch=1,
    borders=None,
    sizes=None,
    limit=1e-4,
    limits=None,
    **options,
):
    """Compare everything with the truth at small sizes; the schedule must be ``name``."""
    sizes = {axis.name: {**SIZES, **(sizes or {})}[axis.name] for axis in op.axes}
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == name, schedule.notes
    tensors = draw(op, batch, length, sizes=sizes, absent=options.pop("absent", ()))
    tensors.update(options.pop("tensors", {}))
    count = batch if borders is None else len(borders) - 1
    states = draw_states(op, count, sizes=sizes) if options.pop("initial", True) else {}
    cu_seqlens = None if borders is None else torch.tensor(borders, dtype=torch.int32)
    seeds, dtype = options.pop("seeds", None), options.pop("dtype", torch.float32)
    module = build(op, schedule, folder, **{"num_warps": 4, **options})
    serve_narrow_tiles(module)
    return compare(module, op, tensors, states, cu_seqlens, seeds, limit, limits, dtype)
