"""The chunkwise kernels for an erase along the value axis against the float64 interpreter."""

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

SMALL = {"H": 1, "K": 16, "V": 16}
OJA = example("gated_oja")


def spec(text, name="odd"):
    axes = "{K: 16, V: 20, HV: {groups_of: H}}" if "HV" in text else "{K: 16, V: 20}"
    text = f"operator: {name}\naxes: {axes}\n{textwrap.dedent(text)}"
    return lower(parse_spec(text, f"{name}.yaml"))


check = partial(check_chunkwise, "transposed_delta")


@pytest.mark.parametrize("length", [1, 65])
def test_lengths(length, tmp_path):
    check(OJA, tmp_path, length=length, batch=1)


def test_sizes_that_take_several_blocks(tmp_path):
    check(OJA, tmp_path, sizes={"H": 1, "HV": 1, "K": 40, "V": 20}, KI=16, BK=16, BV=16)
    check(OJA, tmp_path, sizes={"H": 1, "HV": 1, "K": 20, "V": 40}, KI=16, BK=16, BV=16)


def test_odd_extents_in_blocks_of_their_own(tmp_path):
    check(OJA, tmp_path, 70, 1, sizes={"H": 1, "K": 100, "V": 60})


def test_packed_sequences(tmp_path):
    check(OJA, tmp_path, length=150, batch=1, borders=[0, 1, 65, 65, 150], KI=16, BK=16, BV=16)


def test_reverse(tmp_path):
    op = dataclasses.replace(OJA, reverse=True)
    check(op, tmp_path, length=70)
    check(op, tmp_path, length=90, batch=1, borders=[0, 20, 20, 90])


@pytest.mark.parametrize("gate", ["weak", "strong", "one -100", "-inf", "mixed"])
def test_gates(gate, tmp_path):
    shape = (1, 130, 1, 16)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    token = torch.arange(130)[None, :, None, None]
    g = {
        "zero": torch.zeros(shape, dtype=torch.float64),
        "weak": -noise.abs() / 100,
        "strong": -noise.abs() * 8,
        "-20": torch.full(shape, -20.0, dtype=torch.float64),
        "one -100": torch.where(token == 70, -100.0, -noise.abs() / 50),
        "-inf": torch.where(noise > 1.2, -torch.inf, -noise.abs() / 50),
        "mixed": torch.where(noise > 1.0, -100.0, torch.where(noise < -1.5, -torch.inf, -0.01)),
    }[gate]
    check(OJA, tmp_path, length=130, batch=1, tensors={"g": g}, sizes=SMALL)


@pytest.mark.parametrize("levels", [1, 6])
def test_every_number_of_levels(levels, tmp_path):
    # Just below what the kernels take blocks of 2^(6 - levels) rows at once for, in fp32.
    half = 2 ** (5 - levels) if levels < 6 else 0.6
    g = torch.full((1, 66, 1, 16), -60 * math.log(2) / half * 0.99, dtype=torch.float64)
    g[:, 30:] = -0.01
    check(OJA, tmp_path, 66, 1, tensors={"g": g}, sizes=SMALL)


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_write_strengths(beta, tmp_path):
    tensors = {"beta": torch.full((1, 130, 1), beta, dtype=torch.float64)}
    check(OJA, tmp_path, 130, 1, sizes=SMALL, tensors=tensors)


def test_no_initial_state_and_single_seeds(tmp_path):
    check(OJA, tmp_path, initial=False, seeds=["o"])
    check(OJA, tmp_path, batch=2, seeds=["S_final"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_dtypes(dtype, tmp_path):
    limits = {"gradient of g": 0.02, "gradient of beta": 0.02}
    limit = 0.008 if dtype == torch.bfloat16 else 0.005
    check(OJA, tmp_path, 130, 1, dtype=dtype, limits=limits, limit=limit)


ODD = {
    "one decay per head, gated output": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], g: {axes: [H], range: [-.inf, 0]}, r: [H, V]}
        state: {S: [H, K, V]}
        let: {v: "l2norm(v, V)"}
        update: ["S = exp(g) * S", "S = S + v * (k - sum(v * S, V))"]
        output: {o: "silu(r) * sum(q * S, K)"}
    """,
    "erase with another row than the write, decays that are no gates": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], f: [H, V], p: [H]}
        state: {S: [H, V, K]}
        let: {v: "l2norm(v, V)", f: sigmoid(f), w: "0.5 * v * tanh(v)"}
        update: ["S = f * S", "S = S + sigmoid(p) * w * (k - sum(v * S, V))"]
        output: {o: "sum(q * S, K) * K ** -0.5"}
    """,
    "grouped heads": """
        inputs: {q: [H, K], k: [HV, K], v: [HV, V], g: {axes: [H, V], range: [-.inf, 0]}}
        state: {S: [HV, K, V]}
        let: {v: "l2norm(v, V)"}
        update: ["S = exp(g) * S", "S = S + 0.5 * v * (k - sum(v * S, V))"]
        output: {o: "sum(q * S, K)"}
    """,
    "without heads": """
        inputs: {q: [K], k: [K], v: [V], g: {axes: [V], range: [-.inf, 0]}}
        state: {S: [K, V]}
        let: {v: "l2norm(v, V)"}
        update: ["S = exp(g) * S", "S = S + v * (k - sum(v * S, V))"]
        output: {o: "sum(q * S, K)"}
    """,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_operators(name, tmp_path):
    check(spec(ODD[name]), tmp_path, sizes={"HV": 4} if "group" in name else None)


def test_other_erases_are_not_covered():
    op = spec("""
        inputs: {q: [H, K], k: [H, K], v: [H, V], w: [H, V]}
        state: {S: [H, K, V]}
        update: ["S = S - v * sum(w * S, V) + w * k"]
        output: {o: "sum(q * S, K)"}
    """)
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == "recurrent"
    assert schedule.notes[-1].startswith("'o' sums over K and not over V: ")
