"""The chunkwise kernels for decays per key and value channel against the float64 interpreter."""

import dataclasses
import textwrap
from functools import partial

import pytest
import torch

from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.spec.loader import parse_spec
from tests.interpreted.operators import check_chunkwise, example

SMALL = {"H": 1, "K": 16, "V": 16}


def spec(text, name="odd"):
    axes = "{K: 16, V: 20, HV: {groups_of: H}}" if "HV" in text else "{K: 16, V: 20}"
    text = f"operator: {name}\naxes: {axes}\n{textwrap.dedent(text)}"
    return lower(parse_spec(text, f"{name}.yaml"))


check = partial(check_chunkwise, "key_value")
PLAIN = example("key_value_decay")


@pytest.mark.parametrize("length", [1, 64, 65])
def test_lengths(length, tmp_path):
    check(PLAIN, tmp_path, length=length, batch=1)


def test_sizes_that_take_several_blocks(tmp_path):
    check(PLAIN, tmp_path, sizes={"H": 1, "HV": 1, "K": 40, "V": 20}, KI=16, BK=16, BV=16)
    check(PLAIN, tmp_path, sizes={"H": 1, "HV": 1, "K": 20, "V": 40}, KI=16, BK=16, BV=16)


def test_odd_extents_in_blocks_of_their_own(tmp_path):
    check(PLAIN, tmp_path, 70, 1, sizes={"H": 1, "K": 60, "V": 100})


def test_packed_sequences(tmp_path):
    borders = [0, 63, 63, 70, 150]
    check(PLAIN, tmp_path, length=150, batch=1, borders=borders, KI=16, BK=16, BV=16)


def test_reverse(tmp_path):
    op = dataclasses.replace(PLAIN, reverse=True)
    check(op, tmp_path, length=70)
    check(op, tmp_path, length=90, batch=1, borders=[0, 20, 20, 90])


def gate(kind, seed):
    shape = (1, 130, 1, 16)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    weak, token = -noise.abs() / 50, torch.arange(130)[None, :, None, None]
    return {
        "zero": torch.zeros_like(weak),
        "weak": weak,
        "-20": torch.full_like(weak, -20.0),
        "one -100": torch.where(token == 70, -100.0, weak),
        "-inf": torch.where(noise > 1.2, -torch.inf, weak),
        "mixed": torch.where(noise > 1.0, -100.0, torch.where(noise < -1.5, -torch.inf, -0.01)),
    }[kind]


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        # A gate that is weak itself has gradients as small as the other one makes them.
        *(("weak", "-20"), ("-20", "zero"), ("-20", "-20")),
        *(("one -100", "weak"), ("weak", "one -100")),
        *(("-inf", "weak"), ("zero", "-inf"), ("mixed", "mixed")),
    ],
)
def test_gates(keys, values, tmp_path):
    gates = {"gk": gate(keys, 3), "gv": gate(values, 4)}
    check(PLAIN, tmp_path, length=130, batch=1, tensors=gates, sizes=SMALL)


def test_gates_above_zero(tmp_path):
    for strength in (0.1, 1.0):
        gates = {"gk": strength * torch.randn((1, 130, 1, 16)), "gv": -gate("weak", 3)}
        check(spec(GROWING), tmp_path, 130, 1, tensors=gates, sizes=SMALL)


def test_fp16_goes_token_by_token_where_gates_may_grow():
    op = spec(GROWING)
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert "fp16, for gates may be above 0" in schedule.fallback
    assert "q.dtype != torch.float16 and _key_value_fits(sizes)" in str(schedule.forward_call)


def test_no_initial_state_and_single_seeds(tmp_path):
    check(PLAIN, tmp_path, initial=False, seeds=["o"])
    check(PLAIN, tmp_path, batch=2, seeds=["S_final"])


@pytest.mark.parametrize(("dtype", "strength"), [(torch.bfloat16, 8), (torch.float16, 0.02)])
def test_half_dtypes(dtype, strength, tmp_path):
    noise = torch.randn((1, 130, 2, 24), generator=torch.Generator().manual_seed(3)).double()
    limits = dict.fromkeys(("gradient of q", "gradient of k", "gradient of v"), 0.008)
    limits |= {"gradient of gk": 0.02, "gradient of gv": 0.02}
    gates = {"gk": -strength * noise.abs()[..., :20], "gv": -strength * noise.abs().flip(1)}
    check(PLAIN, tmp_path, 130, 1, dtype=dtype, limits=limits, limit=0.005, tensors=gates)


GROWING = """
    inputs: {q: [H, K], k: [H, K], v: [H, V], gk: [H, K], gv: [H, V]}
    state: {S: [H, K, V]}
    update: ["S = exp(gk) * exp(gv) * S + k * v"]
    output: {o: "sum(q * S, K)"}
"""
ODD = {
    "gates from projections, gated output": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], a: [H, V], f: [H, K], z: [H, V]}
        parameters: {A_log: [H], dt_bias: [H, V], D: [H]}
        state: {S: [H, K, V]}
        let:
          gv: "-exp(A_log) * softplus(a + dt_bias)"
          q: "l2norm(q, K) * K ** -0.5"
          k: "l2norm(k, K)"
        update: ["S = sigmoid(f) * exp(gv) * S + k * v"]
        output: {o: "silu(z) * sum(q * S, K) + D * v"}
    """,
    "three decays, output of its own dtype, names of kernels": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], gates: [H, V], swapped: [H, K], strong: [H]}
        parameters: {halves: [H]}
        state: {S: [H, V, K]}
        let: {q: "q * K ** -0.5"}
        update: ["S = sigmoid(gates) * sigmoid(swapped) * sigmoid(strong) * S + strong * k * v"]
        output:
          o: {value: "gates * sum(q * S, K) + strong * halves", dtype: float32}
    """,
    "grouped heads": """
        inputs:
          q: [H, K]
          k: [H, K]
          v: [HV, V]
          gk: {axes: [H, K], range: [-.inf, 0]}
          gv: {axes: [HV, V], range: [-.inf, 0]}
        state: {S: [HV, K, V]}
        update: ["S = exp(gk) * exp(gv) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "queries of all heads": """
        inputs:
          q: [K]
          k: [H, K]
          v: [H, V]
          gk: {axes: [K], range: [-.inf, 0]}
          gv: {axes: [V], range: [-.inf, 0]}
        state: {S: [H, K, V]}
        update: ["S = exp(gk) * exp(gv) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "without heads": """
        inputs: {q: [K], k: [K], v: [V], gk: [K], gv: [V]}
        state: {S: [K, V]}
        let: {q: "K ** -0.5 * q"}
        update: ["S = sigmoid(gk) * sigmoid(gv) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_operators(name, tmp_path):
    check(spec(ODD[name]), tmp_path, sizes={"HV": 4} if "group" in name else None)


def test_a_read_before_the_update_is_not_covered():
    op = spec(GROWING.replace("q * S", "q * prev(S)"))
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == "scan"
    assert schedule.notes[-1].startswith("The state is read before the token's update: ")
