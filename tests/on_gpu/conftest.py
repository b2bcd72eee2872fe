"""Tests of compiled kernels: ``pytest -m gpu tests/on_gpu`` on a machine with an NVIDIA GPU."""

import pytest
import torch

from tests.operator.conftest import load
from tests.operator.operators import NAMES

__all__ = ["load", "module"]


@pytest.fixture(params=[*NAMES, "gla", "value_decay", "key_value_decay", "rwkv6", "kda"])
def module(request, load):
    """Contrasting operators in turn, also of the schedules that only larger sizes reach."""
    return load(request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Everything below this folder needs a GPU; without one it is skipped, not failed."""
    here = [item for item in items if "on_gpu" in item.path.parts]
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
