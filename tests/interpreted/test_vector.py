"""The chunkwise kernels for one decay per key channel against the float64 interpreter, in fp32."""

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
from seqgen.plan.stages import SERIAL
from seqgen.spec.loader import parse_spec
from tests.interpreted.operators import check_chunkwise, example

SMALL = {"K": 16, "V": 16}


def spec(text, name="odd"):
    axes = "{K: 16, V: 16, HV: {groups_of: H}}" if "HV" in text else "{K: 16, V: 16}"
    text = f"operator: {name}\naxes: {axes}\n{textwrap.dedent(text)}"
    return lower(parse_spec(text, f"{name}.yaml"))


check = partial(check_chunkwise, "vector")


@pytest.mark.parametrize("name", ["gla", "hgrn2", "rwkv6"])
def test_examples(name, tmp_path):
    check(example(name), tmp_path, batch=2)


@pytest.mark.parametrize("length", [1, 16, 63, 64, 65, 130])
def test_lengths(length, tmp_path):
    check(example("gla"), tmp_path, length=length, batch=1)


@pytest.mark.parametrize("name", ["gla", "rwkv6"])
def test_sizes_that_take_several_blocks(name, tmp_path):
    check(example(name), tmp_path, sizes={"H": 1, "HV": 1, "K": 40, "V": 20}, KI=16, BK=16, BV=16)
    check(example(name), tmp_path, sizes={"H": 1, "HV": 1, "K": 20, "V": 40}, KI=16, BK=16, BV=16)


@pytest.mark.parametrize("name", ["gla", "rwkv6"])
def test_packed_sequences(name, tmp_path):
    check(
        example(name),
        tmp_path,
        length=150,
        batch=1,
        borders=[0, 1, 65, 65, 128, 150],
        KI=16,
        BK=16,
        BV=16,
    )


@pytest.mark.parametrize("name", ["gla", "rwkv6"])
def test_reverse(name, tmp_path):
    op = dataclasses.replace(example(name), reverse=True)
    check(op, tmp_path, length=70)
    check(op, tmp_path, length=90, batch=1, borders=[0, 20, 20, 90])


@pytest.mark.parametrize("name", ["gla", "rwkv6"])
@pytest.mark.parametrize(
    "gate", ["zero", "weak", "strong", "-20", "one -100", "one channel", "one -8", "-inf", "mixed"]
)
def test_gates(name, gate, tmp_path):
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
        "one -8": torch.where(token == 100, -8.0, -0.01).expand(shape),  # strong for one row only
        "-inf": torch.where(noise > 1.2, -torch.inf, -noise.abs() / 50),
        "mixed": torch.where(noise > 1.0, -100.0, torch.where(noise < -1.5, -torch.inf, -0.01)),
    }[gate]
    tensors = {"g" if name == "gla" else "w": g}
    check(example(name), tmp_path, length=130, batch=1, tensors=tensors, sizes=SMALL)


@pytest.mark.parametrize("name", ["gla", "rwkv6"])
@pytest.mark.parametrize("levels", [0, 1, 3, 6])
def test_every_number_of_levels(name, levels, tmp_path):
    # Just below what the kernels take blocks of 2^(6 - levels) rows at once for, in fp32.
    half = 2 ** (5 - levels) if levels < 6 else 0.6
    g = torch.full((1, 66, 1, 16), -60 * math.log(2) / half * 0.99, dtype=torch.float64)
    g[:, 30:] = -0.01
    tensors = {"g" if name == "gla" else "w": g}
    check(example(name), tmp_path, 66, 1, tensors=tensors, sizes={"H": 1, **SMALL})


def test_gates_above_zero(tmp_path):
    op = spec("""
        inputs: {q: [H, K], k: [H, K], v: [H, V], g: [H, K]}
        parameters: {u: [H, K]}
        state: {S: [H, K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * (prev(S) + u * k * v), K)"}
    """)
    noise = torch.randn((1, 130, 2, 16), generator=torch.Generator().manual_seed(3))
    for scale in (0.1, 1.0):
        check(op, tmp_path, 130, 1, tensors={"g": scale * noise.double()}, sizes=SMALL)


GROWING = """
    inputs: {q: [H, K], k: [H, K], v: [H, V], g: [H, K]}
    state: {S: [H, K, V]}
    update: ["S = exp(g) * S + k * v"]
    output: {o: "sum(q * S, K)"}
"""


def test_growth_beyond_what_an_operand_may_have(tmp_path):
    """From the middle of the chunk 2^110: cut at the limit of masked pairs, it would be wrong."""
    rise = torch.full((1, 32, 2, 16), 2.4, dtype=torch.float64)
    g = torch.cat((rise, -rise, rise[:, :6]), 1)
    check(spec(GROWING), tmp_path, 70, 1, tensors={"g": g}, sizes=SMALL, initial=False)


def test_fp16_goes_token_by_token_where_gates_may_grow():
    op = spec(GROWING)
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert "fp16, for gates may be above 0" in schedule.fallback
    assert "q.dtype != torch.float16 and _vector_fits(sizes)" in str(schedule.forward_call)
    gla = example("gla")
    plain = choose_schedule(gla, analyse(gla), find_gpu("h200"))
    assert "float16" not in f"{plain.forward_call}{plain.fallback}"


def test_odd_extents_in_blocks_of_their_own(tmp_path):
    check(example("gla"), tmp_path, 70, 1, sizes={"H": 1, "K": 60, "V": 100})


def test_no_initial_state_and_single_seeds(tmp_path):
    check(example("gla"), tmp_path, initial=False, seeds=["o"])
    check(example("rwkv6"), tmp_path, seeds=["S_final"])


@pytest.mark.parametrize("name", ["gla", "rwkv6", "hgrn2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_dtypes(name, dtype, tmp_path):
    limits = dict.fromkeys(("gradient of g", "gradient of w", "gradient of u"), 0.02)
    limits |= dict.fromkeys(("gradient of q", "gradient of k", "gradient of v"), 0.008)
    check(example(name), tmp_path, 130, 1, dtype=dtype, limits=limits, limit=0.005)


def test_gates_of_the_io_dtype(tmp_path):
    op = spec(ODD["grouped heads"])
    limits = dict.fromkeys(("gradient of q", "gradient of k", "gradient of v"), 0.008)
    limits["gradient of g"] = 0.02
    sizes, dtype = {"HV": 4}, torch.bfloat16
    check(op, tmp_path, 130, 1, sizes=sizes, dtype=dtype, limits=limits, limit=0.005)


ODD = {
    "gate from projections, gated output": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], a: [H, K], z: [H, V]}
        parameters: {A_log: [H], dt_bias: [H, K], D: [H]}
        state: {S: [H, K, V]}
        let: {g: "-exp(A_log) * softplus(a + dt_bias)", q: "l2norm(q, K)", k: "l2norm(k, K)"}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "silu(z) * sum(q * S, K) + D * v"}
    """,
    "gate of its own dtype, weak": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], g: [H, K]}
        state: {S: [H, K, V]}
        let: {g: "logsigmoid(g) / 16", q: "q * K ** -0.5"}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "gate with a lower bound, written by what is forgotten": """
        inputs: {q: [H, K], f: [H, K], v: [H, V], dt: [H]}
        state: {S: [H, V, K]}
        let: {f: "0.1 + 0.9 * sigmoid(f)", k: "1 - f", q: "silu(q)"}
        update: ["S = f * S + dt * k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "grouped heads": """
        inputs: {q: [H, K], k: [H, K], v: [HV, V], g: {axes: [H, K], range: [-.inf, 0]}}
        state: {S: [HV, K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "read before the update, without bonus": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], g: {axes: [H, K], range: [-.inf, 0]}}
        state: {S: [H, K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "0.5 * sum(q * prev(S), K)"}
    """,
    "own write as it is, gated output": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], z: [H, V], g: {axes: [H, K], range: [-.inf, 0]}}
        state: {S: [H, K, V]}
        let: {k: "silu(k)"}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "K ** -0.5 * silu(z) * sum(q * (prev(S) + k * v), K)"}
    """,
    "bonus shared by the heads of a group": """
        inputs: {q: [HV, K], k: [H, K], v: [HV, V], g: {axes: [HV, K], range: [-.inf, 0]}}
        parameters: {u: [H, K]}
        state: {S: [HV, K, V]}
        let: {q: "l2norm(q, K)"}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * (prev(S) + u * k * v), K)"}
    """,
    "without heads": """
        inputs: {q: [K], k: [K], v: [V], g: {axes: [K], range: [-.inf, 0]}}
        parameters: {u: [K]}
        state: {S: [K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * (prev(S) + u * k * v), K)"}
    """,
    "one tensor in two roles": """
        inputs: {k: [H, K], v: [H, V], g: {axes: [H, K], dtype: float32, range: [-.inf, 0]}}
        state: {S: [H, K, V]}
        let: {w: "silu(g)"}
        update: ["S = exp(g) * S + w * v"]
        output: {o: "sum(k * S, K)"}
    """,
    "key from the query": """
        inputs: {q: [H, K], v: [H, V], g: {axes: [H, K], range: [-.inf, 0]}}
        state: {S: [H, K, V]}
        let: {k: "tanh(q)"}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_operators(name, tmp_path):
    check(spec(ODD[name]), tmp_path, sizes={"HV": 4} if "group" in name else None)


NOT_COVERED = {
    "A token's own write has a weight that is no parameter": """
        inputs: {q: [H, K], k: [H, K], a: [H, K], v: [H, V], g: [H, K]}
        state: {S: [H, K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * (prev(S) + a * k * v), K)"}
    """,
    "'q * k' has the axis K, where only V fits": """
        inputs: {q: [H, K], k: [H, K], b: [H, V], v: [H, V], g: [H, K]}
        state: {S: [H, K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * (prev(S) + k * b), K)"}
    """,
    "The state is read before the token's update": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], g: [H]}
        state: {S: [H, K, V]}
        update: ["S = exp(g) * S + k * v"]
        output: {o: "sum(q * prev(S), K)"}
    """,
}


@pytest.mark.parametrize("reason", NOT_COVERED)
def test_what_is_not_covered_says_why(reason):
    op = spec(NOT_COVERED[reason])
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == "scan"
    advice = f"that has no chunkwise schedule yet. The operator runs {SERIAL[schedule.name]}."
    assert schedule.notes[-1] == f"{reason}: {advice}"
