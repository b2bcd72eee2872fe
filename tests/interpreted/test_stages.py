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
from tests.interpreted.operators import check_chunkwise, example
from tests.reference.samples import draw

SCHEDULES = {"mlstm": "linear", "preconditioned_delta": "vector_delta", "gsa": "vector"}
SCHEDULES["abc"] = "vector"
SIZES = {"M": 20}


def check(name, folder, *args, reverse=False, **options):
    op = dataclasses.replace(example(name), reverse=reverse)
    return check_chunkwise(SCHEDULES[name], op, folder, *args, sizes=SIZES, **options)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("length", [1, 63, 64, 65])
def test_everything(name, length, tmp_path):
    check(name, tmp_path, length, 1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_packed_and_reversed(name, tmp_path):
    check(name, tmp_path, 130, 1, borders=[0, 17, 17, 90, 130], reverse=True)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_initial_state_and_single_seeds(name, tmp_path):
    last = {"mlstm": "C", "preconditioned_delta": "A", "gsa": "Hk", "abc": "z"}[name]
    check(name, tmp_path, initial=False, seeds=[example(name).outputs[0].name])
    check(name, tmp_path, 20, seeds=[f"{last}_final"])
