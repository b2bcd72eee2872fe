"""The chunkwise kernels for one decay per key channel and an erase, in fp32 against float64."""

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
from tests.interpreted.operators import check_chunkwise, compare, example, load
from tests.reference.samples import draw

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


def spec(text, name="odd"):
    axes = "{K: 16, V: 16, HV: {groups_of: H}}" if "HV" in text else "{K: 16, V: 16}"
    text = f"operator: {name}\naxes: {axes}\n{textwrap.dedent(text)}"
    return lower(parse_spec(text, f"{name}.yaml"))


check = partial(check_chunkwise, "vector_delta")


@pytest.mark.parametrize("name", ["kda", "rwkv7", "dplr", "iplr", "comba", "gdn2"])
def test_examples(name, tmp_path):
    check(example(name), tmp_path, batch=2)


@pytest.mark.parametrize("length", [1, 16, 63, 64, 65, 130])
@pytest.mark.parametrize("name", ["kda", "rwkv7"])
def test_lengths(name, length, tmp_path):
    check(example(name), tmp_path, length=length, batch=1)


@pytest.mark.parametrize("name", ["kda", "rwkv7"])
def test_sizes_that_take_several_blocks(name, tmp_path):
    check(example(name), tmp_path, sizes={"H": 1, "HV": 1, "K": 40, "V": 20}, KI=16, BK=16, BV=16)
    check(example(name), tmp_path, sizes={"H": 1, "HV": 1, "K": 20, "V": 40}, KI=16, BK=16, BV=16)


@pytest.mark.parametrize("name", ["kda", "rwkv7"])
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


@pytest.mark.parametrize("name", ["kda", "rwkv7"])
def test_reverse(name, tmp_path):
    op = dataclasses.replace(example(name), reverse=True)
    check(op, tmp_path, length=70)
    check(op, tmp_path, length=90, batch=1, borders=[0, 20, 20, 90])


def test_grouped_heads(tmp_path):
    check(example("kda"), tmp_path, sizes={"H": 2, "HV": 4, **SMALL})


@pytest.mark.parametrize("name", ["kda", "rwkv7", "gdn2"])
@pytest.mark.parametrize("gate", ["zero", "weak", "strong", "-20", "one -100", "-inf", "mixed"])
def test_gates(name, gate, tmp_path):
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
    op = spec(KDA) if name == "kda" else example(name)
    tensors = {"w" if name == "rwkv7" else "g": g}
    check(op, tmp_path, length=130, batch=1, tensors=tensors, sizes=ONE_HEAD)


@pytest.mark.parametrize("name", ["kda", "rwkv7"])
@pytest.mark.parametrize("levels", [0, 1, 3, 6])
def test_every_number_of_levels(name, levels, tmp_path):
    # Just below what the kernels take blocks of 2^(6 - levels) rows at once for, in fp32.
    half = 2 ** (5 - levels) if levels < 6 else 0.6
    g = torch.full((1, 66, 1, 16), -60 * math.log(2) / half * 0.99, dtype=torch.float64)
    g[:, 30:] = -0.01
    op = spec(KDA) if name == "kda" else example(name)
    tensors = {"g" if name == "kda" else "w": g}
    check(op, tmp_path, 66, 1, tensors=tensors, sizes=ONE_HEAD)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("keys", ["random", "same"])
def test_write_strengths(beta, keys, tmp_path):
    tensors = {"beta": torch.full((1, 130, 1), beta, dtype=torch.float64)}
    if keys == "same":
        generator = torch.Generator().manual_seed(3)
        key = torch.randn((1, 1, 1, 16), generator=generator, dtype=torch.float64)
        tensors["k"] = key.expand(1, 130, 1, 16).contiguous()
    # With one key and beta 2 every token reflects the state: nothing damps rounding errors.
    limit = 1e-3 if beta == 2.0 else 1e-4
    check(spec(KDA), tmp_path, 130, 1, sizes=ONE_HEAD, tensors=tensors, limit=limit)


def test_no_initial_state_and_single_seeds(tmp_path):
    check(example("kda"), tmp_path, initial=False, seeds=["o"])
    check(example("rwkv7"), tmp_path, seeds=["S_final"])


@pytest.mark.parametrize("name", ["kda", "rwkv7"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_dtypes(name, dtype, tmp_path):
    limits = {"gradient of g": 0.02, "gradient of w": 0.02, "gradient of beta": 0.02}
    limit = 0.008 if dtype == torch.bfloat16 else 0.005
    op, tensors = spec(KDA), {}
    if name == "rwkv7":
        # Other keys than normalised ones let the state grow.
        op = example(name)
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn((2, 1, 130, 2, 20), generator=generator, dtype=torch.float64)
        kk = torch.nn.functional.normalize(noise[0], dim=-1)
        tensors = {"kk": kk, "a": noise[1].sigmoid()}
    check(op, tmp_path, 130, 1, dtype=dtype, limits=limits, limit=limit, tensors=tensors)


def test_gates_above_zero(tmp_path):
    op = spec(KDA.replace("range: [-.inf, 0]", "dtype: float32"))
    noise = torch.randn((1, 130, 1, 16), generator=torch.Generator().manual_seed(3))
    for scale in (0.05, 0.5):
        check(op, tmp_path, 130, 1, tensors={"g": scale * noise.double()}, sizes=ONE_HEAD)


def test_odd_extents_in_blocks_of_their_own(tmp_path):
    check(spec(KDA), tmp_path, 70, 1, sizes={"H": 1, "K": 60, "V": 100})


ODD = {
    "decay before the erase with the write's key": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], b: [H], g: {axes: [H, K], range: [-.inf, 0]}}
        state: {S: [H, V, K]}
        let: {k: "l2norm(k, K)", b: sigmoid(b)}
        update: ["S = exp(g) * S + b * k * (v - sum(k * S, K))"]
        output: {o: "sum(q * S, K) * K ** -0.5"}
    """,
    "weaker erase, gated output": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], p: [H], z: [H, V]}
        parameters: {D: [H], A: {axes: [H, K], range: [-.inf, 0]}}
        state: {S: [H, K, V]}
        let: {k: "l2norm(k, K)", p: sigmoid(p)}
        update: ["S = exp(A) * S", "S = S + k * (v - p * sum(k * S, K))"]
        output: {o: "silu(z) * sum(q * S, K) * 0.5 + D * v"}
    """,
    "without heads": """
        inputs: {q: [K], k: [K], v: [V], a: [K], g: {axes: [K], range: [-.inf, 0]}}
        state: {S: [K, V]}
        let: {k: "l2norm(k, K)", a: "l2norm(a, K)"}
        update: ["S = exp(g) * S - a * sum(a * S, K) + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "values shared by heads": """
        inputs: {q: [K], k: [H, K], v: [H, V], g: {axes: [HV, K], range: [-.inf, 0]}}
        state: {S: [HV, K, V]}
        let: {k: "l2norm(k, K)"}
        update: ["S = exp(g) * S", "S = S + k * (v - sum(k * S, K))"]
        output: {o: "sum(q * S, K)"}
    """,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_operators(name, tmp_path):
    check(spec(ODD[name]), tmp_path)


def test_beta_of_another_dtype_of_gates(tmp_path):
    op = spec(KDA.replace("range: [-.inf, 0]", "dtype: float32, range: [-.inf, 0]"))
    limits = {"gradient of g": 0.02, "gradient of beta": 0.02}
    check(op, tmp_path, 130, 1, dtype=torch.bfloat16, limits=limits, limit=0.008)


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (
            "S + a * sum(a * S, K) + k * sum(k * S, K) + k * v",
            "A token takes several erases",
        ),
        ("S + a * sum(a * S, K) + k * v", "The decay is per value channel"),
    ],
)
def test_what_is_not_covered_says_why(update, reason):
    op = spec(f"""
        inputs: {{q: [H, K], k: [H, K], a: [H, K], v: [H, V]}}
        parameters: {{h: {{axes: [H, V], range: [-.inf, 0]}}}}
        state: {{S: [H, K, V]}}
        update: ["S = exp(h) * S", "S = {update}"]
        output: {{o: "sum(q * S, K)"}}
    """)
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == "recurrent"
    advice = "that has no chunkwise schedule yet. The operator runs token by token."
    assert schedule.notes[-1] == f"{reason}: {advice}"


def test_growth_beyond_what_an_operand_may_have(tmp_path):
    """From the middle of the chunk 2^110: cut at the limit of masked pairs, it would be wrong."""
    rise = torch.full((1, 32, 1, 16), 2.4, dtype=torch.float64)
    g = torch.cat((rise, -rise, rise[:, :6]), 1)
    op = spec(KDA.replace("{axes: [H, K], range: [-.inf, 0]}", "[H, K]"))
    check(op, tmp_path, 70, 1, tensors={"g": g}, sizes=ONE_HEAD, initial=False)
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert "fp16, for gates may be above 0" in schedule.fallback
    assert "q.dtype != torch.float16 and _vector_delta_fits" in str(schedule.forward_call)


def test_sums_have_the_parts_of_the_kernel_that_made_them(tmp_path):
    """Where decays are strong one kernel fills in what the other left out, block by block."""
    op = spec(KDA)
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    module = load(op, schedule, tmp_path, {})
    (entry,) = module.CONFIGS["vector_delta_gradients"]
    assert entry["config"]["KI"] == 32
    entry["config"]["KI"] = 64
    tensors = draw(op, 1, 20, sizes={"H": 1, "K": 128, "V": 128})
    tensors["g"] = tensors["g"] * 8
    compare(module, op, tensors, {}, limit=0.005, dtype=torch.float16)
