"""The chunkwise kernels for one decay per key channel and an erase, in fp32 against float64."""

import dataclasses
import math
import textwrap
from pathlib import Path

import pytest
import torch

from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.spec.loader import load_spec, parse_spec
from tests.interpreted.operators import build, compare
from tests.reference.samples import draw, draw_states

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = {"H": 2, "HV": 2, "K": 20, "V": 24}
SMALL = {"K": 16, "V": 16}
ONE_HEAD = {"H": 1, "HV": 1, **SMALL}
KDA = """
    inputs:
      q: [H, K]
      k: [H, K]
      v: [H, V]
      g: {axes: [H, K], range: [-.inf, 0]}
      beta: [H]
    state: {S: [H, K, V]}
    let: {k: "l2norm(k, K)", q: q * K ** -0.5}
    update: ["S = exp(g) * S", "S = S + beta * k * (v - sum(k * S, K))"]
    output: {o: "sum(q * S, K)"}
"""


def example(name):
    return lower(load_spec(EXAMPLES / f"{name}.yaml"))


def spec(text, name="odd"):
    axes = "{K: 16, V: 16, HV: {groups_of: H}}" if "HV" in text else "{K: 16, V: 16}"
    text = f"operator: {name}\naxes: {axes}\n{textwrap.dedent(text)}"
    return lower(parse_spec(text, f"{name}.yaml"))


def check(
    op, folder, length=70, batch=2, borders=None, sizes=None, limit=1e-4, limits=None, **options
):
    """Compare everything with the truth at small sizes; the schedule must be the chunkwise one."""
    sizes = {axis.name: {**SIZES, **(sizes or {})}[axis.name] for axis in op.axes}
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == "vector_delta", schedule.notes
    tensors = draw(op, batch, length, sizes=sizes, absent=options.pop("absent", ()))
    tensors.update(options.pop("tensors", {}))
    count = batch if borders is None else len(borders) - 1
    states = draw_states(op, count, sizes=sizes) if options.pop("initial", True) else {}
    cu_seqlens = None if borders is None else torch.tensor(borders, dtype=torch.int32)
    seeds, dtype = options.pop("seeds", None), options.pop("dtype", torch.float32)
    module = build(op, schedule, folder, **{"num_warps": 4, **options})
    # Narrow tiles go token by token on a GPU; here they keep the interpreter quick.
    module._vector_delta_fits = lambda sizes: sizes["T"] >= 16
    return compare(module, op, tensors, states, cu_seqlens, seeds, limit, limits, dtype)


@pytest.mark.parametrize("name", ["kda", "rwkv7", "dplr", "iplr", "comba", "gdn2"])
def test_examples(name, tmp_path):
    check(example(name), tmp_path)
