"""Importing the peers as their users would, where their packaging gets in the way."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any


def fla_operator(module: str, function: str) -> Callable[..., Any]:
    """One operator of FLA, with its Hopper guard on the gated backward lifted.

    FLA refuses that backward on Hopper with Triton < 3.7.1, because Triton miscompiles it at
    K = 64; at other sizes it is right, and its speed is representative at all of them. The race
    checks its numbers and marks what is wrong.
    """
    from fla.ops.common import chunk_o

    chunk_o.IS_NVIDIA_HOPPER = False
    return getattr(importlib.import_module(f"fla.ops.{module}"), function)


def mamba_chunk_scan() -> Callable[..., Any]:
    """``mamba_chunk_scan_combined`` without mamba_ssm's compiled extensions.

    The package's ``__init__`` imports its CUDA scan, which the Triton operator does not need, so
    an empty package of that name takes its place.
    """
    if "mamba_ssm" not in sys.modules:
        spec = importlib.util.find_spec("mamba_ssm")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("mamba_ssm is not installed")
        package = types.ModuleType("mamba_ssm")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["mamba_ssm"] = package
    return importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
