"""The chunkwise kernels for one decay per value channel against the float64 interpreter."""

import dataclasses
import math
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

SMALL = {"K": 16, "V": 16}


def spec(text, name="odd"):
    axes = "{K: 16, V: 20, HV: {groups_of: H}}" if "HV" in text else "{K: 16, V: 20}"
    text = f"operator: {name}\naxes: {axes}\n{textwrap.dedent(text)}"
    return lower(parse_spec(text, f"{name}.yaml"))


check = partial(check_chunkwise, "transposed")
PLAIN = example("value_decay")


@pytest.mark.parametrize("length", [1, 64, 65])
def test_lengths(length, tmp_path):
    check(PLAIN, tmp_path, length=length, batch=1)


def test_sizes_that_take_several_blocks(tmp_path):
    check(PLAIN, tmp_path, sizes={"H": 1, "HV": 1, "K": 40, "V": 20}, KI=16, BK=16, BV=16)
    check(PLAIN, tmp_path, sizes={"H": 1, "HV": 1, "K": 20, "V": 40}, KI=16, BK=16, BV=16)


def test_odd_extents_in_blocks_of_their_own(tmp_path):
    check(PLAIN, tmp_path, 70, 1, sizes={"H": 1, "K": 60, "V": 100})


def test_packed_sequences(tmp_path):
    check(PLAIN, tmp_path, length=150, batch=1, borders=[0, 63, 63, 70, 150], KI=16, BK=16, BV=16)


def test_reverse(tmp_path):
    op = dataclasses.replace(PLAIN, reverse=True)
    check(op, tmp_path, length=70)
    check(op, tmp_path, length=90, batch=1, borders=[0, 20, 20, 90])


@pytest.mark.parametrize("gate", ["weak", "strong", "one -100", "one channel", "-inf", "mixed"])
def test_gates(gate, tmp_path):
    shape = (1, 130, 2, 16)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    token = torch.arange(130)[None, :, None, None]
    channel = torch.arange(16)
    g = {
        "zero": torch.zeros(shape, dtype=torch.float64),
        "weak": -noise.abs() / 100,
        "strong": -noise.abs() * 8,
        "-20": torch.full(shape, -20.0, dtype=torch.float64),
        "one -100": torch.where(token == 70, -100.0, -noise.abs() / 50),
        "one channel": torch.where((token // 64 == 1) & (channel == 5), -3.0, -noise.abs() / 50),
        "-inf": torch.where(noise > 1.2, -torch.inf, -noise.abs() / 50),
        "mixed": torch.where(noise > 1.0, -100.0, torch.where(noise < -1.5, -torch.inf, -0.01)),
    }[gate]
    check(PLAIN, tmp_path, length=130, batch=1, tensors={"g": g}, sizes=SMALL)


@pytest.mark.parametrize("levels", [0, 2, 6])
def test_every_number_of_levels(levels, tmp_path):
    # Just below what the kernels take blocks of 2^(6 - levels) rows at once for, in fp32.
    half = 2 ** (5 - levels) if levels < 6 else 0.6
    g = torch.full((1, 66, 1, 16), -60 * math.log(2) / half * 0.99, dtype=torch.float64)
    g[:, 30:] = -0.01
    check(PLAIN, tmp_path, 66, 1, tensors={"g": g}, sizes={"H": 1, **SMALL})


def test_gates_above_zero(tmp_path):
    op = spec(GROWING)
    noise = torch.randn((1, 130, 2, 20), generator=torch.Generator().manual_seed(3)).double()
    for scale in (0.1, 1.0):
        check(op, tmp_path, 130, 1, tensors={"g": scale * noise}, sizes={"V": 20})


def test_growth_beyond_what_an_operand_may_have(tmp_path):
    """From the middle of the chunk 2^110: cut at the limit of masked pairs, it would be wrong."""
    rise = torch.full((1, 32, 2, 16), 2.4, dtype=torch.float64)
    g = torch.cat((rise, -rise, rise[:, :6]), 1)
    check(spec(GROWING), tmp_path, 70, 1, tensors={"g": g}, sizes=SMALL, initial=False)


def test_fp16_goes_token_by_token_where_gates_may_grow():
    op = spec(GROWING)
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert "fp16, for gates may be above 0" in schedule.fallback
    assert "q.dtype != torch.float16 and _transposed_fits(sizes)" in str(schedule.forward_call)


def test_no_initial_state_and_single_seeds(tmp_path):
    check(PLAIN, tmp_path, initial=False, seeds=["o"])
    check(PLAIN, tmp_path, batch=2, seeds=["S_final"])


@pytest.mark.parametrize(("dtype", "strength"), [(torch.bfloat16, 8), (torch.float16, 0.02)])
def test_half_dtypes(dtype, strength, tmp_path):
    noise = torch.randn((1, 130, 2, 24), generator=torch.Generator().manual_seed(3)).double()
    limits = dict.fromkeys(("gradient of q", "gradient of k", "gradient of v"), 0.008)
    limits["gradient of g"] = 0.02
    tensors = {"g": -strength * noise.abs()}
    check(PLAIN, tmp_path, 130, 1, dtype=dtype, limits=limits, limit=0.005, tensors=tensors)


GROWING = """
    inputs: {q: [H, K], k: [H, K], v: [H, V], g: [H, V]}
    state: {S: [H, K, V]}
    update: ["S = exp(g) * S + k * v"]
    output: {o: "sum(q * S, K)"}
"""
ODD = {
    "gate from projections, gated output": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], a: [H, V], z: [H, V]}
        parameters: {A_log: [H], dt_bias: [H, V], D: [H]}
        state: {S: [H, K, V]}
        let: {g: "-exp(A_log) * softplus(a + dt_bias)", q: "l2norm(q, K)", k: "l2norm(k, K)"}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "silu(z) * sum(q * S, K) + D * v"}
    """,
    "output of its own dtype, names of kernels": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], gates: [H, V], strong: [H, V]}
        parameters: {halves: [H]}
        state: {S: [H, K, V]}
        let: {g: "logsigmoid(gates) / 16", q: "q * K ** -0.5"}
        update: ["S = exp(g) * S + k * v"]
        output:
          o: {value: "gates * sum(q * S, K) + strong * halves", dtype: float32}
    """,
    "decay that is no gate, weighed writes, values normalised": """
        inputs: {q: [H, K], k: [H, K], f: [H, V], v: [H, V], dt: [H]}
        state: {S: [H, V, K]}
        let: {f: "0.1 + 0.9 * sigmoid(f)", v: "l2norm(v, V)", q: "silu(q)"}
        update: ["S = f * S + dt * k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "grouped heads": """
        inputs: {q: [H, K], k: [H, K], v: [HV, V], g: {axes: [H, V], range: [-.inf, 0]}}
        state: {S: [HV, K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "queries of all heads": """
        inputs: {q: [K], k: [H, K], v: [H, V], g: {axes: [V], range: [-.inf, 0]}}
        state: {S: [H, K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "without heads": """
        inputs: {q: [K], k: [K], v: [V], g: {axes: [V], range: [-.inf, 0]}}
        state: {S: [K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "value from the gate, key from the query": """
        inputs: {q: [H, K], g: {axes: [H, V], dtype: float32, range: [-.inf, 0]}}
        state: {S: [H, K, V]}
        let: {k: "tanh(q)", w: "silu(g)"}
        update: ["S = exp(g) * S + k * w"]
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
