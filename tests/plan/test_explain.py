"""The report: exact text for one operator; every operator has one, and it fits the screen."""

import json
import re
from pathlib import Path

import pytest
from operator_table import SPECS

from seqgen._resources import templates_dir
from seqgen.build import compile_spec
from seqgen.errors import SpecError
from seqgen.gpu.table import find_gpu
from seqgen.plan.explain import FIXED, explain
from seqgen.spec.loader import load_spec, parse_spec

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
H200 = find_gpu("h200")
GATED = """\
operator: gated
about: A test.
axes: {H: 2, K: 64, V: 64}
inputs:
  q: [H, K]
  k: [H, K]
  v: [H, V]
  g: {axes: [H], dtype: float32, range: [0, 1]}
state: {S: [H, K, V]}
let: {q: "l2norm(q, K)"}
update: ["S = g*S + k*v"]
output: {o: "sum(q*S, K)"}
"""

BEFORE_SCHEDULE = """\
gated
A test.

Equations
  q = l2norm(q, K)
  S = g*S + k*v
  o = sum(q*S, K)

Normal form
  S[H, K, V]: linear (key K; value V; scalar decay)
    S = D * S + k * v
      log D    = log(max(g, 1.1754943508222875e-38))  [H]
      k        = k  [H, K]
      v        = v  [H, V]
    read_o = sum(q * S, K)
  o[H, V] = read_o

Families
  operator: linear
  S: linear (also scan, recurrent)
    its decay is used as a logarithm: where it is exactly 0 it gets no gradient

States
  S  [H, K, V]  starts at 0  32 KiB

Axes, token by token
  programs split   H, V
  must be whole    K: sum(q * q, K)
  gradients sum    dq, dk, dg over V

Schedule
"""


def test_text_up_to_the_schedule():
    text = explain(parse_spec(GATED, "gated.yaml"), H200)
    assert text[: len(BEFORE_SCHEDULE)] == BEFORE_SCHEDULE


def test_schedule_of_a_linear_operator():
    text = explain(parse_spec(GATED, "gated.yaml"), H200)
    lines = text[text.index("\nSchedule\n") : text.index("\nWork per token")].splitlines()[2:]
    assert lines[:2] == [
        "  linear: chunkwise, matrix products on chunks of 64 tokens",
        "  The token-serial kernels take decode steps, and calls with T < 16 or K or V outside"
        " 16 to 512.",
    ]
    names = [line.split()[0] for line in lines[3:]]
    assert len(names) == len(set(names)) and "linear" not in names
    assert {"linear_state", "linear_backward", "recurrent_forward"} <= set(names)
    data = json.loads(explain(parse_spec(GATED, "gated.yaml"), H200, as_json=True))
    assert data["kernels"] == names
    backwards = explain(parse_spec(GATED + "scan: {order: reverse}\n", "gated.yaml"), H200)
    assert (
        "\n  The token-serial kernels take calls with T < 16 or K or V outside 16 to 512.\n"
        in backwards
    )


def test_kernels_without_knobs_are_those_of_the_helpers():
    found = {
        (path.stem, name)
        for path in (templates_dir() / "helpers").glob("*.py")
        for name in re.findall(r"^def (\w+)_kernel\(", path.read_text(), re.MULTILINE)
    }
    assert found == set(FIXED.items())
    gla = explain(load_spec(EXAMPLES[0].parent / "gla.yaml"), H200)
    assert "vector_weights           nothing to configure" in gla
    assert "maxnreg=0" not in gla


def test_limits_are_those_of_the_generated_file():
    source = compile_spec(parse_spec(GATED, "gated.yaml"), H200).module.source
    assert 'extents = (sizes["K"], sizes["V"])' in source
    assert 'return sizes["T"] >= 16 and min(extents) >= 16 and max(extents) <= 512' in source


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "mlstm",
            "m, C and n run in two stages: first m, token by token in parallel segments, then C "
            "and n, in chunks, with front_log_fs, front_log_ii and front_m of the first as inputs.",
        ),
        ("delta_product", "Each of the R steps of a token runs as a token of its own."),
        ("mlstm", "C and n have the same decay and keys; the schedule takes them together"),
        ("normalised", "S and z have the same decay and keys; the schedule takes them together"),
        ("normalised", "Tensors in float16 or bfloat16 are converted to float32 first."),
        (
            "gsa",
            "calls with T < 16 or M or V outside 16 to 512; for the first stage also calls with "
            "T < 16 or K or M outside 16 to 512.",
        ),
    ],
)
def test_why_it_is_no_faster(name, sentence):
    assert sentence in " ".join(explain(parse_spec(SPECS[name], name), H200).split())


@pytest.mark.parametrize(
    ("update", "gate", "shown"),
    [
        ("S = exp(g)*S + k*v", "[H, K]", "g"),
        ("S = exp(g)*S + k*v", "{axes: [H, K], range: [-.inf, 0.5]}", "g"),
        ("S = exp(g)*S + k*v", "{axes: [H, K], range: [-.inf, 0]}", ""),
        ("S = exp(logsigmoid(g))*S + k*v", "[H, K]", ""),
        ("S = exp(-g)*S + k*v", "[H, V]", "-g"),
        ("S = exp(g)*S + k*v", "[H]", ""),  # kernels for one decay per token need no proof
        ("S = exp(g)*S + k*(v - sum(k*exp(g)*S, K))", "[H]", ""),
        ("S = exp(g)*S + k*(v - sum(q*S, K))", "[H]", "g"),
        ("S = exp(2*g)*S + k*(v - sum(k*exp(2*g)*S, K))", "[H, K]", "2 * g"),
    ],
)
def test_a_gate_that_may_be_above_0_is_named(update, gate, shown):
    spec = GATED.replace("{axes: [H], dtype: float32, range: [0, 1]}", gate)
    text = explain(parse_spec(spec.replace("S = g*S + k*v", update), "gated.yaml"), H200)
    text = " ".join(text.split())
    assert ("Nothing proves that" in text) == bool(shown)
    assert not shown or f"Nothing proves that the log-decay {shown} is at most 0: " in text


def test_a_normaliser_of_other_weights_is_refused_in_a_sentence():
    spec = GATED.replace("{S: [H, K, V]}", "{S: [H, K, V], z: [H, K]}")
    spec = spec.replace('"S = g*S + k*v"', '"S = g*S + k*v", "z = g*z + g*k"')
    spec = spec.replace("sum(q*S, K)", "sum(q*S, K) / (sum(q*z, K) + 1)")
    assert (
        "Z takes something else than the keys of the other state: that has no chunkwise schedule "
        "yet. The operator runs token by token in parallel segments."
    ) in " ".join(explain(parse_spec(spec, "gated.yaml"), H200).split())


def test_why_there_are_no_two_stages():
    spec = GATED.replace("{S: [H, K, V]}", "{S: [H, K, V], z: [H, K]}")
    spec = spec.replace('"S = g*S + k*v"', '"S = g*S + k*v", "z = 0.5*z + sum(v*S, V)"')
    spec = spec.replace("sum(q*S, K)", "sum(q*S, K) + sum(z, K)")
    assert (
        "There are several states, and z depends on S: that has no chunkwise schedule yet. The "
        "operator runs token by token in parallel segments."
    ) in " ".join(explain(parse_spec(spec, "gated.yaml"), H200).split())


def test_work_and_least_time():
    text = explain(parse_spec(GATED, "gated.yaml"), H200)
    work = text[text.index("Work per token") :].splitlines()
    # per head: 2 C (K + V) + 4 K V and 6 C K + 4 C V + 10 K V, C = K = V = 64
    assert work[0] == "Work per token (default sizes H=2 K=64 V=64; chunk 64; bf16)"
    assert work[2].split()[:3] == ["forward", "1,032", f"{2 * 32768:,}"]
    assert work[3].split()[:3] == ["backward", "1,808", f"{2 * 81920:,}"]
    assert work[5] == (
        "  FLOP: of the family's chunkwise form, also where the schedule is token-serial"
    )
    assert work[7] == "Least time for 32768 tokens on NVIDIA H200 (4.80 TB/s, 989 TFLOP/s bf16)"
    forward, backward = 1032 * 32768 / 4.8e12, 1808 * 32768 / 4.8e12
    assert work[8].split() == ["forward", f"{forward * 1e6:.1f}", "us", "limited", "by", "memory"]
    assert work[10].split() == ["both", f"{(forward + backward) * 1e6:.1f}", "us"]


@pytest.mark.parametrize("name", SPECS)
def test_every_operator_has_a_report(name):
    text = explain(parse_spec(SPECS[name], name), H200)
    assert text.startswith(f"{name}\n")
    assert max(map(len, text.splitlines())) <= 100
    data = json.loads(explain(parse_spec(SPECS[name], name), H200, as_json=True))
    assert f"operator: {data['family']}" in text
    assert data["kernels"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_fit_the_screen(path):
    text = explain(load_spec(path), H200)
    assert max(map(len, text.splitlines())) <= 100


def test_require_is_held():
    with pytest.raises(SpecError, match="requires family 'linear', but 'S' is in 'delta'"):
        explain(parse_spec(SPECS["deltanet"] + "require: linear\n", "spec.yaml"), H200)
