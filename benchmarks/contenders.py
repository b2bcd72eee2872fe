"""From an operator's entry in the registry to functions that can be called."""

from __future__ import annotations

from pathlib import Path

from benchmarks.generated import load_file
from benchmarks.operator import Call, Operator, ours

OURS = "seqgen"
ROOT = Path(__file__).resolve().parents[1]


def build(operator: Operator) -> str:
    """Builds our operator from its spec; returns the path of the generated file."""
    import seqgen

    return str(seqgen.load_operator(ROOT / operator.spec).__file__)


def first_line(problem: BaseException) -> str:
    """An exception in one line of a table."""
    text = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {text[0] if text else ''}"[:200]


def names(operator: Operator) -> list[str]:
    """All contenders of an operator, ours first."""
    return [OURS, *(peer.name for peer in operator.peers)]


def load(operator: Operator, contender: str, file: str | None) -> Call:
    """One contender, ready to be called.

    Args:
        operator: entry of the registry.
        contender: one of ``names(operator)``.
        file: our generated file, needed if the contender is ours.

    Raises:
        ImportError: it is not installed, or our file is not there.
    """
    if contender != OURS:
        return next(peer for peer in operator.peers if peer.name == contender).load()
    if file is None:
        raise ImportError("no generated file")
    return ours(load_file(file))
