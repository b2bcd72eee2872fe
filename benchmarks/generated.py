"""Loads a generated file; imports nothing itself, so that the file is the first to import torch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_file(file: str) -> Callable[..., Any]:
    """The operator that a generated file defines; a file loaded before is not run again."""
    name = f"raced_{Path(file).stem}"
    module = sys.modules.get(name)
    if module is None or module.__file__ != file:
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        # torch looks the module of a custom operator up while the file is still being imported.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    operator: Callable[..., Any] = getattr(module, module.SPEC["operator"])
    return operator
