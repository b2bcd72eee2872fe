"""seqgen: from the equations of a recurrence to tuned Triton kernels.

``seqgen.load("spec.yaml")`` builds an operator and returns its function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["OperatorBuilder", "SeqgenError", "load", "load_operator", "load_spec"]

if TYPE_CHECKING:
    from seqgen.errors import SeqgenError
    from seqgen.loading import load, load_operator
    from seqgen.spec.builder import OperatorBuilder
    from seqgen.spec.loader import load_spec

_HOMES = {
    "OperatorBuilder": "seqgen.spec.builder",
    "SeqgenError": "seqgen.errors",
    "load": "seqgen.loading",
    "load_operator": "seqgen.loading",
    "load_spec": "seqgen.spec.loader",
}


def __getattr__(name: str) -> Any:
    """Public names, imported at first use: ``import seqgen`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'seqgen' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
