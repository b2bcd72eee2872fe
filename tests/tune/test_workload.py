import json
import math
from dataclasses import asdict

import pytest
import torch

from seqgen.errors import UsageError
from seqgen.passes.lower import lower
from seqgen.spec.loader import parse_spec
from seqgen.tune.inputs import make_inputs
from seqgen.tune.workload import Workload, workload_of

SPEC = """
operator: gated
axes: {K: 128, V: 64, HV: {groups_of: H}, N: {same_as: K}}
inputs:
  q: [H, K]
  v: [HV, V]
  g: {axes: [HV], dtype: float32, range: [-.inf, 0]}
  beta: [HV]
  w: {axes: [HV, V], range: [0, 1]}
parameters: {A: [H, N]}
state: {S: [HV, K, V]}
update: ["S = exp(g) * S + beta * w * q * v * sum(A, N)"]
output: {o: "sum(q * S, K)"}
"""


@pytest.fixture(scope="module")
def workload():
    return workload_of(lower(parse_spec(SPEC, "gated.yaml")), {"B": 2, "T": 8, "H": 4}, "bf16")


def test_sizes_follow_each_other(workload):
    assert workload.sizes == {"B": 2, "T": 8, "H": 4, "K": 128, "V": 64, "HV": 4, "N": 128}
    assert workload.groups == {"HV": "H"}
    assert set(workload.free) == {"H", "V"}  # N has to be as large as K
    recurrence = lower(parse_spec(SPEC, "gated.yaml"))
    assert workload_of(recurrence, {"B": 1, "T": 1, "K": 32}, "bf16").sizes["N"] == 32
    grouped = workload_of(recurrence, {"B": 1, "T": 1, "H": 4, "HV": 8}, "bf16")
    assert grouped.shrunk(frozenset({"K", "V"})).sizes | {"B": 0, "T": 0} == {
        "B": 0, "T": 0, "H": 2, "HV": 4, "K": 128, "V": 64, "N": 128,
    }  # fmt: skip
    assert grouped.shrunk(frozenset()).sizes["V"] == 2


def test_impossible_sizes_are_named():
    recurrence = lower(parse_spec(SPEC, "gated.yaml"))
    with pytest.raises(UsageError, match="gated has no axis D; its axes are"):
        workload_of(recurrence, {"B": 1, "T": 1, "D": 1}, "bf16")
    with pytest.raises(UsageError, match="needs sizes for B and T"):
        workload_of(recurrence, {"B": 1}, "bf16")
    with pytest.raises(UsageError, match="HV = 6 must be a multiple of H = 4"):
        workload_of(recurrence, {"B": 1, "T": 1, "H": 4, "HV": 6}, "bf16")


def test_it_travels_as_json(workload):
    assert Workload.from_json(json.loads(json.dumps(asdict(workload)))) == workload


def test_limits_know_gates_from_vectors(workload):
    kinds = {o.name: o.gate_like for o in workload.operands}
    assert kinds == {"q": False, "v": False, "g": True, "beta": True, "w": True, "A": True}


def test_inputs_keep_shape_dtype_and_range(workload):
    inputs = make_inputs(workload, 3, "cpu", with_state=True)
    shapes = {name: tuple(t.shape) for name, t in inputs.tensors.items()}
    assert shapes == {
        "q": (2, 8, 4, 128), "v": (2, 8, 4, 64), "g": (2, 8, 4), "beta": (2, 8, 4),
        "w": (2, 8, 4, 64), "A": (4, 128),
    }  # fmt: skip
    dtypes = {name: t.dtype for name, t in inputs.tensors.items()}
    assert dtypes["q"] == dtypes["beta"] == torch.bfloat16
    assert dtypes["g"] == dtypes["A"] == torch.float32
    assert (inputs.tensors["g"] <= 0).all()
    assert ((inputs.tensors["w"] >= 0) & (inputs.tensors["w"] <= 1)).all()
    assert (inputs.tensors["beta"] > 0).all()
    assert 0.8 < inputs.tensors["q"].float().norm(dim=-1).mean() < 1.2
    assert inputs.states[0].shape == (2, 4, 128, 64)
    again = make_inputs(workload, 3, "cpu", with_state=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(inputs.leaves.values(), again.leaves.values(), strict=True)
    )


def test_extreme_gates_are_at_their_ends(workload):
    g = make_inputs(workload, 3, "cpu", style="extreme").tensors["g"]
    assert (g == 0).any()
    assert (g == -100).any()
    assert g.isfinite().all()
    assert (
        make_inputs(workload.at(T=64), 3, "cpu", style="infinite").tensors["g"].min() == -math.inf
    )


def test_packed_states_are_one_per_sequence(workload):
    packed = workload.at(B=1, T=5)
    inputs = make_inputs(packed, 0, "cpu", borders=(0, 2, 2, 5), with_state=True)
    assert inputs.states[0].shape[0] == 3
    assert inputs.cu_seqlens.tolist() == [0, 2, 2, 5]
