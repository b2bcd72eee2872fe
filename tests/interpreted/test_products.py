"""Tokens that write several products on chunkwise kernels, in the interpreter."""

import dataclasses
import re
import textwrap

import pytest
import torch

from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.spec.loader import parse_spec
from tests.interpreted.operators import build, check_chunkwise, example, serve_narrow_tiles
from tests.reference.samples import draw

MAMBA3 = {"H": 2, "R": 10, "N": 20, "P": 24}


def check_mamba3(folder, *args, **options):
    return check_chunkwise("linear", example("mamba3"), folder, *args, sizes=MAMBA3, **options)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 71])
def test_mamba3(length, tmp_path):
    check_mamba3(tmp_path, length, 1)


def test_packed_sequences(tmp_path):
    check_mamba3(tmp_path, 80, 1, borders=[0, 17, 17, 49, 80])


def test_no_initial_state_and_single_seeds(tmp_path):
    check_mamba3(tmp_path, 40, initial=False, seeds=["y"])
    check_mamba3(tmp_path, 20, seeds=["S_final"])


def test_extreme_gates(tmp_path):
    """Every other decay at an end of its range: the write of the token before is lost with it."""
    generator = torch.Generator().manual_seed(3)
    share = torch.rand((1, 71, 2), generator=generator, dtype=torch.float64)
    gate = torch.where(share < 0.3, -torch.inf, torch.where(share > 0.7, 0.0, -200.0 * share))
    found = check_mamba3(tmp_path, 71, 1, tensors={"a": gate})
    assert all(torch.isfinite(value).all() for value in found.values())


def test_half_dtypes(tmp_path):
    limits = {f"gradient of {name}": 0.03 for name in ("dt", "a", "lam", "th_0")}
    check_mamba3(tmp_path, 71, 1, dtype=torch.bfloat16, limit=0.015, limits=limits)


def test_gradients_do_not_depend_on_what_is_kept(tmp_path, monkeypatch):
    op = example("mamba3")
    module = build(op, choose_schedule(op, analyse(op), find_gpu("h200")), tmp_path, num_warps=4)
    serve_narrow_tiles(module)
    leaves = {n: t.float().requires_grad_() for n, t in draw(op, 1, 40, sizes=MAMBA3).items()}

    def gradients(keep):
        monkeypatch.setattr(module, "KEEP", keep)
        output, _ = module.mamba3(**leaves)
        return torch.autograd.grad(output.sum(), leaves.values())

    kept = gradients(2)
    assert all(map(torch.equal, kept, gradients(1)))
    assert all(map(torch.equal, kept, gradients(0)))


INPUTS = {
    "q": "[H, K]",
    "k": "[H, K]",
    "p": "[HV, K]",
    "v": "[HV, V]",
    "u": "[HV, V]",
    "kr": "[H, R, K]",
    "vr": "[R, HV, V]",
    "b": "{axes: [HV], optional: true, default: 0.5}",
    "g": "{axes: [H], range: [-.inf, 0]}",
    "gk": "{axes: [H, K], range: [-.inf, 0]}",
    "gv": "{axes: [HV, V], range: [-.inf, 0]}",
}
READ = "sum(q * S, K)"
MATRIX = "{S: [HV, K, V]}"


def spec(update, output=READ, states=MATRIX):
    words = re.findall(r"\w+", f"{update} {output}")
    inputs = ", ".join(f"{name}: {axes}" for name, axes in INPUTS.items() if name in words)
    sizes = "K: 16, V: 16, R: 2" if "R" in words else "K: 16, V: 16"
    text = f"""
        operator: odd
        axes: {{{sizes}, HV: {{groups_of: H}}}}
        inputs: {{{inputs}}}
        state: {states}
        update: {update}
        output: {{o: "{output}"}}
    """
    return lower(parse_spec(textwrap.dedent(text), "odd.yaml"))


ODD = {
    "one decay, grouped heads": ("linear", '["S = exp(g) * S + b * k * v + p * u"]'),
    "no decay, three products": ("linear", '["S = S + k * v + p * u - b * k * u"]'),
    "a decay per key channel": ("vector", '["S = exp(gk) * S + k * v + b * p * u"]'),
    "a decay per value channel": ("transposed", '["S = exp(gv) * S + k * v + p * u"]'),
    "decays on both axes": ("key_value", '["S = exp(gk) * exp(gv) * S + k * v + p * u"]'),
    "a normaliser": (
        "linear",
        '["S = exp(g) * S + b * k * v + p * v", "n = exp(g) * n + b * k + p"]',
        "sum(q * S, K) / max(abs(sum(q * n, K)), 1)",
        "{S: [HV, K, V], n: [HV, K]}",
    ),
    "products of micro-steps": (
        "linear",
        '["S = exp(g) * S", {repeat: R, do: ["S = S + kr * vr + b * p * vr"]}]',
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_operators(name, tmp_path):
    schedule, *parts = ODD[name]
    op = spec(*parts)
    sizes = {"HV": 4, "R": 2}
    check_chunkwise(schedule, op, tmp_path, 37, 1, sizes=sizes)
    check_chunkwise(schedule, op, tmp_path, 50, 1, borders=[0, 17, 17, 50], sizes=sizes)
    if "b" in {t.name for t in op.inputs}:
        absent = {"absent": ("b",), "initial": False}
        check_chunkwise(schedule, op, tmp_path, 20, 1, sizes=sizes, **absent)


def test_a_reversed_scan_stays_token_by_token():
    op = dataclasses.replace(spec('["S = exp(g) * S + k * v + p * u"]'), reverse=True)
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == "scan"
    assert "A token writes several products" in schedule.notes[-1]
