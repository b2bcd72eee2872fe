"""Operators in two stages: earlier states give what the chunkwise kernels of later ones take."""

import dataclasses
import textwrap

import pytest
import torch

from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.spec.loader import parse_spec
from tests.interpreted.operators import SIZES as DEFAULT
from tests.interpreted.operators import build, check_chunkwise, example, serve_narrow_tiles
from tests.reference.samples import draw

SCHEDULES = {"mlstm": "linear", "preconditioned_delta": "vector_delta", "gsa": "vector"}
SCHEDULES["abc"] = "vector"
SIZES = {"M": 20}


def check(name, folder, *args, reverse=False, **options):
    op = dataclasses.replace(example(name), reverse=reverse)
    return check_chunkwise(SCHEDULES[name], op, folder, *args, sizes=SIZES, **options)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("length", [1, 65])
def test_everything(name, length, tmp_path):
    check(name, tmp_path, length, 1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_packed_and_reversed(name, tmp_path):
    check(name, tmp_path, 130, 1, borders=[0, 17, 17, 90, 130], reverse=True)


@pytest.mark.parametrize(("name", "last"), [("mlstm", "C"), ("gsa", "Hk")])
def test_no_initial_state_and_single_seeds(name, last, tmp_path):
    check(name, tmp_path, initial=False, seeds=[example(name).outputs[0].name])
    check(name, tmp_path, 20, seeds=[f"{last}_final"])


EXTREMES = {
    "mlstm": {"i": (-60.0, 60.0), "f": (-100.0, 30.0)},
    "preconditioned_delta": {"g_a": (-30.0, 0.0), "g": (-100.0, 0.0), "beta_a": (0.01, 99.0)},
    "gsa": {"g": (-200.0, 0.0)},
    "abc": {"s": (-80.0, 80.0)},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_extreme_gates(name, tmp_path):
    """Every other entry at an end of the range: nothing overflows, and no gradient is lost."""
    op = example(name)
    sizes = {**DEFAULT, **SIZES}
    tensors = draw(op, 1, 70, sizes=sizes)
    for gate, (low, high) in EXTREMES[name].items():
        share = torch.rand(tensors[gate].shape, generator=torch.Generator().manual_seed(3)).double()
        share = torch.where(share < 0.25, 0.0, torch.where(share > 0.75, 1.0, share))
        tensors[gate] = low + (high - low) * share
    found = check(name, tmp_path, 70, 1, tensors=tensors, initial=False, limit=5e-4)
    assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("name", ["mlstm", "preconditioned_delta"])
def test_half_dtypes(name, tmp_path):
    gates = {f"gradient of {n}": 0.03 for n in ("i", "f", "g", "g_a", "beta_a", "beta", "center")}
    states = {f"gradient of {n}_0": 0.03 for n in ("m", "A", "z", "Hk")}
    check(name, tmp_path, 70, 1, dtype=torch.bfloat16, limit=0.015, limits={**gates, **states})


@pytest.mark.parametrize(("name", "length"), [("mlstm", 70), ("gsa", 70), ("abc", 20)])
def test_gradients_do_not_depend_on_what_is_kept(name, length, tmp_path, monkeypatch):
    op = example(name)
    module = build(op, choose_schedule(op, analyse(op), find_gpu("h200")), tmp_path, num_warps=4)
    serve_narrow_tiles(module)
    sizes = {**DEFAULT, **SIZES}
    leaves = {n: t.float().requires_grad_() for n, t in draw(op, 1, length, sizes=sizes).items()}

    def gradients(keep):
        monkeypatch.setattr(module, "KEEP", keep)
        output, _ = getattr(module, name)(**leaves)
        return torch.autograd.grad(output.sum(), leaves.values())

    kept = gradients(2)
    assert all(map(torch.equal, kept, gradients(1)))
    assert all(map(torch.equal, kept, gradients(0)))


def spec(inputs, states, update, output):
    text = f"""
        operator: odd
        axes: {{K: 16, V: 16, W: 16, R: 2}}
        inputs: {inputs}
        parameters: {{c: {{axes: [H], range: [0, 1]}}}}
        state: {states}
        update: {update}
        output: {output}
    """
    return lower(parse_spec(textwrap.dedent(text), "odd.yaml"))


ODD = {
    "a chunkwise first stage": (
        "linear",
        "{q: [H, K], k: [H, K], v: [H, V], w: [H, W]}",
        "{A: [H, K, V], S: [H, V, W]}",
        ["A = A + k * v", "S = c * S + sum(q * A, K) * w"],
        '{o: "sum(v * S, V)"}',
    ),
    "a first stage that has stages": (
        "vector",
        "{q: [H, K], k: [H, K], v: [H, V], w: [H, W]}",
        "{z: [H], A: [H, K, V], S: [H, V, W]}",
        ["z = c * z + sum(k, K) * K ** -1", "A = A + tanh(z) * k * v",
         "S = exp(-abs(v)) * S + 0.1 * sum(q * A, K) * w"],
        '{o: "sum(v * S, V)"}',
    ),
    "an optional input of both, an output of the first": (
        "linear",
        "{q: [H, K], k: [H, K], v: [H, V], b: {axes: [H], optional: true, default: 0.5}}",
        "{A: [H, K], S: [H, K, V]}",
        ["A = c * A + b * k", "S = c * S + tanh(A) * b * v"],
        '{o: "sum(q * S, K)", p: "A * c"}',
    ),
    "what crosses is an output": (
        "linear",
        "{q: [H, K], k: [H, K], v: [H, V]}",
        "{A: [H, K], S: [H, K, V]}",
        ["A = c * A + k", "S = S + A * v"],
        '{o: "sum(q * S, K)", p: "A"}',
    ),
    "a first stage in float32": (
        "linear",
        "{q: [H, K], g: {axes: [H, K], dtype: float32}, v: [H, V]}",
        "{A: [H, K], S: [H, K, V]}",
        ["A = c * A + g", "S = S + tanh(A) * v"],
        '{o: "sum(q * S, K)"}',
    ),
    "stages that share nothing": (
        "linear",
        "{q: [H, K], k: [H, K], v: [H, V]}",
        "{A: [H, K], S: [H, K, V]}",
        ["A = c * A + k", "S = S + k * v"],
        '{o: "sum(q * S, K)", p: "A"}',
    ),
    "micro-steps": (
        "delta",
        "{q: [H, K], k: [H, R, K], v: [R, H, V], w: [H]}",
        "{A: [H], S: [H, K, V]}",
        ["A = c * A + w", "S = c * S",
         {"R": "S = S + 0.05 * k * (v * tanh(A) - sum(k * S, K))"}],
        '{o: "sum(q * S, K)"}',
    ),
    "a token shift": (
        "delta",
        "{q: [H, K], k: [H, K], v: [H, V]}",
        "{S: [H, K, V]}",
        ["kk = k + c * prev(k)", "S = S + kk * (v - sum(kk * S, K)) * 0.05"],
        '{o: "sum(q * S, K)"}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_operators(name, tmp_path):
    schedule, inputs, states, update, output = ODD[name]
    lines = [
        f'{{repeat: R, do: ["{line["R"]}"]}}' if isinstance(line, dict) else f'"{line}"'
        for line in update
    ]
    op = spec(inputs, states, f"[{', '.join(lines)}]", output)
    sizes = {"W": 20, "K": 20, "V": 20, "R": 2}
    check_chunkwise(schedule, op, tmp_path, 70, 1, sizes=sizes)
    bf16 = {"dtype": torch.bfloat16, "limit": 0.03}
    check_chunkwise(schedule, op, tmp_path, 70, 1, sizes=sizes, **bf16)
    if "b" in {t.name for t in op.tensors}:
        check_chunkwise(schedule, op, tmp_path, 20, 1, sizes=sizes, absent=("b",))
