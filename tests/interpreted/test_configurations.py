"""Configurations that the tuner may choose, each kernel's by itself: all give the same results."""

import random

import pytest
import torch

from seqgen.gpu.table import find_gpu
from seqgen.passes.structure import analyse
from seqgen.plan.choose import choose_schedule
from tests.interpreted.operators import compare, example, load
from tests.reference.samples import draw, draw_states

CHUNKWISE = ("gla", "simple_gla", "kda", "gdn2", "delta_rule", "gated_oja", "key_value_decay")


@pytest.mark.parametrize("name", CHUNKWISE)
@pytest.mark.parametrize("seed", [1, 2])
def test_kernels_tuned_apart(name, seed, tmp_path):
    """In fp16, where blocks are as wide as on a GPU and all decays are strong."""
    chance = random.Random(f"{name} {seed}")
    op = example(name)
    schedule = choose_schedule(op, analyse(op), find_gpu("h100"))
    module = load(op, schedule, tmp_path, {})
    for space in schedule.spaces:
        config = chance.choice(list(space.configs()))
        module.CONFIGS[space.kernel] = [{"config": config, "origin": "drawn"}]
    size = {"H": 1, "HV": 1, "K": chance.choice([96, 128, 192]), "V": chance.choice([64, 80, 128])}
    sizes = {axis.name: size[axis.name] for axis in op.axes}
    tensors = draw(op, 1, 70, sizes=sizes)
    limits = {"gradient of g": 0.02, "gradient of beta": 0.02, "gradient of A_log": 0.02}
    states = draw_states(op, 1, sizes=sizes)
    compare(module, op, tensors, states, None, None, 0.01, limits, torch.float16)
