"""Products as tokens: one each, with the same results; what has to know its token stays."""

import re
import textwrap

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import draw, draw_states

from seqgen.ir.printer import show
from seqgen.passes.lower import lower
from seqgen.passes.products_as_tokens import products_as_tokens
from seqgen.passes.structure import analyse
from seqgen.reference.interpreter import run
from seqgen.spec.loader import parse_spec

INPUTS = {
    "q": "[HV, K]",
    "k": "[H, K]",
    "p": "[HV, K]",
    "v": "[HV, V]",
    "u": "[V]",
    "b": "[HV]",
    "g": "{axes: [H], range: [-.inf, 0]}",
    "gk": "{axes: [H, K], range: [-.inf, 0]}",
}


def spec(update, output="sum(q * S, K)", states="{S: [HV, K, V]}"):
    lines = ", ".join(f'"{line}"' for line in update)
    words = set(re.findall(r"\w+", f"{lines} {output}"))
    inputs = ", ".join(f"{name}: {axes}" for name, axes in INPUTS.items() if name in words)
    parameters = "parameters: {c: {axes: [HV], range: [0, 1]}}" if "c" in words else ""
    text = f"""
        operator: odd
        axes: {{K: 3, V: 3, HV: {{groups_of: H}}}}
        inputs: {{{inputs}}}
        {parameters}
        state: {states}
        update: [{lines}]
        output: {{o: "{output}"}}
    """
    return lower(parse_spec(textwrap.dedent(text), "odd.yaml"))


def tokens(op):
    return products_as_tokens(op, analyse(op))


def in_tokens(micro, tensors, states, borders):
    """What a call of the operator is on its products: values repeated, flags, the last output."""
    steps = micro.count
    inputs = {t.name for t in micro.recurrence.inputs}
    given = {n: t.repeat_interleave(steps, 1) if n in inputs else t for n, t in tensors.items()}
    batch, length = tensors["q"].shape[:2]
    for name, number in micro.flags:
        given[name] = (torch.arange(length * steps) % steps == number).double().expand(batch, -1)
    outputs, finals = run(
        micro.recurrence, given, states, borders if borders is None else borders * steps
    )
    return {name: value[:, steps - 1 :: steps] for name, value in outputs.items()}, finals


def check(op, borders=None):
    """Outputs, final states and all gradients of the products are those of the whole."""
    micro = tokens(op)
    assert micro is not None
    structure = analyse(micro.recurrence)
    assert structure.family == "linear"
    assert all(len(c.step.writes) == 1 for c in structure.components)
    tensors = draw(op, 2 if borders is None else 1, 5)
    states = draw_states(op, 2)
    cu_seqlens = None if borders is None else torch.tensor(borders)
    leaves = [t.requires_grad_() for t in (*tensors.values(), *states.values())]
    found = []
    for outputs, finals in (
        run(op, tensors, states, cu_seqlens),
        in_tokens(micro, tensors, states, cu_seqlens),
    ):
        results = [*outputs.values(), *finals.values()]
        loss = sum((r * (1.0 + torch.arange(r.numel()).view(r.shape))).sum() for r in results)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        found.append([*results, *(torch.zeros(()) if g is None else g for g in gradients)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("borders", [None, [0, 2, 5]])
def test_two_products(borders):
    op = spec(["S = exp(g) * S + b * k * v + p * u"])
    check(op, borders)
    recurrence = tokens(op).recurrence
    (component,) = analyse(recurrence).components
    assert show(component.log_decay) == "where(product_1 > 0, g, 0)"


DECAYS = ["", "c * ", "exp(g) * ", "exp(gk) * ", "exp(-abs(u)) * "]
KEYS = ["k", "p", "b * k", "k * p", "tanh(p)", "0.5"]
VALUES = ["v", "u", "b * v", "-2 * u", "v * u", "b"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(DECAYS),
    st.lists(
        st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)),
        min_size=2,
        max_size=4,
        unique=True,
    ),
)
def test_random_products(decay, products):
    check(spec([f"S = {decay}S" + "".join(f" + {k} * ({v})" for k, v in (("p", "v"), *products))]))


def test_a_normaliser_has_its_products_too():
    op = spec(
        ["S = exp(g) * S + b * k * v + p * v", "n = exp(g) * n + b * k + p"],
        "sum(q * S, K) / max(abs(sum(q * n, K)), 1)",
        "{S: [HV, K, V], n: [HV, K]}",
    )
    check(op)
    assert analyse(tokens(op).recurrence).fused == (("S", "n"),)


def test_what_the_token_makes_of_its_state():
    check(spec(["S = exp(g) * S + k * v + p * u", "r = sum(q * S, K)"], "r * v"))
    check(spec(["S = S + k * v", "S = exp(g) * S", "S = S + p * u"]))


def test_names_that_are_taken():
    op = spec(["product_1 = b * v", "S = S + k * product_1 + p * u"])
    assert tokens(op).flags == (("product_1_", 0),)
    check(op)


@pytest.mark.parametrize(
    ("update", "output", "states"),
    [
        (["S = S + k * v"], "sum(q * S, K)", "{S: [HV, K, V]}"),
        (["S = S + k * v + p * prev(v)"], "sum(q * S, K)", "{S: [HV, K, V]}"),
        (["S = S + position() * k * v + p * v"], "sum(q * S, K)", "{S: [HV, K, V]}"),
        (["S = S + k * v + p * u"], "sum(q * prev(S), K)", "{S: [HV, K, V]}"),
        (
            ["S = S + k * v", "r = sum(q * S, K)", "S = S + p * u"],
            "r + sum(q * S, K)",
            "{S: [HV, K, V]}",
        ),
        (["S = S + k * (v - sum(k * S, K)) + p * u"], "sum(q * S, K)", "{S: [HV, K, V]}"),
        (
            ["A = A + k * v + p * u", "S = S + sum(q * A, K) * p"],
            "sum(q * S, K)",
            "{A: [HV, K, V], S: [HV, K, V]}",
        ),
    ],
)
def test_what_has_to_know_its_token(update, output, states):
    assert tokens(spec(update, output, states)) is None
