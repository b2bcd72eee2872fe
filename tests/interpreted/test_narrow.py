"""Key and value axes far narrower than the tiles that hold them, as a GPU runs them."""

import pytest

from seqgen.gpu.table import find_gpu
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from tests.interpreted.operators import compare, example, load
from tests.reference.samples import draw, draw_states

SCHEDULES = {
    "simple_gla": "linear",
    "gla": "vector",
    "value_decay": "transposed",
    "key_value_decay": "key_value",
    "delta_rule": "delta",
    "kda": "vector_delta",
    "gated_oja": "transposed_delta",
}


@pytest.mark.parametrize(("name", "schedule"), SCHEDULES.items())
def test_chunkwise_kernels_pad_narrow_axes(name, schedule, tmp_path):
    op = example(name)
    plan = choose_schedule(op, analyse(op), find_gpu("h200"))
    assert plan.name == schedule
    module = load(op, plan, tmp_path, {"num_warps": 4})
    launched = []
    serial = module.launch_recurrent_forward
    module.launch_recurrent_forward = lambda *args: launched.append(args) or serial(*args)
    sizes = {axis.name: {"K": 16, "V": 20}.get(axis.name, 1) for axis in op.axes}
    tensors, states = draw(op, 1, 66, sizes=sizes), draw_states(op, 1, sizes=sizes)
    compare(module, op, tensors, states, None, None, 1e-4)
    assert not launched and module._NARROWEST == 64
