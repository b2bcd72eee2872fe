"""The chunkwise kernels of the linear family against the float64 interpreter, in fp32."""

import dataclasses
import textwrap
from pathlib import Path

import pytest
import torch

from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.plan.stages import SERIAL
from seqgen.spec.loader import load_spec, parse_spec
from tests.interpreted.operators import build, compare
from tests.reference.samples import draw, draw_states

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = {"H": 2, "K": 20, "V": 24, "G": 1, "N": 20, "P": 12}


def example(name):
    return lower(load_spec(EXAMPLES / f"{name}.yaml"))


def check(
    op, folder, length=70, batch=1, borders=None, sizes=None, limit=1e-4, limits=None, **options
):
    """Compare everything with the truth at small sizes; the schedule must be the chunkwise one."""
    sizes = {axis.name: {**SIZES, **(sizes or {})}[axis.name] for axis in op.axes}
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == "linear"
    tensors = draw(op, batch, length, sizes=sizes, absent=options.pop("absent", ()))
    tensors.update(options.pop("tensors", {}))
    count = batch if borders is None else len(borders) - 1
    states = draw_states(op, count, sizes=sizes) if options.pop("initial", True) else {}
    cu_seqlens = None if borders is None else torch.tensor(borders, dtype=torch.int32)
    seeds, dtype = options.pop("seeds", None), options.pop("dtype", torch.float32)
    module = build(op, schedule, folder, **{"num_warps": 4, **options})
    # Narrow tiles go token by token on a GPU; here they keep the interpreter quick.
    module._linear_fits = lambda sizes: sizes["T"] >= 16
    return compare(module, op, tensors, states, cu_seqlens, seeds, limit, limits, dtype)


@pytest.mark.parametrize(
    "name",
    [
        *("simple_gla", "linear_attention", "retnet", "lightning_attention"),
        *("mamba2_ssd", "surprise_gated_retention"),
    ],
)
def test_examples(name, tmp_path):
    check(example(name), tmp_path, batch=2)


@pytest.mark.parametrize("length", [16, 64, 65, 128])
def test_lengths(length, tmp_path):
    check(example("simple_gla"), tmp_path, length=length, batch=1)


def test_descriptors_read_what_pointers_read(tmp_path):
    sizes = {"K": 16, "V": 32}
    check(example("simple_gla"), tmp_path, length=128, sizes=sizes, descriptors=True)


def test_sizes_that_take_several_blocks(tmp_path):
    op = example("simple_gla")
    check(op, tmp_path, sizes={"H": 1, "HV": 1, "K": 40, "V": 20}, BK=16, BV=16)
    check(op, tmp_path, sizes={"H": 1, "HV": 1, "K": 20, "V": 40}, BK=16, BV=16)


@pytest.mark.parametrize("name", ["simple_gla", "mamba2_ssd"])
def test_packed_sequences(name, tmp_path):
    check(
        example(name), tmp_path, length=150, batch=1, borders=[0, 1, 65, 65, 128, 150], BK=16, BV=16
    )


@pytest.mark.parametrize("name", ["simple_gla", "mamba2_ssd", "surprise_gated_retention"])
def test_reverse(name, tmp_path):
    op = dataclasses.replace(example(name), reverse=True)
    check(op, tmp_path, length=70)
    check(op, tmp_path, length=90, batch=1, borders=[0, 20, 20, 90])


def test_reverse_by_whole_chunks(tmp_path):
    op = dataclasses.replace(example("simple_gla"), reverse=True)
    check(op, tmp_path, length=64, sizes={"K": 16, "V": 16}, descriptors=True)


@pytest.mark.parametrize(
    "gate", ["zero", "weak", "strong", "-20", "-100", "one -100", "ones -inf", "mixed"]
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
        "-100": torch.full(shape, -100.0, dtype=torch.float64),
        "one -100": torch.where(token == 70, -100.0, -noise.abs() / 50),
        "ones -inf": torch.where(noise > 1.2, -torch.inf, -noise.abs() / 50),
        "mixed": torch.where(noise > 1.0, -100.0, torch.where(noise < -1.5, -torch.inf, -0.01)),
    }[gate]
    sizes = {"K": 16, "V": 16}
    # At -100 everywhere these gradients are fp32 denormals.
    limits = {"gradient of g": 1.0, "gradient of S_0": 0.2} if gate == "-100" else {}
    op = example("simple_gla")
    check(op, tmp_path, length=130, batch=1, tensors={"g": g}, sizes=sizes, limits=limits)


def test_optional_tensors_absent(tmp_path):
    check(example("mamba2_ssd"), tmp_path, absent=("z", "D", "dt_bias"), initial=False)


def test_groups(tmp_path):
    check(example("mamba2_ssd"), tmp_path, sizes={"G": 2, "H": 4})


def test_few_tokens_and_none_run_serially(tmp_path):
    for length in (0, 1, 15):
        check(example("simple_gla"), tmp_path, length=length)


def test_only_the_final_state_has_a_gradient(tmp_path):
    check(example("simple_gla"), tmp_path, seeds=["S_final"])
    check(example("mamba2_ssd"), tmp_path, seeds=["y"])


@pytest.mark.parametrize("name", ["simple_gla", "mamba2_ssd"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_dtypes(name, dtype, tmp_path):
    limits = dict.fromkeys(("gradient of g", "gradient of A", "gradient of dt_bias"), 0.02)
    limits["gradient of dt"] = 0.02
    limit = 0.012 if dtype == torch.bfloat16 else 0.005
    check(example(name), tmp_path, 130, 1, dtype=dtype, limits=limits, limit=limit)


COMPUTED = """
operator: computed_tiles
axes:   {K: 16, V: 16}
inputs: {q: [H, K], k: [H, K], a: [H, K], v: [H, V], u: [V], i: [H]}
parameters: {b: [H, V], c: [K]}
state:  {S: [H, V, K]}
let:
  q: silu(q) * c
  f: sigmoid(i)
update: ["S = f * S + (1 - f) * tanh(k * a) * (v + u + b)"]
output: {o: "tanh(sum(q * S, K)) * f + b * v"}
"""


def test_tiles_that_are_no_tensors(tmp_path):
    op = lower(parse_spec(COMPUTED, "computed.yaml"))
    check(op, tmp_path)
    check(op, tmp_path, length=100, batch=1, borders=[0, 30, 100])


def positive(length, sizes, batch=1):
    """Queries and keys after a feature map, so that the normaliser is far from zero."""
    generator = torch.Generator().manual_seed(5)
    shape = (batch, length, sizes["H"], sizes["K"])
    return {n: torch.rand(shape, generator=generator, dtype=torch.float64) for n in ("q", "k")}


@pytest.mark.parametrize("borders", [None, [0, 20, 20, 90]])
def test_normaliser(borders, tmp_path):
    op = example("linear_attention_normalised")
    check(op, tmp_path, 90, 1, borders, tensors=positive(90, SIZES))
    check(op, tmp_path, 90, 1, borders, tensors=positive(90, SIZES), seeds=["z_final"])


FADING = """
operator: fading_average
axes:   {K: 16, V: 16}
inputs:
  q: {axes: [H, K], range: [0, .inf]}
  k: {axes: [H, K], range: [0, .inf]}
  v: [H, V]
  g: {axes: [H], range: [-.inf, 0]}
  i: {axes: [H], range: [0, 1]}
state:  {S: [H, K, V], z: [H, K]}
update: ["S = exp(g) * S + i * k * v", "z = exp(g) * z + i * k"]
output: {o: "sum(q * S, K) / (sum(q * z, K) + 1e-3)"}
"""


@pytest.mark.parametrize("borders", [None, [0, 20, 20, 90]])
def test_a_normaliser_that_fades(borders, tmp_path):
    op = lower(parse_spec(FADING, "fading.yaml"))
    check(op, tmp_path, 90, 1, borders, tensors=positive(90, SIZES))


def test_a_normaliser_beside_several_blocks_of_values(tmp_path):
    """The sums of its rows come in fewer parts."""
    op, sizes = lower(parse_spec(FADING, "fading.yaml")), {**SIZES, "V": 80}
    check(op, tmp_path, 90, 1, tensors=positive(90, sizes), sizes=sizes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_normaliser_computes_in_float32(dtype, tmp_path):
    op, tensors = example("linear_attention_normalised"), positive(90, SIZES)
    limit = 0.003 if dtype == torch.bfloat16 else 0.0004  # rounding of the results alone
    check(op, tmp_path, 90, 1, tensors=tensors, dtype=dtype, limit=limit)


HEADLESS = """
operator: headless
axes:   {K: 16, V: 16}
inputs: {q: [K], k: [K], v: [V], g: {axes: [], range: [-.inf, 0]}}
state:  {S: [K, V]}
update: ["S = exp(g) * S + k * v"]
output: {o: "sum(q * S, K)"}
"""


def test_without_heads(tmp_path):
    check(lower(parse_spec(HEADLESS, "headless.yaml")), tmp_path)


ODD = {
    "one tensor in two roles": """
        inputs: {k: [H, K], v: [H, V]}
        state: {S: [H, K, V]}
        update: ["S = S + 0.5 * k * v"]
        output: {o: "sum(k * S, K) + v"}
    """,
    "decay from the values": """
        inputs: {q: [H, K], k: [H, K], v: [H, V]}
        state: {S: [H, K, V]}
        update: ["S = exp(-sum(v * v, V) / V) * S + k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "decay from a parameter": """
        inputs: {q: [K], k: [H, K], v: [V]}
        parameters: {A: {axes: [H], range: [-.inf, 0]}, c: []}
        state: {S: [H, K, V]}
        update: ["S = exp(A) * S + c * k * v"]
        output: {o: "sum(q * S, K)"}
    """,
    "values without heads": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], f: []}
        parameters: {c: [K], w: [V]}
        state: {S: [H, K, V]}
        let: {s: "rsqrt(sum(c * c, K)) * f"}
        update: ["S = exp(-s * s) * S + s * k * v"]
        output: {o: "sum(q * c * S, K) * w + f"}
    """,
    "output gated per head": """
        inputs: {q: [H, K], k: [H, K], v: [H, V], f: [H], B: {axes: [H], optional: true}}
        state: {S: [H, K, V]}
        update: ["S = sigmoid(f) * S + k * v"]
        output: {o: "sum(q * S, K) * (sigmoid(B) if B else f)"}
    """,
    "names of the templates": """
        inputs: {h: [H, K], i: [H, K], row: [H, V], decay: {axes: [H], range: [-.inf, 0]}}
        parameters: {write: [H], sums: [H]}
        state: {chunk: [H, K, V]}
        update: ["chunk = exp(decay * exp(sums)) * chunk + write * i * row"]
        output: {output: "sum(h * chunk, K) + sums * row"}
    """,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_operators(name, tmp_path):
    text = f"operator: odd\naxes: {{K: 16, V: 16}}\n{textwrap.dedent(ODD[name])}"
    check(lower(parse_spec(text, "odd.yaml")), tmp_path)
    check(lower(parse_spec(text, "odd.yaml")), tmp_path, absent=("B",), initial=False)


def test_what_is_not_covered_says_why():
    text = """
        operator: odd
        axes: {K: 16, V: 16}
        inputs: {q: [H, K], k: [H, K], a: [H, K], v: [H, V], w: [H, V]}
        state: {S: [H, K, V]}
        update: ["S = S + k * v + a * w"]
        output: {o: "sum(q * S, K)"}
        scan: {order: reverse}
    """
    op = lower(parse_spec(textwrap.dedent(text), "odd.yaml"))
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == "scan"
    advice = f"that has no chunkwise schedule yet. The operator runs {SERIAL[schedule.name]}."
    assert schedule.notes[-1] == f"A token writes several products: {advice}"
