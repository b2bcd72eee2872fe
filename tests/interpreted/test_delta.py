"""The chunkwise kernels of the delta family against the float64 interpreter, in fp32."""

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

SMALL = {"K": 16, "V": 16}


def spec(text, name="odd"):
    text = f"operator: {name}\naxes: {{K: 16, V: 16}}\n{textwrap.dedent(text)}"
    return lower(parse_spec(text, f"{name}.yaml"))


check = partial(check_chunkwise, "delta")


@pytest.mark.parametrize("name", ["delta_rule", "gated_delta_rule"])
def test_examples(name, tmp_path):
    check(example(name), tmp_path, batch=2)


@pytest.mark.parametrize("length", [1, 16, 63, 64, 65, 130])
def test_lengths(length, tmp_path):
    check(example("gated_delta_rule"), tmp_path, length=length, batch=1)


def test_descriptors_read_what_pointers_read(tmp_path):
    sizes = {"K": 16, "V": 32}
    check(example("gated_delta_rule"), tmp_path, length=128, sizes=sizes, descriptors=True)


def test_sizes_that_take_several_blocks(tmp_path):
    op = example("gated_delta_rule")
    check(op, tmp_path, sizes={"H": 1, "HV": 2, "K": 40, "V": 20}, BK=16, BV=16)
    check(op, tmp_path, sizes={"H": 1, "HV": 1, "K": 20, "V": 40}, BK=16, BV=16)


def test_packed_sequences(tmp_path):
    op = example("gated_delta_rule")
    check(op, tmp_path, length=150, batch=1, borders=[0, 1, 65, 65, 128, 150], BK=16, BV=16)


def test_reverse(tmp_path):
    op = dataclasses.replace(example("gated_delta_rule"), reverse=True)
    check(op, tmp_path, length=70)
    check(op, tmp_path, length=90, batch=1, borders=[0, 20, 20, 90])
    check(op, tmp_path, length=64, sizes=SMALL, descriptors=True)


def test_grouped_heads(tmp_path):
    check(example("gated_delta_rule"), tmp_path, sizes={"H": 2, "HV": 4, **SMALL})


@pytest.mark.parametrize(
    "gate", ["zero", "weak", "strong", "-20", "one -100", "ones -inf", "mixed"]
)
def test_gates(gate, tmp_path):
    shape = (1, 130, 2)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    token = torch.arange(130)[None, :, None]
    g = {
        "zero": torch.zeros(shape, dtype=torch.float64),
        "weak": -noise.abs() / 100,
        "strong": -noise.abs() * 8,
        "-20": torch.full(shape, -20.0, dtype=torch.float64),
        "one -100": torch.where(token == 70, -100.0, -noise.abs() / 50),
        "ones -inf": torch.where(noise > 1.2, -torch.inf, -noise.abs() / 50),
        "mixed": torch.where(noise > 1.0, -100.0, torch.where(noise < -1.5, -torch.inf, -0.01)),
    }[gate]
    op = example("gated_delta_rule")
    check(op, tmp_path, length=130, batch=1, tensors={"g": g}, sizes=SMALL)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("keys", ["random", "same"])
def test_write_strengths(beta, keys, tmp_path):
    tensors = {"beta": torch.full((1, 130, 2), beta, dtype=torch.float64)}
    if keys == "same":
        generator = torch.Generator().manual_seed(3)
        key = torch.randn((1, 1, 2, 16), generator=generator, dtype=torch.float64)
        tensors["k"] = key.expand(1, 130, 2, 16).contiguous()
    # With one key and beta 2 every token reflects the state: nothing damps rounding errors.
    limit = 1e-3 if beta == 2.0 else 1e-4
    check(example("delta_rule"), tmp_path, 130, 1, sizes=SMALL, tensors=tensors, limit=limit)


def test_no_initial_state_and_single_seeds(tmp_path):
    op = example("gated_delta_rule")
    check(op, tmp_path, initial=False, seeds=["o"])
    check(op, tmp_path, seeds=["S_final"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_dtypes(dtype, tmp_path):
    limits = {"gradient of g": 0.02, "gradient of beta": 0.02}
    limit = 0.008 if dtype == torch.bfloat16 else 0.005
    check(example("gated_delta_rule"), tmp_path, 130, 1, dtype=dtype, limits=limits, limit=limit)


ODD = {
    "plain keys, decay per head": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], b: {axes: [H], range: [0, 1]}}
        parameters: {A: {axes: [H], range: [-.inf, 0]}}
        state: {S: [H, K, V]}
        let: {k: "k / K"}
        update: ["S = exp(A) * S", "S = S + b * k * (v - sum(k * S, K))"]
        output: {o: "sum(q * S, K) * K ** -0.5"}
    """,
    "nothing but tensors": """
        inputs: {q: [H, K], k: [H, K], v: [H, V]}
        state: {S: [H, V, K]}
        let: {k: "l2norm(k, K)"}
        update: ["S = S + k * (v - sum(k * S, K))"]
        output: {o: "sum(q * S, K)"}
    """,
    "weaker erase, gated output": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], b: [H], p: [H], z: [H, V]}
        parameters: {D: [H]}
        state: {S: [H, K, V]}
        let: {k: "l2norm(k, K)", b: sigmoid(b), p: sigmoid(p), q: "l2norm(q, K)"}
        update: ["S = exp(-b) * S", "S = S + b * k * (v - p * sum(k * S, K))"]
        output: {o: "silu(z) * sum(q * S, K) * 0.5 + D * v"}
    """,
    "computed tiles": """
        inputs: {q: [K], k: [H, K], v: [H, V], b: [H], c: [H]}
        parameters: {w: [V]}
        state: {S: [H, K, V]}
        let: {k: "l2norm(silu(k), K)", b: sigmoid(b)}
        update: ["S = S + b * k * (c * tanh(v + w) - sum(k * S, K))"]
        output: {o: "sum(tanh(q) * S, K)"}
    """,
    "norms with other factors, a gate made of keys": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], b: [H], c: [H]}
        state: {S: [H, K, V]}
        let:
          g: "-softplus(sum(k, K) / K)"
          n: "0.5 * l2norm(k, K, 0.1)"
          b: sigmoid(b)
          q: "sigmoid(c) * l2norm(q, K)"
        update: ["S = exp(g) * S", "S = S + b * n * (v - 2 * sum(n * S, K))"]
        output: {o: "sum(q * S, K)"}
    """,
    "a norm written twice in the update": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], b: [H]}
        state: {S: [H, K, V]}
        update: ["S = S + b * l2norm(k, K) * (v - sum(l2norm(k, K) * S, K))"]
        output: {o: "sum(q * S, K)"}
    """,
    "a norm of queries only": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], b: {axes: [H], range: [0, 1]}}
        state: {S: [H, K, V]}
        let: {k: "k / K", q: "l2norm(q, K)"}
        update: ["S = S + b * k * (v - sum(k * S, K))"]
        output: {o: "sum(q * S, K)"}
    """,
    "without heads": """
        inputs: {q: [K], k: [K], v: [V], g: {axes: [], range: [-.inf, 0]}}
        state: {S: [K, V]}
        let: {k: "l2norm(k, K)"}
        update: ["S = exp(g) * S", "S = S + k * (v - sum(k * S, K))"]
        output: {o: "sum(q * S, K)"}
    """,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_operators(name, tmp_path):
    check(spec(ODD[name]), tmp_path)


def test_an_erase_with_another_key_goes_to_the_schedule_that_has_both():
    op = spec("""
        inputs: {q: [H, K], k: [H, K], a: [H, K], v: [H, V]}
        state: {S: [H, K, V]}
        update: ["S = S + k * (v - sum(a * S, K))"]
        output: {o: "sum(q * S, K)"}
    """)
    assert choose_schedule(op, analyse(op), find_gpu("h200")).name == "vector_delta"
