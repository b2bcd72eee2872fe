"""What forward keeps for backward changes no bit of the gradients."""

import textwrap

import pytest
import torch

from seqgen.gpu.table import find_gpu
from seqgen.passes.lower import lower
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from seqgen.spec.loader import parse_spec
from tests.interpreted.operators import SIZES, build, example
from tests.reference.samples import draw

OUTPUT_GATES = lower(
    parse_spec(
        textwrap.dedent("""
            operator: output_gates
            axes: {K: 16, V: 16}
            inputs: {q: [H, K], k: [H, K], v: [H, V], r: [H, V]}
            state: {S: [H, K, V]}
            update: ["S = S + k * (v - sum(k / K * S, K))"]
            output: {o: "sum(q * S, K) * r"}
        """),
        "output_gates.yaml",
    )
)
"""The gradient of r asks again for what was read of the state."""
VALUE_GATES = lower(
    parse_spec(
        textwrap.dedent("""
            operator: value_gates
            axes: {K: 16, V: 16}
            inputs: {q: [H, K], k: [H, K], v: [H, V], g: [H, V], r: [H, V]}
            state: {S: [H, K, V]}
            update: ["S = sigmoid(g) * S + k * v"]
            output: {o: "sum(q * S, K) * r"}
        """),
        "value_gates.yaml",
    )
)
KEY_VALUE_GATES = lower(
    parse_spec(
        textwrap.dedent("""
            operator: key_value_gates
            axes: {K: 16, V: 16}
            inputs: {q: [H, K], k: [H, K], v: [H, V], f: [H, K], g: [H, V], r: [H, V]}
            state: {S: [H, K, V]}
            update: ["S = sigmoid(f) * sigmoid(g) * S + k * v"]
            output: {o: "sum(q * S, K) * r"}
        """),
        "key_value_gates.yaml",
    )
)
OWN = {
    "output_gates": OUTPUT_GATES,
    "value_gates": VALUE_GATES,
    "key_value_gates": KEY_VALUE_GATES,
}


@pytest.mark.parametrize(
    "name",
    [
        *("simple_gla", "gated_delta_rule", "gla", "value_decay", "kda", "gated_oja"),
        *("key_value_decay", "key_value_gates"),
        *("output_gates", "value_gates"),
    ],
)
def test_gradients_do_not_depend_on_what_is_kept(name, tmp_path, monkeypatch):
    op = OWN.get(name) or example(name)
    schedule = choose_schedule(op, analyse(op), find_gpu("h200"))
    module = build(op, schedule, tmp_path, num_warps=4)
    setattr(module, f"_{schedule.name}_fits", lambda *sizes: True)
    leaves = {n: t.float().requires_grad_() for n, t in draw(op, 1, 70, sizes=SIZES).items()}

    def gradients(keep, create_graph=False):
        monkeypatch.setattr(module, "KEEP", keep)
        output, _ = getattr(module, name)(**leaves)
        return torch.autograd.grad(output.sum(), leaves.values(), create_graph=create_graph)

    kept = gradients(2)
    assert all(map(torch.equal, kept, gradients(1)))
    assert all(map(torch.equal, kept, gradients(0)))
    # With create_graph the operator runs behind the dispatcher, which keeps only arguments.
    assert all(map(torch.equal, kept, gradients(2, create_graph=True)))
