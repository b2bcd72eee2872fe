"""Segments in parallel give what the float64 interpreter gives token after token, in fp32."""

import pytest
import torch

from seqgen.plan.scan import plan_scan
from tests.interpreted.operators import build, compare
from tests.interpreted.test_recurrent import SMALL, sizes_of
from tests.passes.operator_table import from_text, recurrence
from tests.reference.samples import draw, draw_states

AFFINE = ["hgrn", "mamba1", "retnet", "linear_attention", "key_value_decay"]
LEVELS = ["mlstm", "abc", "mamba3", "gated_deltanet"]


def check(op, folder, length=11, batch=2, initial=True, seeds=None, limit=1e-5, borders=None, **more):
    sizes = sizes_of(op)
    tensors = draw(op, batch, length, sizes=sizes)
    count = batch if borders is None else len(borders) - 1
    states = draw_states(op, count, sizes=sizes) if initial else {}
    cu_seqlens = None if borders is None else torch.tensor(borders, dtype=torch.int32)
    module = build(op, plan_scan(op), folder, **{**SMALL, **more})
    module._SHORTEST = 4
    return compare(module, op, tensors, states, cu_seqlens, seeds, limit)


@pytest.mark.parametrize("name", ["hgrn", "mamba1", "retnet", "linear_attention", "key_value_decay", "mlstm", "abc", "mamba3", "s4d", "rwkv6", "slstm"])
def test_all(name, tmp_path):
    op = recurrence(name)
    check(op, tmp_path)
    check(op, tmp_path, 8)
    check(op, tmp_path, 16, 1, borders=[0, 5, 5, 14, 16])
