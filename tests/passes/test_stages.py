"""A recurrence cut in two is the same recurrence; little crosses; what cannot be cut says why."""

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from samples import draw, draw_states, small_sizes
from strategies import recurrence_of, staged_specs

from seqgen.ir.printer import show
from seqgen.passes.lower import lower
from seqgen.passes.stages import NotStagedError, cut_stages
from seqgen.passes.structure import analyse
from seqgen.reference.interpreter import run
from seqgen.spec.loader import load_spec, parse_spec

EXAMPLES = Path(__file__).parents[2] / "examples"


def cut(recurrence, bare=False):
    return cut_stages(recurrence, analyse(recurrence), bare)


def example(name):
    return lower(load_spec(EXAMPLES / f"{name}.yaml"))


def sized(recurrence, sizes):
    """With these default sizes: a stage need not have a tensor over every axis of the whole."""
    axes = tuple(replace(axis, size=sizes[axis.name]) for axis in recurrence.axes)
    return replace(recurrence, axes=axes)


def in_stages(stages, tensors, states, cu_seqlens, sizes):
    given, finals = run(sized(stages.front, sizes), tensors, states, cu_seqlens)
    taken = {**tensors, **given}
    outputs, late = run(sized(stages.rest, sizes), taken, states, cu_seqlens)
    return {**given, **outputs}, {**finals, **late}


def check(recurrence, stages, borders=None, **options):
    """Outputs, final states and all gradients of the stages are those of the whole."""
    tensors = draw(recurrence, 2 if borders is None else 1, 5, **options)
    states = draw_states(recurrence, 2)
    cu_seqlens = None if borders is None else torch.tensor(borders)
    leaves = [t.requires_grad_() for t in (*tensors.values(), *states.values())]
    sizes = small_sizes(recurrence)
    whole = run(sized(recurrence, sizes), tensors, states, cu_seqlens)
    parts = in_stages(stages, tensors, states, cu_seqlens, sizes)
    found = []
    for outputs, finals in (whole, parts):
        results = [outputs[o.name] for o in recurrence.outputs]
        results += [finals[s.name] for s in recurrence.states if s.name != "position"]
        loss = sum((r * (1.0 + torch.arange(r.numel()).view(r.shape))).sum() for r in results)
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        found.append([*results, *(torch.zeros(()) if g is None else g for g in gradients)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["mlstm", "preconditioned_delta", "gsa", "abc", "mamba3"])
@pytest.mark.parametrize("borders", [None, [0, 2, 5]])
def test_stages_are_the_whole(name, borders):
    op = example(name)
    check(op, cut(op), borders)


@pytest.mark.parametrize("name", ["gsa", "abc"])
def test_bare_reads_cross_and_the_rest_names_what_it_makes_of_them(name):
    op = example(name)
    stages = cut(op, bare=True)
    values = {o.name: show(o.value) for o in stages.front.outputs}
    assert values["front_arg1"] == "arg1"
    made = {a.name: show(a.value) for a in stages.rest.let}
    assert made["front_1"] == "arg2 / sum(arg2, M)"
    assert show(stages.rest.outputs[0].value) == "sum(front_1 * Hv, M)"
    check(op, stages)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(staged_specs())
def test_random_stages_are_the_whole(text):
    op = recurrence_of(text)
    try:
        stages = cut(op)
    except NotStagedError:
        stages = None
    assume(stages is not None)
    assert stages.front.states and [s.name for s in stages.rest.states] == ["S"]
    check(op, stages)


@pytest.mark.parametrize(
    ("name", "crossing"),
    [
        (
            "mlstm",
            {
                "front_log_fs[H] float32 <= 0": "lf + m_prev - m",
                "front_log_is_[H] float32 <= 0": "i - m",
                "front_m[H] float32": "m",
            },
        ),
        ("preconditioned_delta", {"front_kp[H, K] float32": "kp"}),
        ("gsa", {"front_1[H, M] float32 <= 1": "arg2 / sum(arg2, M)"}),
        (
            "abc",
            {
                "front_log_keep[H, M] float32 <= 0": "z_prev - z",
                "front_take[H, M] float32 <= 1": "take",
                "front_1[H, M] float32 <= 1": "arg2 / sum(arg2, M)",
            },
        ),
    ],
)
def test_what_crosses(name, crossing):
    """Few and small tensors; decays as logarithms, in float32, and known to be none above one."""
    stages = cut(example(name))
    values = {output.name: show(output.value) for output in stages.front.outputs}
    found = {
        f"{t.name}[{', '.join(t.axes)}]"
        + (f" {t.dtype}" if t.dtype else "")
        + (f" <= {t.range[1]:g}" if t.range else ""): values[t.name]
        for t in stages.crossing
    }
    assert found == crossing


INPUTS = {"q": "[H, K]", "k": "[H, K]", "v": "[H, V]", "b": "[H]", "front_A": "[H]"}


def spec(update, output, states="{A: [H, K], S: [H, K, V]}"):
    words = re.findall(r"\w+", update + output)
    inputs = ", ".join(f"{n}: {axes}" for n, axes in INPUTS.items() if n in words)
    text = f"""
        operator: odd
        axes: {{K: 16, V: 16}}
        inputs: {{{inputs}}}
        state: {states}
        update: {update}
        output: {output}
    """
    return lower(parse_spec(textwrap.dedent(text), "odd.yaml"))


READ = '{o: "sum(q * S, K)"}'


def test_outputs_of_earlier_states_are_the_front_s():
    op = spec('["A = 0.5 * A + k", "S = S + tanh(A) * v"]', '{o: "sum(q * S, K)", p: "A * b"}')
    stages = cut(op)
    assert [o.name for o in stages.front.outputs] == ["front_1", "p"]
    assert [o.name for o in stages.rest.outputs] == ["o"]
    check(op, stages)


def test_an_output_that_crosses():
    op = spec('["A = 0.5 * A + k", "S = S + A * v"]', '{o: "sum(q * S, K)", p: "A"}')
    stages = cut(op)
    assert [t.name for t in stages.crossing] == [o.name for o in stages.front.outputs] == ["p"]
    check(op, stages)


def test_a_name_that_is_taken():
    op = spec('["A = 0.5 * A + k", "S = S + A * v * front_A"]', READ)
    assert [t.name for t in cut(op).crossing] == ["front_A_"]
    check(op, cut(op))


def test_a_gate_crosses_as_what_it_is_made_of():
    """The rest finds its exact logarithm, for keys and as it is written."""
    op = spec('["A = 0.5 * A + k", "S = (1 - sigmoid(A)) * S + k * v"]', READ)
    (tensor,) = cut(op).crossing
    assert (tensor.name, tensor.axes, tensor.dtype) == ("front_A", ("H", "K"), "float32")
    (component,) = analyse(cut(op).rest).components
    assert component.log_decay is not None and show(component.log_decay) == "logsigmoid(-front_A)"
    check(op, cut(op))


def test_the_small_factor_crosses_and_not_the_product():
    op = spec('["A = 0.5 * A + b", "S = S + exp(-A) * k * v"]', READ, "{A: [H], S: [H, K, V]}")
    (tensor,) = cut(op).crossing
    assert (tensor.name, tensor.axes, tensor.dtype) == ("front_A", ("H",), "float32")


@pytest.mark.parametrize(
    ("update", "states", "output", "reason"),
    [
        (
            '["S = S + k * v", "A = A * 0.5 + sum(v * S, V)"]',
            "{S: [H, K, V], A: [H, K]}",
            '{o: "sum(q * S, K)", p: "A"}',
            "A depends on S",
        ),
        (
            '["c = position()", "S = S + c * k * v"]',
            "{S: [H, K, V]}",
            READ,
            "the earlier ones take no tensor of their own",
        ),
        (
            '["A = 0.5 * A + k", "B = 0.5 * B + v", "S = S + A * B"]',
            "{A: [H, K], B: [H, V], S: [H, K, V]}",
            '{o: "sum(tanh(A) * S, K)"}',
            "the later ones take no tensor of their own",
        ),
        (
            '["A = A + k * v", "S = 0.5 * S + k * v"]',
            "{A: [H, K, V], S: [H, K, V]}",
            '{o: "sum(q * A, K) * S"}',
            "the whole of S is taken",
        ),
    ],
)
def test_why_there_is_no_cut(update, states, output, reason):
    with pytest.raises(NotStagedError, match=re.escape(reason)):
        cut(spec(update, output, states))


def test_nothing_to_cut():
    assert cut(spec('["S = S + k * v"]', READ, "{S: [H, K, V]}")) is None
    assert cut(spec('["A = tanh(A) + k"]', '{o: "q * A"}', "{A: [H, K]}")) is None
