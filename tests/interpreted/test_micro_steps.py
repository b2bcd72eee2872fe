"""Tokens of several micro-steps on chunkwise kernels, in the interpreter."""

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

SIZES = {"R": 2}
STEP = 'repeat: R, do: ["S = S + beta * k * (v - sum(k * S, K))"]'


def spec(update, output="sum(q * S, K)"):
    text = f"""
        operator: odd
        axes: {{K: 16, V: 16, R: 2}}
        inputs:
          q: [H, K]
          k: [H, R, K]
          v: [R, H, V]
          g: {{axes: [H], range: [-.inf, 0]}}
          beta: {{axes: [R, H], optional: true, default: 0.25}}
        parameters: {{c: {{axes: [H], range: [0, 1]}}}}
        state: {{S: [H, K, V]}}
        let: {{k: "l2norm(k, K)", q: q * c * exp(g)}}
        update: {update}
        output: {{o: "{output}"}}
    """
    return lower(parse_spec(textwrap.dedent(text), "odd.yaml"))


check = partial(check_chunkwise, "delta", sizes=SIZES)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 70])
def test_gated_delta_product(length, tmp_path):
    check(example("gated_delta_product"), tmp_path, length=length, batch=1)


def test_packed_sequences(tmp_path):
    check(example("gated_delta_product"), tmp_path, 80, 1, borders=[0, 17, 17, 49, 80])


def test_no_initial_state_and_single_seeds(tmp_path):
    check(example("gated_delta_product"), tmp_path, initial=False, seeds=["o"])
    check(example("gated_delta_product"), tmp_path, seeds=["S_final"])


def test_half_dtypes(tmp_path):
    op = example("gated_delta_product")
    check(op, tmp_path, 70, 1, dtype=torch.bfloat16, limit=0.008, limits={"gradient of g": 0.02})


ODD = {
    "decay behind the steps": [STEP, "S = exp(g) * S"],
    "decays on both sides": ["S = c * S", STEP, "S = exp(g) * S"],
    "optional beta": ["S = exp(g) * S", STEP],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_operators(name, tmp_path):
    update = ", ".join(f"{{{x}}}" if "repeat" in x else f'"{x}"' for x in ODD[name])
    op = spec(f"[{update}]")
    check(op, tmp_path)
    check(op, tmp_path, absent=("beta",), initial=False)


@pytest.mark.parametrize(
    ("update", "output"),
    [
        (f"[{{{STEP}}}]", "sum(q * prev(S), K)"),
        (f'["seen = sum(q * S, K)", {{{STEP}}}]', "seen + sum(q * S, K)"),
        (f"[{{{STEP}}}, {{{STEP}}}]", "sum(q * S, K)"),
    ],
)
def test_what_stands_between_tokens_stays_token_by_token(update, output):
    op = spec(update, output)
    assert op.micro is None
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert schedule.name == "recurrent"
    assert "A token takes several steps" in schedule.notes[-1]


def test_a_reversed_scan_keeps_the_order_of_its_steps():
    op = dataclasses.replace(example("gated_delta_product"), reverse=True)
    assert choose_schedule(op, analyse(op), find_gpu("h200")).name == "recurrent"
